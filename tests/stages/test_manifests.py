"""Contents of manifests: duplicates, quality, cost, provenance; nothing is repeated."""

from __future__ import annotations

import json

import numpy as np
import pytest

from rs_embed import BBox, ExportModelRequest, SensorSpec, load_export
from rs_embed.formats.manifest import SCHEMA, array_file_entries

from ..support.exports import CHECKOUT, places
from ..support.manifest_schema import check_manifest
from .test_stages import S2, Fake, embed_all, fetch_all, make, write_all  # noqa: F401 - make is a fixture

TWO = (
    "mosaiks",
    ExportModelRequest("mosaiks", label="rgb", sensor=SensorSpec(S2, ("B4", "B3", "B2")), model_config={"features": 8}),
)


class Listed(Fake):
    """Like :class:`Fake`, with the scenes of a season: each ROI has twelve of them."""

    def fetch(self, source, bands, roi, grid):
        chip = super().fetch(source, bands, roi, grid)
        scenes = [
            {
                "scene": f"S2A_{roi.index // 4 + k:060d}",
                "cloud_cover": 3.25 * (roi.index // 4 + k),
                "collection": S2,
                "datetime": "2022-07-01T10:00:00Z",
            }
            for k in range(12)
        ]
        chip.provenance.update(
            scenes=scenes, request="0" * 32, frames=[{"start": "a", "scenes": [s["scene"] for s in scenes]}]
        )
        return chip


def done(run) -> dict:
    fetch_all(run), embed_all(run), write_all(run)
    return json.loads((run.dir / run.plan.manifest).read_text())


@pytest.mark.parametrize("layout", ["combined", "per_item"])
def test_equal_arrays_of_different_rois_are_reported(make, layout):  # noqa: F811
    spatials = places(5, 60)
    spatials[4] = spatials[0]
    run = make(spatials=spatials, models=TWO, layout=layout, provider=Fake(p00001="flat", p00003="flat"))
    manifest = done(run)
    assert manifest["repeated_rois"] == [[0, 4]], "a repeated ROI is no mistake of the pixels"
    for model in manifest["models"]:
        assert model["duplicates"] == {"inputs": [[1, 3]], "embeddings": [[1, 3]]}
    result = load_export(run.plan.target)
    table = result.items(per_model=True).query("model == 'rgb'").set_index("row")
    assert table["duplicate_of"].dropna().to_dict() == {3: 1}
    assert table["repeats"].dropna().to_dict() == {4: 0}
    assert table["constant_bands"].dropna().to_dict() == {1: "B4, B3, B2", 3: "B4, B3, B2"}
    assert table["warnings"][1] == "constant bands: B4, B3, B2"


def test_pixels_alone_have_their_quality_and_shared_ones_one_duplicate(make):  # noqa: F811
    models = ("mosaiks", ExportModelRequest("mosaiks", label="same", model_config={"features": 8}))
    plan = {"p00001": "flat", "p00002": "flat", "p00003": "partial", "p00000": "empty"}
    manifest = done(make(models=models, provider=Fake(**plan), save_embeddings=False))
    first, second = manifest["models"]
    assert second["inputs"]["dedup_reused"] and second["duplicates"] == {}
    assert first["duplicates"] == {"inputs": [[1, 2]]}
    assert first["no_data_indices"] == [0]
    result = load_export("../../../run.npz")
    for model in result.models.values():
        assert model.meta[2]["quality"]["constant_bands"] == ["B2", "B3", "B4", "B8"]
        assert result.items()["valid"].tolist()[1:] == [1.0, 1.0, 0.75]
        assert model.raw_inputs()[0] is None and model.inputs.shape == (4, 4, 12, 12)


@pytest.mark.parametrize(("pixels", "limit"), [(True, 600), (False, 500)])
def test_a_roi_and_model_takes_less_than_a_kilobyte(make, pixels, limit):  # noqa: F811
    size = {}
    for n in (20, 60):
        run = make(n=n, models=TWO, provider=Listed(), save_inputs=pixels, store_dir=f"store{n}", target=f"run{n}")
        manifest = done(run)
        size[n] = (run.dir / run.plan.manifest).stat().st_size
        scenes = manifest["imagery"][run.plan.sources[0].id]["scenes"]
        assert len(scenes) == 2 * (n // 4 + 11), "each scene once, and its name where frames give it"
    assert (size[60] - size[20]) / 40 / 2 < limit
    meta = load_export(run.plan.target).models["rgb"].meta[30]
    assert [s["scene"] for s in meta["provenance"]["scenes"]] == meta["provenance"]["frames"][0]["scenes"]
    assert meta["provenance"]["scenes"][2] == {
        "scene": f"S2A_{9:060d}", "cloud_cover": 29.25, "collection": S2, "datetime": "2022-07-01T10:00:00Z",
    }  # fmt: skip


def test_cost_is_recorded_by_stage_and_model(make):  # noqa: F811
    run = make(n=5, models=TWO, chunk_size=2, provider=Fake(p00003="empty"))
    manifest = done(run)
    stages = manifest["timing"]
    assert {k: v["jobs"] for k, v in stages.items()} == {"fetch": 3, "embed": 6, "write": 3}
    assert (stages["fetch"]["fetched"], stages["embed"]["embedded"]) == (5, 8)
    assert all(v["seconds"] > 0 and v["cpu_seconds"] > 0 for v in stages.values())
    assert sum(m["timing"]["embedded"] for m in manifest["models"]) == 8
    assert all(m["timing"]["load_seconds"] <= m["timing"]["seconds"] for m in manifest["models"])


def test_grids_of_boxes_are_equal_in_both_layouts(make):  # noqa: F811
    spatials = [BBox(12.40, 51.34, 12.40 + w, 51.34 + h) for w, h in ((0.004, 0.003), (0.002, 0.005))]
    metas = []
    for layout in ("combined", "per_item"):
        run = make(spatials=spatials, models=TWO, layout=layout, target=layout)
        done(run)
        result = load_export(run.plan.target)
        metas.append({m.name: list(m.meta) for m in result.models.values()})
        sizes = [(a.shape[-2:], tuple(m["shape"])) for a, m in zip(result.models["rgb"].raw_inputs(), metas[-1]["rgb"])]
        assert all(a == b for a, b in sizes) and len({a for a, _ in sizes}) == 2
        assert result.to_xarray(inputs=True)["input_rgb_size"].values.tolist() == [list(a) for a, _ in sizes]
    assert metas[0] == metas[1]
    first = metas[0]["rgb"][0]
    assert {"crs", "affine", "dates", "fetched", "provenance", "quality", "device", "software", "batch"} <= set(first)


def test_the_schema_is_in_the_package_and_in_the_documents():
    assert SCHEMA.parent == CHECKOUT / "rs_embed" / "formats"
    text = (CHECKOUT / "docs" / "outputs.md").read_text()
    schema = json.loads(SCHEMA.read_text())
    for kind in ("combined", "index", "item"):
        for key in schema["$defs"][kind]["properties"]:
            assert f"`{key}`" in text, f"docs/outputs.md does not explain {key!r} of a manifest ({kind})"


def test_a_manifest_that_is_not_one_is_refused_by_the_schema(finished, tmp_path):
    manifest = json.loads((finished / "run.json").read_text())
    for change in ({"created_at": "2026-05-06T07:08:09+00:00Z"}, {"surprise": 1}, {"n_items": 8}, {"status": "done"}):
        (tmp_path / "run.json").write_text(json.dumps(manifest | change))
        with pytest.raises(AssertionError):
            check_manifest(tmp_path / "run.json")
    manifest["models"][0]["metas"][2]["quality"] = {"valid": np.nan}
    (tmp_path / "run.json").write_text(json.dumps(manifest))
    with pytest.raises(pytest.fail.Exception, match="not JSON: NaN"):
        check_manifest(tmp_path / "run.json")


def test_names_of_files_follow_the_format():
    assert array_file_entries("a/run.npz", ["x"], "a/run.json") == {
        "npz_path": "run.npz", "npz_keys": ["x"], "manifest_path": "run.json",
    }  # fmt: skip
    assert list(array_file_entries("a/run.nc", [], "a/run.json")) == ["nc_path", "nc_variables", "manifest_path"]


def test_records_keep_image_metadata_where_most_rows_of_a_model_differ(tmp_path):
    """Six of nine places were fetched earlier for one model: its chips are others than those of
    the second model."""
    import time

    from ..support.work_folders import make as made

    one = ExportModelRequest("mosaiks", label="nir", sensor=SensorSpec(S2, ("B8",)), model_config={"features": 8})
    made(tmp_path, slice(0, 6), (one,), "before")
    time.sleep(1.1)  # times are in whole seconds
    found = {}
    for layout in ("combined", "per_item"):
        made(tmp_path, slice(0, 9), (TWO[1], one), f"after-{layout}", layout)
        models = load_export(tmp_path / f"after-{layout}").models
        found[layout] = {label: list(model.meta) for label, model in models.items()}
    assert found["combined"] == found["per_item"]
    assert all(m["fetched"] and m["provenance"] for m in found["combined"]["nir"])
    times = [m["fetched"] for m in found["combined"]["nir"]]
    assert max(times[:6]) < min(times[6:])
