"""The sample provider compared with the scene and with pyproj, pixel by pixel."""

from __future__ import annotations

import json
from importlib.resources import files

import numpy as np
import pytest
from pyproj import Transformer

from rs_embed import (
    BBox,
    ExportTarget,
    ModelError,
    PointBuffer,
    ProviderError,
    SpecError,
    TemporalSpec,
    export_batch,
    load_export,
)
from rs_embed.providers import get_provider
from rs_embed.request.config import ExportConfig, ExportModelRequest
from rs_embed.request.geometry import make_grid
from rs_embed.request.request import Request
from rs_embed.request.specs import FetchSpec, SensorSpec
from rs_embed.runs.open_run import open_run
from rs_embed.stages.prepare import check_target

from ..support.exports import WINDOW, places

SCENE = np.array(json.loads(files("spyndex").joinpath("data/S2_10m.json").read_text()))
ORIGIN = (318000.0, 5693000.0)


def run_of(tmp_path, spatials, *, models=("mosaiks",), temporal=WINDOW, **keywords):
    request = Request.build(
        spatials=spatials,
        temporal=temporal,
        models=list(models),
        target=ExportTarget.combined("run"),
        backend="sample",
        **keywords,
    )
    return open_run(request, str(tmp_path))


def fetch(run, index=0):
    (source,), roi = run.plan.sources, run.roi(index)
    grid = make_grid(roi.spatial, source.identity["projection"], source.scale_m)
    return run.provider.fetch(source, source.bands, roi, grid), grid


def test_utm_chips_are_slices_of_the_scene(tmp_path):
    run = run_of(tmp_path, places(6))
    check_target(run)
    for i in range(6):
        chip, grid = fetch(run, i)
        column, row = round((grid.affine[2] - ORIGIN[0]) / 10), round((ORIGIN[1] - grid.affine[5]) / 10)
        assert chip.pixels.dtype == np.uint16
        assert chip.pixels.shape == (4, 32, 32)
        assert np.array_equal(chip.pixels, SCENE[:, row : row + 32, column : column + 32])
        assert chip.dates == ("2022-07-15",)
        assert "nominal" in chip.provenance["note"]


@pytest.mark.parametrize("spatial", [PointBuffer(12.41, 51.345, 700), BBox(12.40, 51.34, 12.412, 51.347)])
@pytest.mark.parametrize("scale", [10.0, 17.0, 30.0])
@pytest.mark.parametrize("projection", ["utm", "web_mercator"])
def test_every_pixel_is_the_scene_pixel_under_its_centre(tmp_path, spatial, scale, projection):
    run = run_of(tmp_path, [spatial], fetch=FetchSpec(scale_m=scale), config=ExportConfig(projection=projection))
    check_target(run)
    chip, grid = fetch(run)
    assert chip.pixels.shape == (4, grid.height, grid.width)
    to = Transformer.from_crs(grid.crs, "EPSG:32633", always_xy=True)
    a, _, c, _, e, f = grid.affine
    rng = np.random.default_rng(0)
    for row, column in zip(rng.integers(0, grid.height, 40), rng.integers(0, grid.width, 40)):
        x, y = to.transform(c + a * (column + 0.5), f + e * (row + 0.5))
        expected = SCENE[:, int((ORIGIN[1] - y) // 10), int((x - ORIGIN[0]) // 10)]
        assert np.array_equal(chip.pixels[:, row, column], expected)


def test_bands_come_in_the_order_of_the_request(tmp_path):
    sensor = SensorSpec("COPERNICUS/S2_SR_HARMONIZED", ("B8", "B2"))
    chip, _ = fetch(run_of(tmp_path, places(1), sensor=sensor))
    whole, _ = fetch(run_of(tmp_path, places(1)))
    assert np.array_equal(chip.pixels, whole.pixels[[3, 0]])


@pytest.mark.parametrize(
    "spatial",
    [
        PointBuffer(12.41, 51.345, 2600),
        PointBuffer(0.0, 0.0, 100),
        PointBuffer(-170.0, -45.0, 100),
        PointBuffer(12.3875, 51.345, 200),
        BBox(12.38, 51.34, 12.40, 51.35),
    ],
)
@pytest.mark.parametrize("projection", ["utm", "web_mercator"])
def test_a_roi_outside_the_scene_is_refused_by_name(tmp_path, spatial, projection):
    target = ExportTarget.per_item("items", names=["inside", "far-away"])
    request = Request.build(
        spatials=[*places(1), spatial],
        temporal=WINDOW,
        models=["mosaiks"],
        target=target,
        backend="sample",
        config=ExportConfig(projection=projection),
    )
    with pytest.raises(
        SpecError, match=r"ROI 'far-away': .* is not inside the sample scene; allowed: footprints within"
    ):
        check_target(open_run(request, str(tmp_path)))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("keywords", "message"),
    [
        ({"temporal": TemporalSpec.year(2020)}, "temporal: 2020-01-01..2021-01-01 has no image"),
        ({"temporal": TemporalSpec.range("2022-07-01", "2022-07-15")}, "nominal date 2022-07-15"),
        ({"sensor": SensorSpec("LANDSAT/LC08/C02/T1_L2", ("SR_B2",))}, "sensor.collection: 'LANDSAT/LC08/C02/T1_L2'"),
        (
            {
                "models": [
                    ExportModelRequest("mosaiks", sensor=SensorSpec("COPERNICUS/S2_SR_HARMONIZED", ("B2", "B11")))
                ]
            },
            "sensor.bands: 'B11' is not in the sample scene; allowed: B2, B3, B4, B8",
        ),
    ],
)
def test_requests_beyond_the_scene_are_refused_before_anything_runs(tmp_path, keywords, message):
    with pytest.raises(ProviderError, match=message):
        check_target(run_of(tmp_path, places(1), **keywords))


def test_the_end_of_the_window_is_excluded_and_none_is_allowed(tmp_path):
    check_target(run_of(tmp_path, places(1), temporal=TemporalSpec.range("2022-07-15", "2022-07-16")))
    check_target(run_of(tmp_path, places(1), temporal=None))


def test_unknown_backends_are_refused():
    with pytest.raises(ModelError, match=r"backend: 'sampel' is not supported \(did you mean 'sample'\?\)"):
        get_provider("sampel", ".")
    with pytest.raises(ModelError, match=r"backend: 'sample:x' is not valid; allowed: 'sample'"):
        get_provider("sample:x", ".")
    assert get_provider("auto", ".").name == "gee"


OUTSIDE = PointBuffer(12.30, 51.345, 100)
EDGE = PointBuffer(12.3875, 51.345, 200)  # partly on the scene


@pytest.mark.parametrize("projection", ["utm", "web_mercator"])
def test_rois_without_imagery_are_not_refused_with_continue_on_error(tmp_path, projection):
    spatials = [*places(1), OUTSIDE, PointBuffer(-170.0, -45.0, 100), EDGE]
    config = ExportConfig(projection=projection, continue_on_error=True)
    run = run_of(tmp_path, spatials, config=config)
    inside, outside, far, edge = (fetch(run, i)[0] for i in range(4))
    assert inside.valid == 1
    for chip in (outside, far):
        assert chip.coverage == (0.0,) * 4
        assert chip.pixels.size == 0
        assert chip.warnings == ("no image of the sample scene: the ROI is outside it",)
    assert 0 < edge.valid < 1


def test_pixels_outside_the_scene_have_the_fill_value(tmp_path):
    for fill in (0, 7, -1, 0.5):
        given = {"fetch": FetchSpec(fill_value=fill), "config": ExportConfig(continue_on_error=True)}
        chip, grid = fetch(run_of(tmp_path, [EDGE], **given))
        column, row = round((grid.affine[2] - ORIGIN[0]) / 10), round((ORIGIN[1] - grid.affine[5]) / 10)
        assert column < 0
        expected = SCENE[:, row : row + grid.height, : column + grid.width]
        assert np.array_equal(chip.pixels[:, :, -column:], expected)
        assert (chip.pixels[:, :, :-column] == fill).all()
        assert chip.coverage == ((grid.width + column) / grid.width,) * 4


def test_a_window_without_the_scene_is_no_data_with_continue_on_error(tmp_path):
    keywords = {"temporal": TemporalSpec.year(2020), "config": ExportConfig(continue_on_error=True)}
    chip, _ = fetch(run_of(tmp_path, places(1), **keywords))
    assert chip.coverage == (0.0,) * 4
    assert chip.warnings == ("no image of the sample scene: the window does not contain 2022-07-15",)


@pytest.mark.parametrize("strict", [True, False])
@pytest.mark.parametrize(
    ("sensor", "message"),
    [
        (SensorSpec("LANDSAT/LC08/C02/T1_L2", ("SR_B2",)), "sensor.collection"),
        (SensorSpec("COPERNICUS/S2_SR_HARMONIZED", ("B2", "B11")), "sensor.bands: 'B11'"),
        (
            SensorSpec("COPERNICUS/S2_SR_HARMONIZED", ("B2",), mask="clouds"),
            r"mask: 'clouds' is not valid, the sample scene has no quality band",
        ),
    ],
)
def test_what_the_scene_never_has_is_refused_with_and_without_continue_on_error(tmp_path, sensor, message, strict):
    config = ExportConfig(continue_on_error=not strict)
    with pytest.raises(ProviderError, match=message):
        run_of(tmp_path, places(1), sensor=sensor, config=config)


@pytest.mark.heavy
def test_an_export_with_a_roi_outside_the_scene_has_a_row_without_data(tmp_path):
    result = export_batch(
        spatials=[*places(1), OUTSIDE],
        temporal=WINDOW,
        models=["mosaiks"],
        target=ExportTarget.combined(str(tmp_path / "run")),
        backend="sample",
        config=ExportConfig(continue_on_error=True, show_progress=False, cores=2),
    )
    (model,) = result["models"]
    assert result["status"] == "ok"
    assert list(model["no_data_indices"]) == [1]
    loaded = load_export(str(tmp_path / "run"))
    assert np.isfinite(loaded.embedding("mosaiks")[0]).all()
    assert np.isnan(loaded.embedding("mosaiks")[1]).all()
