"""Missing and invalid pixels, in one tile or in a whole image."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from rs_embed import ModelError, OutputSpec
from rs_embed.models.shared.inputs import to_digital_numbers, to_linear_power
from rs_embed.planning.model_info import Prep

from .test_engine import Toy, ToyOptions, embedded, image, run

TILES = Prep("tile", 8)


class Checked(Toy):
    """Checks its pixels as the foundation models do."""

    def __init__(self, check) -> None:
        self.check = check

    def preprocess(self, image, options):
        return super().preprocess(replace(image, pixels=self.check(image)), options)


@pytest.mark.parametrize("empty", [0, np.nan])
@pytest.mark.parametrize("check", [to_digital_numbers, to_linear_power])
def test_a_tile_without_data_does_not_refuse_the_image(check, empty):
    one = image(1, 16, 24, frames=3)
    one.pixels[..., :8, :8] = empty
    (found,) = embedded([one], ToyOptions(), OutputSpec.grid(), Checked(check), prep=TILES).values()
    assert found.metadata["input_prep"]["tiles"] == 6
    plain = image(1, 16, 24, frames=3)
    plain.pixels[..., :8, :8] = 0
    expected = embedded([plain], ToyOptions(), OutputSpec.grid(), Toy(), prep=TILES)[0].array
    assert np.array_equal(found.array[:, 2:], expected[:, 2:]), "the other tiles are as ever"


BAD = [
    (to_digital_numbers, lambda p: p * 0, "every value of the image is 0"),
    (to_digital_numbers, lambda p: p * np.nan, "no finite value"),
    (to_digital_numbers, lambda p: p / 10000, "looks like reflectance"),
    (to_linear_power, lambda p: p * 0, "every value of the image is 0"),
    (to_linear_power, lambda p: p - 6000, "100 % of the values are negative"),
]


@pytest.mark.parametrize("prep", [Prep("resize", 8), TILES])
@pytest.mark.parametrize(("check", "spoil", "words"), BAD)
def test_an_invalid_image_is_refused_whole_and_in_tiles(check, spoil, words, prep):
    one = image(1, 16, 16, frames=3)
    one.pixels[:] = spoil(one.pixels)
    (error,) = run([one], ToyOptions(), adapter=Checked(check), prep=prep).values()
    assert isinstance(error, ModelError) and words in str(error)


@pytest.mark.parametrize("output", [OutputSpec.pooled(), OutputSpec.grid()])
def test_an_embedding_that_is_not_finite_is_an_error_of_its_image(output):
    images = [image(i, 8, 8, frames=3) for i in range(3)]
    images[1].pixels[0, 0, 0, 0] = np.inf
    found = run(images, ToyOptions(), output, Toy(), batch=3)
    assert isinstance(found[1], ModelError) and "the embedding has NaN or infinity" in str(found[1])
    assert all(np.isfinite(found[i]).all() for i in (0, 2))
