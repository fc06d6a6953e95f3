"""Inputs of networks: dtypes, byte order and order in memory at the border to torch."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from rs_embed import ModelError, OutputSpec
from rs_embed.engine.preprocessing import compute_inputs
from rs_embed.models import MODELS, get_adapter
from rs_embed.models.base import Image
from rs_embed.planning.model_info import Prep

from .test_engine import Toy, ToyOptions, image, run

NAMES = sorted({get_adapter(name).info.id for name in MODELS})


def read_only(pixels: np.ndarray) -> np.ndarray:
    pixels = pixels.copy()
    pixels.flags.writeable = False
    return pixels


#: The same numbers in other dtypes, byte orders and orders in memory.
FORMS = {
    "Fortran order": np.asfortranarray,
    "channels last": lambda p: np.ascontiguousarray(p.transpose(0, 2, 3, 1)).transpose(0, 3, 1, 2),
    "reversed": lambda p: np.ascontiguousarray(p[:, :, ::-1, ::-1])[:, :, ::-1, ::-1],
    "every second": lambda p: np.repeat(p, 2, axis=3)[..., ::2],
    "big-endian": lambda p: p.astype(">u2"),
    "big-endian float64": lambda p: p.astype(">f8"),
    "float16": lambda p: p.astype(np.float16),
    "read-only": read_only,
    "read-only float32": lambda p: read_only(p.astype(np.float32)),
}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("name", NAMES)
def test_tensors_do_not_depend_on_the_form_of_the_pixels(name, form):
    """An image of 40 x 40 pixels is resized by every model that has a size."""
    adapter = get_adapter(name)
    options = adapter.info.options(**({} if name == "mosaiks" else {"weights": "random"}))
    for modality, about in adapter.info.modalities.items():
        pixels = np.random.default_rng(0).integers(0, 2048, (1, len(about.sensor.bands), 40, 40)).astype(np.uint16)
        plain = Image(modality, pixels, about.sensor.bands, about.sensor.scale_m, 12.4, 51.3, ("2022-07-01",))
        wanted = compute_inputs(lambda one: adapter.preprocess(one, options), plain)
        other = replace(plain, pixels=FORMS[form](pixels))
        found = compute_inputs(lambda one: adapter.preprocess(one, options), other)
        assert found.keys() == wanted.keys()
        for key, tensor in found.items():
            assert tensor.dtype == np.float32 and tensor.flags.c_contiguous
            assert tensor.tobytes() == wanted[key].tobytes()


class Arranged(Toy):
    """Returns the pixels of every second image in another form."""

    def __init__(self, form) -> None:
        self.form = form

    def preprocess(self, image, options):
        inputs = super().preprocess(image, options)
        return inputs | ({"pixels": self.form(inputs["pixels"])} if round(image.lon * 100) % 2 else {})


@pytest.mark.parametrize("prep", [Prep("native"), Prep("tile", 8)])
@pytest.mark.parametrize(
    "form",
    [np.asfortranarray, lambda p: p.astype(">f4"), np.float64, lambda p: np.ascontiguousarray(p.T).T],
    ids=["Fortran order", "big-endian", "float64", "transposed"],
)
def test_bits_do_not_depend_on_what_an_adapter_returns_for_others_of_a_batch(form, prep):
    images = [image(i, 16, 24, frames=3) for i in range(6)]
    wanted = run(images, ToyOptions(), OutputSpec.grid(), Toy(), batch=3, prep=prep)
    found = run(images, ToyOptions(), OutputSpec.grid(), Arranged(form), batch=3, prep=prep)
    for i, array in found.items():
        assert array.flags.c_contiguous and array.dtype == np.float32
        assert array.tobytes() == wanted[i].tobytes()


def test_integers_of_an_adapter_stay_integers_and_objects_are_refused():
    found = compute_inputs(lambda one: {"month": np.array([7], ">i8"), "flag": np.array(True)}, image(0))
    assert (found["month"].dtype, found["flag"].shape) == (np.dtype("=i8"), ())
    with pytest.raises(ModelError, match=r"the adapter returns 'a' of dtype object; allowed: integers or floats"):
        compute_inputs(lambda one: {"a": np.array([None])}, image(0))


@pytest.mark.parametrize("name", NAMES)
def test_values_beyond_float32_are_refused(name):
    """float64 rasters with the lowest number for no data, which nobody has declared."""
    adapter = get_adapter(name)
    options = adapter.info.options(**({} if name == "mosaiks" else {"weights": "random"}))
    (modality, about), *_ = adapter.info.modalities.items()
    pixels = np.full((1, len(about.sensor.bands), 40, 40), 900.0)
    pixels[..., 0, 0] = -1.7976931348623157e308
    one = Image(modality, pixels, about.sensor.bands, about.sensor.scale_m, 12.4, 51.3, ("2022-07-01",))
    with pytest.raises(
        ModelError, match=r"the values -1\.79769e\+308\.\.900 are out of the range of float32; allowed: "
    ):
        adapter.preprocess(one, options)


def test_integers_are_rounded_to_the_nearest_float32():
    pixels = np.full((1, 4, 8, 8), 2**24 + 1, np.uint32)
    found = get_adapter("mosaiks").preprocess(
        replace(image(0), pixels=pixels), get_adapter("mosaiks").info.options(input_scale=2**-24, features=2)
    )
    assert (found["pixels"] == 1).all()
