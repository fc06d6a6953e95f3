"""The engine: batches, order, errors, and what its interface supports."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import pytest

from rs_embed import ModelError, OutputSpec, SensorSpec
from rs_embed.engine.engine import Engine, resolve_settings
from rs_embed.machine import devices
from rs_embed.machine.cores import CoreShare
from rs_embed.models import MODELS, get_adapter
from rs_embed.models.base import Image
from rs_embed.models.mosaiks import ADAPTER, Options
from rs_embed.planning.model_info import Frames, Modality, ModelInfo, Prep
from rs_embed.request.fields import option

BANDS = ("B2", "B3", "B4", "B8")


def image(seed: int, height: int = 24, width: int = 20, frames: int = 1) -> Image:
    pixels = np.random.default_rng(seed).integers(0, 6000, (frames, 4, height, width)).astype(np.float32)
    return Image("s2", pixels, BANDS, 10.0, 12.4 + seed / 100, 51.3, tuple(f"2022-0{i + 1}-15" for i in range(frames)))


def run(images, options=None, output=None, adapter=ADAPTER, batch=None, threads=1, device="cpu", prep=Prep("native")):
    """Arrays, or errors, by number of the image."""
    found = embedded(images, options, output, adapter, batch, threads, device, prep)
    return {k: getattr(v, "array", v) for k, v in found.items()}


def embedded(
    images, options=None, output=None, adapter=ADAPTER, batch=None, threads=1, device="cpu", prep=Prep("native")
):
    options = options or Options(features=32)
    how = resolve_settings(adapter, device, batch, CoreShare(threads))
    with Engine(adapter, options, "s2", BANDS, output or OutputSpec.pooled(), how, prep=prep) as engine:
        return dict(engine.run(enumerate(images)))


@pytest.mark.parametrize("output", [OutputSpec.pooled(), OutputSpec.grid()])
@pytest.mark.parametrize("batch", [1, 3, 8])
def test_bits_do_not_depend_on_order_batch_padding_or_workers(output, batch):
    images = [image(i) for i in range(11)]
    reference = run(images, output=output, batch=batch)
    turned = run(images[::-1], output=output, batch=batch, threads=3)
    alone = [run([one], output=output, batch=batch)[0] for one in images]
    for i in range(11):
        assert reference[i].tobytes() == turned[10 - i].tobytes() == alone[i].tobytes()


def test_batch_sizes_agree_within_the_promised_tolerance():
    images = [image(i) for i in range(9)]
    first, second = run(images, batch=1), run(images, batch=4)
    assert max(float(np.abs(first[i] - second[i]).max()) for i in range(9)) <= 1e-5


def test_images_of_many_shapes_are_all_embedded_alone():
    images = [image(i, 20 + i % 30, 20) for i in range(60)]
    found = run(images, batch=4)
    assert sorted(found) == list(range(60))
    for i in (0, 31, 59):
        assert found[i].tobytes() == run([images[i]], batch=4)[0].tobytes()


def test_an_image_that_is_too_small_fails_alone():
    found = run([image(0), image(1, 2, 9), image(2)], batch=2)
    assert isinstance(found[1], ModelError)
    assert str(found[1]) == "an image of 9 x 2 pixels is too small; allowed: at least 3 pixels a side"
    assert found[0].shape == found[2].shape == (32,)


def test_model_ids_have_aliases_and_suggestions():
    assert get_adapter("MOSAIKS") is get_adapter("rcf") is ADAPTER
    with pytest.raises(ModelError, match=r"models: 'mosaik' is unknown \(did you mean 'mosaiks'\?\); allowed: mosaiks"):
        get_adapter("mosaik")


def test_a_missing_device_is_an_error():
    import torch

    if torch.cuda.is_available():
        pytest.skip("this machine has the device")
    with pytest.raises(ModelError, match=r"device: 'cuda' was requested.*allowed here: 'auto', "):
        resolve_settings(ADAPTER, "cuda", None, CoreShare(1))


@dataclass(frozen=True)
class ToyOptions:
    preset: str = option("official", choices=("official", "rs-embed"))
    size: int = option(8)


class Toy:
    """A transformer in miniature: class token, patch tokens, several frames, location and date
    conditioning, two modalities, a source that follows options and window. Shows that the
    interface supports what the models need."""

    info = ModelInfo(
        id="toy",
        version=1,
        summary="",
        citation="",
        licence="",
        modalities={
            "s2": Modality(SensorSpec("COPERNICUS/S2_SR_HARMONIZED", BANDS), "DN"),
            "s1": Modality(SensorSpec("COPERNICUS/S1_GRD", ("VV", "VH")), "dB"),
        },
        options=ToyOptions,
        dim=lambda options: 6,
        size=lambda options: options.size,
        square=True,
        frames=lambda options, window: Frames("equal", 3),
        batch={"cpu": 4},
    )

    def load(self, options, modality, bands, weights):
        import torch

        generator = torch.Generator().manual_seed(0)
        network = torch.nn.Conv3d(len(bands), 6, (1, 4, 4), (1, 4, 4))
        for parameter in network.parameters():
            parameter.data = torch.randn(parameter.shape, generator=generator)
        return network.requires_grad_(False).eval()

    def preprocess(self, image, options):
        months = np.array([int(d[5:7]) for d in image.dates], np.float32)
        pixels = image.pixels[..., : options.size, : options.size].transpose(1, 0, 2, 3) / 10000
        return {"pixels": pixels, "place": np.array([image.lat, image.lon], np.float32), "months": months}

    def forward(self, network, batch, options):
        import torch

        tokens = network(batch["pixels"])  # (B, D, T, h, w)
        tokens = tokens + torch.sin(batch["months"])[:, None, :, None, None]
        grid = tokens.mean(2)
        cls = grid.mean((2, 3)) + batch["place"].sum(1, keepdim=True)
        return torch.cat([cls[:, :, None], grid.flatten(2)], dim=2), grid.shape[2:]

    def pooled(self, tokens, output, options):
        return tokens[0][:, :, 0]

    def grid(self, tokens, output, options):
        return tokens[0][:, :, 1:].unflatten(2, tokens[1])

    def describe_weights(self, network, options):
        return {"pretrained": False}


def test_the_interface_supports_tokens_frames_and_conditioning():
    images = [image(i, 8, 8, frames=3) for i in range(6)]
    grids = run(images, ToyOptions(), OutputSpec.grid(), Toy())
    vectors = run(images, ToyOptions(), OutputSpec.pooled(), Toy())
    assert grids[0].shape == (6, 2, 2)
    assert vectors[0].shape == (6,)
    # location and dates reach the network, image by image, also in a shared and padded batch
    moved = run([*images[:5], replace(images[5], lon=0.0)], ToyOptions(), OutputSpec.pooled(), Toy())
    assert np.allclose(vectors[5] - moved[5], images[5].lon, atol=1e-4)
    assert all(vectors[i].tobytes() == moved[i].tobytes() for i in range(5))
    earlier = replace(images[0], dates=("2022-05-15",) * 3)
    assert not np.allclose(run([earlier], ToyOptions(), OutputSpec.grid(), Toy())[0], grids[0])


@pytest.mark.parametrize("pooling", ["mean", "max"])
def test_a_squared_image_is_cropped_back_alone_and_in_a_mixed_batch(pooling):
    options, roi = ToyOptions(size=24), (0.25, 0.75, 0.0, 0.4)
    plain = [image(i, 24, 24, frames=3) for i in range(5)]
    mixed = [replace(one, roi=roi) if i % 2 else one for i, one in enumerate(plain)]
    grids = run(plain, options, OutputSpec.grid(), Toy())
    cropped = run(mixed, options, OutputSpec.grid(), Toy())
    pooled = run(mixed, options, OutputSpec.pooled(pooling), Toy())
    vectors = run(plain, options, OutputSpec.pooled(pooling), Toy())
    for i in range(5):
        if i % 2:
            part = grids[i][:, 1:5, 0:3]
            assert cropped[i].tobytes() == part.tobytes()
            expected = part.max((1, 2)) if pooling == "max" else part.mean((1, 2))
            np.testing.assert_allclose(pooled[i], expected, rtol=1e-6)
        else:
            assert cropped[i].tobytes() == grids[i].tobytes()
            assert pooled[i].tobytes() == vectors[i].tobytes(), "a square ROI keeps the model's own vector"


@pytest.mark.parametrize(("output", "method"), [(OutputSpec.pooled(), "pooled"), (OutputSpec.grid(), "grid")])
def test_an_adapter_that_returns_another_shape_is_refused(output, method):
    class Wrong(type(ADAPTER)):
        pass

    right = getattr(ADAPTER, method)
    setattr(Wrong, method, lambda self, *arguments: right(*arguments)[:, None])
    (error,) = run([image(0)], output=output, adapter=Wrong()).values()
    assert isinstance(error, ModelError)
    assert f"the adapter of mosaiks returns {method} of shape (" in str(error) and "allowed: (" in str(error)


def test_a_registry_line_with_another_id_than_the_adapter_is_refused(monkeypatch):
    monkeypatch.setitem(MODELS, "mosaic", "mosaiks")
    with pytest.raises(ModelError, match=r"'mosaic' is 'mosaiks' in models/mosaiks\.py; allowed: the same id"):
        get_adapter("mosaic")


def test_an_error_in_a_forward_pass_concerns_every_image_of_the_batch():
    class Broken(Toy):
        def forward(self, network, batch, options):
            if (batch["pixels"] > 1).any():
                raise RuntimeError("broken")
            return super().forward(network, batch, options)

    images = [image(i, 8, 8, frames=3) for i in range(6)]
    images[1].pixels[:] = 30000
    found = run(images, ToyOptions(), adapter=Broken(), batch=2)
    assert [isinstance(found[i], RuntimeError) for i in range(6)] == [True, True, False, False, False, False]


class Hungry(Toy):
    """Has memory for a limited number of images at a time."""

    def __init__(self, limit: int) -> None:
        self.limit, self.sizes = limit, []

    def forward(self, network, batch, options):
        self.sizes.append(len(batch["pixels"]))
        if len(batch["pixels"]) > self.limit:
            raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes.")
        return super().forward(network, batch, options)


def test_out_of_memory_halves_the_batch_permanently_with_a_message(capfd):
    images = [image(i, 8, 8, frames=3) for i in range(20)]
    hungry = Hungry(3)
    found = embedded(images, ToyOptions(), adapter=hungry, batch=8)
    assert {e.metadata["batch"] for e in found.values()} == {2}
    found = {k: e.array for k, e in found.items()}
    small = run(images, ToyOptions(), adapter=Toy(), batch=2)
    assert all(found[i].tobytes() == small[i].tobytes() for i in range(20))
    assert hungry.sizes == [8, 4, *[2] * 10]
    assert (
        "toy: out of memory with 8 images per batch, continuing with 4 (infer_batch_size=4 avoids"
        in capfd.readouterr().err
    )
    assert all(isinstance(e, RuntimeError) for e in run(images, ToyOptions(), adapter=Hungry(0), batch=8).values())


def test_images_are_read_a_few_at_a_time_and_an_unreadable_one_fails_alone():
    begun, largest = [], [0]

    def reader(i):
        def read():
            begun.append(i)
            if i == 7:
                raise OSError("gone")
            return image(i)

        return read

    with Engine(
        ADAPTER,
        Options(features=8),
        "s2",
        BANDS,
        OutputSpec.pooled(),
        resolve_settings(ADAPTER, "cpu", 4, CoreShare(1)),
    ) as engine:
        done = 0
        for key, result in engine.run((i, reader(i)) for i in range(200)):
            done += 1
            largest[0] = max(largest[0], len(begun) - done)
            assert isinstance(result, OSError) == (key == 7)
    assert done == 200
    assert largest[0] < 60, "reading must not run away from computing"


@pytest.mark.parametrize(("visible", "expected"), [("0,1", 1), ("", 0), ("-1", 0)])
def test_jobs_ask_for_a_gpu_where_there_is_one(monkeypatch, visible, expected):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert [devices.gpus_wanted(d) for d in ("auto", "cpu", "mps", "cuda")] == [expected, 0, 0, 1]
