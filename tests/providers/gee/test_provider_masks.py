"""Masks on Earth Engine: the same pixels and counts as those of the same files read from a folder;
and Cloud Score+."""

from __future__ import annotations

import json

import numpy as np
import pytest

from rs_embed import MaskSpec, ModelError, ProviderError
from rs_embed.planning.model_info import Frames
from rs_embed.planning.source_mask import CLOUD_SCORE_COLLECTION
from rs_embed.providers import composite
from rs_embed.providers.gee import parts
from rs_embed.providers.gee.masks import group_tests

from ...support.gee_runs import S2, Archive, assert_same_chip, chips, settings
from ...support.rasters import at, chip, noise, run, write

DAYS = ("2022-06-10", "2022-06-20", "2022-08-25")
LANDSAT, HLS = "LANDSAT/LC08/C02/T1_L2", "NASA/HLS/HLSS30/v002"
PLACE = np.s_[20:40, 20:40]


def masked_archive(folder, values, collection=S2, quality="SCL", dtype="uint8", bands=("B2", "B3")) -> Archive:
    """Images with holes, each with a file of 20 m pixels that has the quality band at random."""
    archive = Archive(folder)
    for i, day in enumerate((*DAYS, "2021-07-01")):  # the last one is in no window
        random = np.random.default_rng(i)
        pixels = noise(i)
        pixels[random.random(pixels.shape) < 0.2] = 0
        classes = random.choice(np.array(values, dtype), (1, 30, 30))
        path = write(folder / f"{i}.tif", pixels, nodata=0)
        file = write(folder / f"{i}q.tif", classes, scale=20.0)
        cloud = {} if collection == S2 else {"cloud": None}
        archive.add(path, day, bands, collection, more=[(file, (quality,))], **cloud)
    return archive


@pytest.mark.parametrize("how", ["median", "mosaic"])
def test_clouds_of_sentinel_2(tmp_path, how):
    archive = masked_archive(tmp_path, range(12))
    with archive.served() as service:
        for frames in (None, Frames("equal", 3)):
            from_gee, from_files, _ = chips(archive, service, at(30, 30), frames, mask="clouds", composite=how)
            assert_same_chip(from_gee, from_files)
            assert 0.3 < from_gee.provenance["mask"]["masked"] < 0.7
        assert service.counts()["pixels"] == 2, "the counts come with the pixels"


@pytest.mark.parametrize(
    ("collection", "quality", "values", "dtype", "bands"),
    [
        (LANDSAT, "QA_PIXEL", [1, 21824, 5440, 22280, *(1 << i for i in range(1, 16))], "uint16", ("SR_B2", "SR_B3")),
        (HLS, "Fmask", [0, 2, 4, 8, 16, 64, 194, 255], "uint8", ("B2", "B3")),
        ("MODIS/061/MOD09GA", "state_1km", [0, 1, 2, 3, 4, 8, 512, 768, 1024, 8192, 65535], "uint16",
         ("sur_refl_b01", "sur_refl_b02")),
    ],
)  # fmt: skip
def test_bits_of_other_products(tmp_path, collection, quality, values, dtype, bands):
    archive = masked_archive(tmp_path, values, collection, quality, dtype, bands)
    with archive.served() as service:
        from_gee, from_files, _ = chips(archive, service, at(30, 30), collection=collection, mask="clouds", bands=bands)
        assert_same_chip(from_gee, from_files)
        assert 0 < from_gee.provenance["mask"]["masked"] < 1


def test_classes_of_a_request_and_the_quality_band_as_a_band(tmp_path):
    archive = masked_archive(tmp_path, range(12))
    with archive.served() as service:
        about = {"mask": MaskSpec(classes=("snow", "water")), "bands": ("B2", "SCL"), "composite": "mosaic"}
        from_gee, from_files, _ = chips(archive, service, at(30, 30), **about)
        assert_same_chip(from_gee, from_files)
        assert not np.isin(from_gee.pixels[1], [6, 11]).any() and np.isin(from_gee.pixels[1], [3, 9]).any()


def test_an_image_without_the_quality_band_is_left_out(tmp_path):
    archive = masked_archive(tmp_path, range(12))
    archive.make(noise(7), "2022-07-03", name="bare")
    with archive.served() as service:
        for frames in (None, Frames("equal", 3)):
            from_gee, from_files, _ = chips(archive, service, at(30, 30), frames, mask="clouds")
            assert_same_chip(from_gee, from_files)
            assert from_gee.provenance["mask"]["without"] == ["bare"]
            assert any("1 image has no band SCL" in w for w in from_gee.warnings)


def test_images_of_different_types_are_masked(tmp_path):
    archive = masked_archive(tmp_path, range(12))
    random = np.random.default_rng(9)
    path = write(tmp_path / "f.tif", random.random((2, 60, 60)).astype("float32"))
    file = write(tmp_path / "fq.tif", random.choice(np.array([4, 8], "uint16"), (1, 30, 30)), scale=20.0)
    archive.add(path, "2022-07-01", more=[(file, ("SCL",))])
    with archive.served() as service:
        from_gee, from_files, _ = chips(archive, service, at(30, 30), mask="clouds")
        assert_same_chip(from_gee, from_files, 2e-7)


def test_a_place_of_clouds_has_no_data_and_the_reason(tmp_path):
    archive = masked_archive(tmp_path, [8, 9])
    with archive.served() as service:
        from_gee, from_files, _ = chips(archive, service, at(30, 30), mask="clouds")
        assert_same_chip(from_gee, from_files)
        assert from_gee.valid == 0 and from_gee.provenance["mask"]["masked"] == 1
        assert any("removes 100.0 % of the observed pixels" in w for w in from_gee.warnings)


def test_a_cloudy_frame_is_replaced_and_its_images_are_counted_once(tmp_path):
    archive = Archive(tmp_path)
    for i, (day, value) in enumerate(zip(DAYS, (4, 4, 9))):
        file = write(tmp_path / f"{i}q.tif", np.full((1, 30, 30), value, "uint8"), scale=20.0)
        archive.add(write(tmp_path / f"{i}.tif", noise(i)), day, more=[(file, ("SCL",))])
    with archive.served() as service:
        from_gee, from_files, _ = chips(archive, service, at(30, 30), Frames("equal", 2), mask="clouds")
        assert_same_chip(from_gee, from_files)
        assert from_gee.provenance["mask"]["masked"] == pytest.approx(1 / 3, abs=1e-6)
        assert from_gee.date_is == ("bin_middle", "window_middle")


@pytest.mark.parametrize("limit", [5_000, 1_500])
def test_counts_of_split_requests_are_added_once(tmp_path, monkeypatch, limit):
    archive = masked_archive(tmp_path, range(12))
    with archive.served(limit=limit) as service:
        monkeypatch.setattr(parts, "MAX_BYTES", limit)
        monkeypatch.setattr("rs_embed.providers.gee.composites.MAX_PLANES", 4)
        from_gee, from_files, grid = chips(archive, service, at(30, 30), Frames("equal", 3), mask="clouds")
        assert_same_chip(from_gee, from_files)
        bodies = service.requests["pixels"]
        sizes = [b["grid"]["dimensions"] for b in bodies if "observed" in json.dumps(b)]
        assert 0 < len(sizes) < len(bodies)
        assert sum(s["width"] * s["height"] for s in sizes) == grid.width * grid.height
        made = run(tmp_path, [at(30, 30)], backend="gee", gee=settings(service), collection=S2, mask="clouds")
        source = made.plan.sources[0]
        cost = made.provider.fetch_cost(source, source.bands, grid.height, grid.width)
        assert cost.sent == grid.width * grid.height * (2 * 4 + 1 + 2 * 2)


def test_requests_without_a_mask_ask_for_no_quality(tmp_path):
    archive = masked_archive(tmp_path, range(12))
    with archive.served() as service:
        from_gee, from_files, _ = chips(archive, service, at(30, 30))
        assert_same_chip(from_gee, from_files)
        text = json.dumps(service.requests)
        assert not any(word in text for word in ("SCL", "updateMask", "observed", CLOUD_SCORE_COLLECTION))


def test_a_collection_without_the_quality_band_is_refused_at_the_start(tmp_path):
    archive = Archive(tmp_path)
    archive.make(noise(0), DAYS[0])
    with archive.served() as service:
        about = {"backend": "gee", "gee": settings(service)}
        with pytest.raises(ProviderError, match=r"fetch\.mask: 'clouds' reads the band 'SCL', which no image"):
            run(tmp_path, [at(30, 30)], collection=S2, mask="clouds", **about)
        with pytest.raises(ModelError, match=r"sensor\.mask: 'clouds' is not valid, .* has no known quality band"):
            run(tmp_path, [at(30, 30)], collection="COPERNICUS/S2_HARMONIZED", mask="clouds", **about)


def test_tests_of_the_same_bits_are_made_together():
    tests = [[0, 8, [3]], [0, 8, [8, 3]], [10, 2, [2, 3]]]
    assert group_tests(tests) == {(0, 8): [3, 8], (10, 2): [2, 3]}


# Cloud Score+ ------------------------------------------------------------------------------------


def scored_archive(folder, collection=S2) -> tuple[Archive, list]:
    """Images with Cloud Score+, the last one without; and the scores on the 10 m grid."""
    archive, scores = Archive(folder), []
    for i, day in enumerate(DAYS):
        pixels = noise(i)
        pixels[np.random.default_rng(i).random(pixels.shape) < 0.2] = 0
        archive.make(pixels, day, name=f"s{i}", collection=collection, profile={"nodata": 0})
        score = np.random.default_rng(10 + i).random((2, 60, 60)).astype("float32")
        score[1, ::7] = np.nan  # nothing was observed
        scores.append(score[1])
        if i < 2:
            (folder / "scores").mkdir(exist_ok=True)
            path = write(folder / "scores" / f"s{i}.tif", score)
            archive.add(path, day, ("cs", "cs_cdf"), CLOUD_SCORE_COLLECTION, None)
    return archive, scores


@pytest.mark.parametrize("threshold", [None, 0.3])
@pytest.mark.parametrize("how", ["median", "mosaic"])
def test_cloud_score(tmp_path, how, threshold):
    archive, scores = scored_archive(tmp_path)
    least = threshold or 0.6
    with archive.served() as service:
        about = {"collection": S2, "backend": "gee", "gee": settings(service), "composite": how}
        got, _ = chip(tmp_path, at(30, 30), mask={"kind": "cloud_score_plus", "threshold": threshold}, **about)
        images = []
        for i, row in enumerate(r for r in archive.rows if r["collection"] == S2):
            pixels = noise(i)
            pixels[np.random.default_rng(i).random(pixels.shape) < 0.2] = 0
            keep = (scores[i] >= least) & (i < 2)
            images.append((pixels[:, *PLACE], (pixels != 0)[:, *PLACE] & keep[PLACE]))
            assert row["scene"] == f"s{i}"
        expected, valid = composite.combine(images, how, 0)
        assert np.array_equal(got.pixels, expected) and got.coverage == composite.band_coverage(valid)
        known = np.array(scores[:2])[:, *PLACE]
        observed = ~np.isnan(known)
        share = (known[observed] < least).sum() / observed.sum()
        assert got.provenance["mask"] == {
            "kind": "cloud_score_plus",
            "band": "cs_cdf",
            "threshold": least,
            "masked": pytest.approx(share, abs=1e-6),
            "without": ["s2"],
        }
        assert any("1 image has no band cs_cdf" in w for w in got.warnings)
        assert service.counts()["pixels"] == 1


def test_cloud_scores_of_another_time_are_not_compared(tmp_path):
    archive, _ = scored_archive(tmp_path)
    path = write(tmp_path / "scores" / "s2.tif", np.ones((2, 60, 60), "float32"))
    archive.add(path, "2020-01-01", ("cs", "cs_cdf"), CLOUD_SCORE_COLLECTION, None)
    with archive.served() as service:
        about = {"collection": S2, "backend": "gee", "gee": settings(service)}
        got, _ = chip(tmp_path, at(30, 30), mask="cloud_score_plus", **about)
        assert got.provenance["mask"]["without"] == ["s2"]


def test_cloud_score_of_level_1_images_without_times(tmp_path):
    """Images without a time are put before the others, which changes no ``system:index``."""
    archive, scores = scored_archive(tmp_path, "COPERNICUS/S2_HARMONIZED")
    scenes = archive.collections["COPERNICUS/S2_HARMONIZED"]
    object.__setattr__(scenes[1], "time", None)
    with archive.served() as service:
        about = {"backend": "gee", "gee": settings(service), "composite": "mosaic", "temporal": None}
        got, _ = chip(tmp_path, at(30, 30), collection="COPERNICUS/S2_HARMONIZED", mask="cloud_score_plus", **about)
        assert [s["scene"] for s in got.provenance["scenes"]] == ["s1", "s0", "s2"]
        clear = (scores[0] >= 0.6)[PLACE]
        pixels = noise(0)
        pixels[np.random.default_rng(0).random(pixels.shape) < 0.2] = 0
        top = clear & (pixels[0] != 0)[PLACE]
        assert np.array_equal(got.pixels[0][top], pixels[0][PLACE][top])
        below = ~top & (scores[1] >= 0.6)[PLACE]
        assert got.pixels[0][below].any() and not got.pixels[0][~top & ~below].any()
