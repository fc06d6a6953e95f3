"""Masks of raster files: masked pixels do not enter the composite, and the record counts them."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rs_embed import MaskSpec, ModelError, ProviderError
from rs_embed.planning.model_info import Frames
from rs_embed.products import PRODUCTS
from rs_embed.providers.rasters.catalogue import Row
from rs_embed.providers.rasters.scene_masks import match_tests
from rs_embed.providers.rasters.scenes import decode

from ...support.rasters import at, catalogue, chip, noise, write

S2, LANDSAT, HLS = "COPERNICUS/S2_SR_HARMONIZED", "LANDSAT/LC08/C02/T1_L2", "NASA/HLS/HLSS30/v002"
CLOUDY = {0, 1, 3, 8, 9, 10}  # Sentinel-2 SCL


def scene(folder, number: int, day: str, classes: np.ndarray, collection=S2, quality="SCL", **more) -> list[dict]:
    """Rows of a scene with two bands in one file and the quality band in another, 20 m pixels."""
    about = {"collection": collection, "datetime": day, "scene": f"scene{number}"}
    write(folder / f"{number}.tif", noise(number), nodata=0)
    write(folder / f"{number}q.tif", classes[None], scale=20.0)
    return [
        about | {"path": f"{number}.tif", "bands": "B2 B3"} | more,
        about | {"path": f"{number}q.tif", "bands": quality} | more,
    ]


def classes_of(seed: int, values, dtype="uint8") -> np.ndarray:
    """(30, 30) quality values, chosen at random."""
    random = np.random.default_rng(seed)
    return random.choice(np.array(values, dtype), (30, 30))


def enlarged(classes: np.ndarray) -> np.ndarray:
    return classes.repeat(2, 0).repeat(2, 1)


def test_masked_pixels_do_not_enter_the_median(tmp_path):
    classes = [classes_of(i, range(12)) for i in range(3)]
    rows = [row for i in range(3) for row in scene(tmp_path, i, f"2022-07-0{i + 1}", classes[i])]
    catalogue(tmp_path, *rows)
    masked, _ = chip(tmp_path, at(30, 30, 100), collection=S2, mask="clouds")
    window = np.s_[20:40, 20:40]
    clear = np.array([~np.isin(enlarged(c), [*CLOUDY])[window] for c in classes])
    values = np.array([noise(i)[:, *window] for i in range(3)], float)
    median = np.ma.median(np.ma.masked_array(values, np.broadcast_to(~clear[:, None], values.shape)), axis=0)
    some = clear.any(0)
    expected = median.filled(0)
    assert np.array_equal(masked.pixels, expected.astype(np.float32))
    assert masked.coverage == (pytest.approx(some.mean()),) * 2
    observed = np.array([(enlarged(c) != 0)[window] for c in classes])
    share = (observed & ~clear).sum() / observed.sum()
    record = masked.provenance["mask"]
    assert record["masked"] == pytest.approx(share, abs=1e-6)
    assert (record["kind"], record["band"]) == ("clouds", "SCL") and "cloud_shadow" in record["classes"]
    plain, _ = chip(tmp_path, at(30, 30, 100), collection=S2)
    assert plain.coverage == (1.0, 1.0) and "mask" not in plain.provenance


def test_classes_replace_the_default(tmp_path):
    catalogue(tmp_path, *scene(tmp_path, 0, "2022-07-01", classes_of(0, [4, 9, 11])))
    classes = enlarged(classes_of(0, [4, 9, 11]))[20:40, 20:40]
    for names, values in ((("snow",), [11]), (("SNOW", "cloud_high_probability"), [9, 11])):
        found, _ = chip(tmp_path, at(30, 30, 100), collection=S2, mask=MaskSpec(classes=names))
        assert np.array_equal(found.pixels[0] == 0, np.isin(classes, values))


@pytest.mark.parametrize(
    ("collection", "quality", "clear", "masked", "dtype"),
    [
        (LANDSAT, "QA_PIXEL", [21824, 5440, 1 << 5, 1 << 7], [22280, 1 << 1, 1 << 2, 1 << 3, 1 << 4], "uint16"),
        (HLS, "Fmask", [0, 64, 192, 1 << 4, 1 << 5], [1 << 1, 1 << 2, 1 << 3, 194], "uint8"),
        ("MODIS/061/MOD09GA", "state_1km", [0, 3, 8, 1 << 13], [1, 2, 4, 2 << 8, 3 << 8, 1 << 10], "uint16"),
    ],
)
def test_bits_of_other_products(tmp_path, collection, quality, clear, masked, dtype):
    classes = classes_of(1, [*clear, *masked], dtype)
    catalogue(tmp_path, *scene(tmp_path, 0, "2022-07-01", classes, collection, quality))
    found, _ = chip(tmp_path, at(30, 30, 100), collection=collection, mask="clouds")
    expected = np.isin(enlarged(classes)[20:40, 20:40], masked)
    assert np.array_equal(found.pixels[0] == 0, expected)
    assert found.provenance["mask"]["masked"] == pytest.approx(expected.mean(), abs=1e-6)


def test_the_quality_band_is_never_scaled(tmp_path):
    """Scale and offset of a scene are those of its spectral bands."""
    classes = classes_of(2, [0, 2, 8], "uint8")
    rows = scene(tmp_path, 0, "2022-07-01", classes, HLS, "Fmask", scale=0.0001, offset=0.5)
    catalogue(tmp_path, *rows)
    found, _ = chip(tmp_path, at(30, 30, 100), collection=HLS, mask="clouds")
    assert np.array_equal(found.pixels[0] == 0, enlarged(classes)[20:40, 20:40] != 0)
    numbers, _ = chip(tmp_path, at(30, 30, 100), collection=HLS, bands=("B2", "Fmask"))
    assert np.array_equal(numbers.pixels[1], enlarged(classes)[20:40, 20:40])
    assert numbers.pixels[0].min() > 0.5


def test_a_scene_without_the_quality_band_is_left_out_with_a_warning(tmp_path):
    rows = scene(tmp_path, 0, "2022-07-01", np.full((30, 30), 4, "uint8"))
    rows += scene(tmp_path, 1, "2022-07-02", np.full((30, 30), 4, "uint8"))[:1]
    catalogue(tmp_path, *rows)
    found, _ = chip(tmp_path, at(30, 30, 100), collection=S2, mask="clouds")
    assert np.array_equal(found.pixels, noise(0)[:, 20:40, 20:40])
    assert found.provenance["mask"]["without"] == ["scene1"]
    assert any("1 image has no band SCL" in w for w in found.warnings)


def test_a_chip_of_clouds_has_no_data_and_the_reason(tmp_path):
    catalogue(tmp_path, *scene(tmp_path, 0, "2022-07-01", np.full((30, 30), 9, "uint8")))
    found, _ = chip(tmp_path, at(30, 30, 100), collection=S2, mask="clouds")
    assert found.valid == 0 and found.provenance["mask"]["masked"] == 1
    assert "the mask 'clouds' removes 100.0 % of the observed pixels" in found.warnings


def test_a_cloudy_frame_is_replaced_and_its_scenes_are_counted_once(tmp_path):
    clear, cloudy = np.full((30, 30), 4, "uint8"), np.full((30, 30), 9, "uint8")
    rows = scene(tmp_path, 0, "2022-06-10", clear) + scene(tmp_path, 1, "2022-08-20", cloudy)
    catalogue(tmp_path, *rows)
    found, _ = chip(tmp_path, at(30, 30, 100), Frames("equal", 2), collection=S2, mask="clouds")
    assert np.array_equal(found.pixels[0], found.pixels[1])
    assert found.provenance["mask"]["masked"] == 0.5
    assert (found.dates, found.date_is) == (("2022-06-10", "2022-07-17"), ("acquisition", "window_middle"))
    assert any("frame 1" in w for w in found.warnings)


def test_masks_that_files_do_not_have_are_refused(tmp_path):
    rows = scene(tmp_path, 0, "2022-07-01", np.full((30, 30), 4, "uint8"))
    catalogue(tmp_path, *rows)
    with pytest.raises(ProviderError, match=r"fetch\.mask: 'cloud_score_plus' is available from Earth Engine only"):
        chip(tmp_path, at(30, 30), collection=S2, mask="cloud_score_plus")
    catalogue(tmp_path, *rows[:1])
    with pytest.raises(ProviderError, match=r"fetch\.mask: 'clouds' reads the band 'SCL', which no image"):
        chip(tmp_path, at(30, 30), collection=S2, mask="clouds")
    with pytest.raises(ModelError, match=r"sensor\.mask: 'clouds' is not valid, the collection 'S2' has no known"):
        chip(tmp_path, at(30, 30), mask="clouds")
    with pytest.raises(ModelError, match=r"sensor\.mask\.classes: 'snowy' is not a class of SCL \(did you mean 'snow'"):
        chip(tmp_path, at(30, 30), collection=S2, mask={"classes": ["snowy"]})


def test_a_preview_is_not_taken_for_a_band_with_an_offset():
    row = Row(0, "tci.tif", S2, "2022-07-01T00:00:00Z")
    inside = np.ones((60, 60), bool)
    with pytest.raises(ProviderError, match=r"tci\.tif: 1000 cannot be subtracted from numbers of the dtype uint8"):
        decode(noise(0, dtype="uint8", high=255), inside, [None, None], row, S2, 1000)


@given(st.data())
def test_bit_tests_are_those_of_their_definition(data):
    quality = data.draw(st.sampled_from([p.quality for p in PRODUCTS.values() if p.quality]))
    name = data.draw(st.sampled_from(sorted(quality.classes)))
    test = quality.classes[name]
    number = data.draw(st.integers(0, 2**16 - 1))
    bits = f"{number:016b}"[::-1][test.shift : test.shift + test.width][::-1]
    assert match_tests(np.array([number]), [test.as_list()])[0] == (int(bits, 2) in test.values)
