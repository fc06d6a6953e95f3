"""The four foundation models through the whole workflow: one fetch per source, tiles and boxes,
records, refusals."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from rs_embed import (
    BBox,
    ExportConfig,
    ExportModelRequest,
    FetchSpec,
    InputPrepSpec,
    ModelError,
    OutputSpec,
    PointBuffer,
    SensorSpec,
    TemporalSpec,
    load_export,
)
from rs_embed.errors import StoreError
from rs_embed.request.geometry import get_transformer
from rs_embed.request.request import Request
from rs_embed.runs.open_run import open_run
from rs_embed.runs.run_files import freeze_run, load_run
from rs_embed.stages.embed import embed
from rs_embed.stages.fetch import fetch
from rs_embed.stages.shared.jobs import StageError
from rs_embed.store.objects import read_object
from rs_embed.upkeep.work_folder import load_run_strictly

from ..providers.rasters.test_local import PLACES, S2_BANDS, SHARED, real
from ..support.exports import combined, export, made, run_folder
from ..support.factories import assert_refusal
from ..support.rasters import ORIGIN, ZONE, at, catalogue, write

JULY = TemporalSpec.range("2022-07-01", "2022-08-01")
S2, S1 = "COPERNICUS/S2_SR_HARMONIZED", "COPERNICUS/S1_GRD_FLOAT"


def model(name: str, label: str | None = None, modality: str | None = None, **options) -> ExportModelRequest:
    return ExportModelRequest(name, label=label, modality=modality, model_config={"weights": "random"} | options)


ALL = [
    model("remoteclip"),
    model("prithvi", temporal_mode="single"),
    model("terrafm"),
    model("terrafm", "terrafm_s1", "s1"),
    model("thor", variant="tiny"),
    model("thor", "thor_s1", "s1", variant="tiny"),
]
DIMS = {"remoteclip": 512, "prithvi": 768, "terrafm": 768, "terrafm_s1": 768, "thor": 192, "thor_s1": 192}
CELLS = {"remoteclip": 768, "prithvi": 768, "terrafm": 768, "terrafm_s1": 768, "thor": 192, "thor_s1": 192}


def imagery(folder: Path, height: int = 700, width: int = 700) -> Path:
    """Smooth fields with noise: 12 bands of Sentinel-2 as DN, and VV, VH as linear power."""
    random = np.random.default_rng(0)
    y, x = np.mgrid[0:height, 0:width] / 100
    fields = np.stack([2500 + 1500 * np.sin(x + b) * np.cos(y - b / 3) for b in range(12)])
    fields += random.integers(0, 400, fields.shape)
    write(folder / "s2.tif", fields.astype("uint16"))
    power = np.exp(0.4 * np.sin(x[None] * [[[2]], [[3]]]) + random.normal(size=(2, height, width)) * 0.3) * 0.08
    write(folder / "s1.tif", power.astype("float32"))
    rows = [{"path": "s2.tif", "collection": S2, "bands": " ".join(S2_BANDS)}]
    rows += [{"path": "s1.tif", "collection": S1, "bands": "VV VH"}]
    catalogue(folder, *[r | {"datetime": "2022-07-10"} for r in rows])
    return folder


def box(column: float, row: float, wide: float, high: float) -> BBox:
    """A box of about so many pixels of such a raster."""
    to = get_transformer(ZONE, "EPSG:4326")
    west, north = to.transform(ORIGIN[0] + 10 * column, ORIGIN[1] - 10 * row)
    east, south = to.transform(ORIGIN[0] + 10 * (column + wide), ORIGIN[1] - 10 * (row + high))
    return BBox(west, south, east, north)


def check_sources(folder: Path, places: int) -> None:
    """Three distinct sources, each place fetched once from each; six units embedded."""
    found = {}
    for path in folder.glob("fetch/*/*.json"):
        found[path.parent.name] = found.get(path.parent.name, 0) + json.loads(path.read_text())["fetched"]
    assert len(found) == 3 and set(found.values()) == {places}
    assert made(folder)["embedded"] == 6 * places
    run = load_run(folder)
    readers = {s.id: {u.label for u in run.plan.units if u.source == s.id} for s in run.plan.sources}
    assert sorted(map(sorted, readers.values())) == [
        ["prithvi"],
        ["remoteclip", "terrafm", "thor"],
        ["terrafm_s1", "thor_s1"],
    ]


@real
@pytest.mark.heavy
def test_one_request_over_real_imagery_fetches_each_source_once(tmp_path):
    spatials = [PointBuffer(lon, lat, 1000) for lon, lat in PLACES.values()]
    options = {"backend": f"local:{SHARED}", "temporal": JULY, "infer_batch_size": 2}
    manifest = export(combined(tmp_path / "run"), spatials, ALL, **options)
    assert manifest["status"] == "ok"
    check_sources(run_folder(tmp_path / "run"), 2)
    found = load_export(tmp_path / "run.npz")
    for label, dim in DIMS.items():
        vectors = found.embedding(label)
        assert vectors.shape == (2, dim) and np.isfinite(vectors).all() and np.ptp(vectors, axis=1).min() > 0
        assert not np.allclose(vectors[0], vectors[1])
    assert all(entry["weights"]["pretrained"] is False for entry in manifest["models"])


@pytest.mark.heavy
def test_points_and_boxes_tiled_give_grids_where_they_lie(tmp_path):
    imagery(tmp_path / "in")
    spatials = [at(350, 350, 1500), box(100, 200, 380, 150), at(300, 300, 600)]
    options = {"backend": f"local:{tmp_path / 'in'}", "temporal": JULY, "infer_batch_size": 3, "input_prep": "tile"}
    manifest = export(combined(tmp_path / "grid"), spatials, ALL, output=OutputSpec.grid(), **options)
    assert manifest["status"] == "ok"
    check_sources(run_folder(tmp_path / "grid"), 3)
    grids = load_export(tmp_path / "grid")
    for entry in manifest["models"]:
        for index, (place, meta) in enumerate(zip(spatials, grids.models[entry["model"]].meta)):
            where = meta["grid"]
            a, _, c, _, e, f = where["affine"]
            depth, rows, columns = _shape(tmp_path, entry, index)
            west, north = get_transformer(where["crs"], "EPSG:4326").transform(c, f)
            east, south = get_transformer(where["crs"], "EPSG:4326").transform(c + a * columns, f + e * rows)
            assert depth == CELLS[entry["model"]]
            cell = max(a, -e) / 111_000 * 2.2  # degrees of longitude at 57 N, and a cell to spare
            if isinstance(place, BBox):
                assert west <= place.minlon + cell / 10 and east >= place.maxlon - cell / 10
                assert abs((west + east) / 2 - (place.minlon + place.maxlon) / 2) < cell
                assert abs((south + north) / 2 - (place.minlat + place.maxlat) / 2) < cell
            else:
                assert abs((west + east) / 2 - place.lon) < cell and abs((south + north) / 2 - place.lat) < cell
    first = load_export(tmp_path / "grid").models[manifest["models"][0]["model"]].meta
    assert first[0]["input_prep"] == {"mode": "tile", "tile_size": 224, "tiles": 4}
    assert [m["input_prep"]["tiles"] for m in first] == [4, 4, 1]
    pooled = export(combined(tmp_path / "pooled"), spatials, ALL, **options)
    assert made(run_folder(tmp_path / "pooled"))["fetched"] == 0, "chips are shared by the runs of one folder"
    found = load_export(tmp_path / "pooled.npz")
    assert {label: found.embedding(label).shape for label in DIMS} == {k: (3, d) for k, d in DIMS.items()}
    assert pooled["status"] == "ok"


def _shape(folder: Path, entry: dict, index: int) -> tuple[int, int, int]:
    with np.load(folder / "grid.npz") as file:
        return file[f"embedding__{entry['model']}__{index:05d}"].shape


@pytest.fixture
def opened(tmp_path, monkeypatch):
    """A function that plans, freezes, enters and fetches a run over such imagery."""
    imagery(tmp_path / "in", 400, 400)

    def run(models, spatials=None, fetched=True, **changes):
        given = {
            "temporal": JULY,
            "backend": f"local:{tmp_path / 'in'}",
            "target": combined(tmp_path / "out"),
        } | changes
        options = {k: given.pop(k) for k in list(given) if k in ExportConfig.keywords()}
        request = Request.build(
            spatials=spatials or [at(200, 200, 500)], models=models, config=ExportConfig(**options), **given
        )
        monkeypatch.chdir(tmp_path)
        planned = open_run(request, str(tmp_path))
        freeze_run(planned)
        monkeypatch.chdir(planned.dir)
        loaded = load_run(".")
        if fetched:
            for source in loaded.plan.sources:
                for part in loaded.plan.parts:
                    fetch(loaded, source.id, part)
        return loaded

    return run


def vectors(run) -> np.ndarray:
    """What a run of one model embeds."""
    unit = run.plan.units[0]
    for chunk in run.plan.chunk:
        embed(run, unit.id, chunk)
    return np.stack(
        [read_object(run.store.embedding_path(unit.id, name)).array for name in run.plan.object_names(unit.source)]
    )


TINY = model("thor", variant="tiny")


def test_what_was_done_is_recorded(opened):
    run = opened([TINY], infer_batch_size=2, output=OutputSpec.grid())
    unit = run.plan.units[0]
    vectors(run)
    (name,) = run.plan.object_names(unit.source)
    meta = read_object(run.store.embedding_path(unit.id, name)).meta
    assert meta["device"] in ("cpu", "cuda", "mps") and meta["batch"] == 2
    assert meta["weights"]["pretrained"] is False and "tests" in meta["weights"]["warning"]
    assert meta["input_prep"] == {"mode": "resize"}
    assert meta["grid"]["crs"] == ZONE


def test_an_embedding_is_the_same_alone_in_company_and_in_another_batch(opened):
    spatials = [at(x, y, 480) for x in (60, 200, 330) for y in (60, 200, 330)]
    together = vectors(opened([TINY], spatials, infer_batch_size=4))
    for size, tolerance in ((4, 0), (1, 1e-5)):
        alone = vectors(opened([TINY], spatials[4:5], infer_batch_size=size, store_dir=f"alone-{size}"))
        np.testing.assert_allclose(alone[0], together[4], rtol=0, atol=tolerance)


def test_bf16_is_near_fp32_and_has_an_identity_of_its_own(opened):
    full, low = opened([TINY]), opened([TINY], precision="bf16")
    assert full.plan.units[0].id != low.plan.units[0].id
    assert full.plan.sources[0].id == low.plan.sources[0].id
    a, b = vectors(full)[0].astype(float), vectors(low)[0].astype(float)
    assert 0.9999 < a @ b / np.linalg.norm(a) / np.linalg.norm(b) < 1


def test_broken_low_precision_is_noticed_before_a_number_is_kept(opened, monkeypatch):
    import torch

    from rs_embed.models.shared import vit

    def garbage(self, x, own=vit.Linear.forward):
        made = own(self, x)
        return torch.randn_like(made) if made.dtype == torch.bfloat16 else made

    monkeypatch.setattr(vit.Linear, "forward", garbage)
    run = opened([TINY], precision="bf16")
    with pytest.raises(StageError, match=r"ROI 'p00000', model thor: bf16 on this device \(cpu\) gives other numbers"):
        vectors(run)
    assert not list(run.store.root.glob("embeddings/**/*.npy"))


def test_a_local_file_of_weights_counts_by_its_content(opened, tmp_path):
    _write_thor(tmp_path / "tiny.pt")
    first = opened([model("thor", variant="tiny", weights=str(tmp_path / "tiny.pt"))])
    found = vectors(first)
    (tmp_path / "moved").mkdir()
    (tmp_path / "tiny.pt").rename(tmp_path / "moved" / "other.pth")
    second = opened([model("thor", variant="tiny", weights="moved/other.pth")], store_dir="another")
    assert first.plan.units[0].id == second.plan.units[0].id
    assert vectors(second).tobytes() == found.tobytes()
    (name,) = second.plan.object_names(second.plan.units[0].source)
    weights = read_object(second.store.embedding_path(second.plan.units[0].id, name)).meta["weights"]
    assert weights["pretrained"] is True and weights["file"] == "other.pth"
    assert second.plan.units[0].identity["weights"] == {"sha256": weights["sha256"]}
    assert "moved" not in json.dumps(second.plan.units[0].identity)


def _write_thor(path: Path) -> None:
    """A file in the published layout of thor tiny, with random numbers."""
    import torch

    from rs_embed.models import get_adapter

    adapter = get_adapter("thor")
    options = adapter.info.options(variant="tiny")
    with torch.device("meta"):
        own = dict(adapter.build(options, "s2", adapter.info.modalities["s2"].sensor.bands).named_parameters())
    names = [f"ind_patch_embed.patch_embed.S2:{b}.{p}" for b in _THOR for p in ("weight", "bias")]
    names += [f"band_embed.group{i}" for i in range(10)] + ["encoder_slopes", "norm.weight", "norm.bias"]
    parts = ["norm1", "norm2", "attn.qkv", "attn.proj", "mlp.fc1", "mlp.fc2"]
    names += [f"blocks.{i}.{part}.{p}" for i in range(12) for part in parts for p in ("weight", "bias")]
    numbers = torch.Generator().manual_seed(1)
    mapped = {n: adapter.rename(n, options, "s2") for n in names}
    state = {
        f"encoder.{n}": torch.randn(own[m].shape if m else (3,), generator=numbers) * 0.05 for n, m in mapped.items()
    }
    torch.save({"state_dict": state, "epoch": 9}, path)


_THOR = ["Red", "Green", "Blue", "NIR", "RE1", "RE2", "RE3", "RE4", "SWIR1", "SWIR2"]


def test_a_changed_file_of_weights_stops_a_job_and_not_what_looks_after_the_run(opened, tmp_path):
    (tmp_path / "own.pt").write_bytes(b"first")
    run = opened([model("terrafm", weights="own.pt")])
    (tmp_path / "own.pt").write_bytes(b"another")
    with pytest.raises(StageError, match=r"loading the model failed.*own\.pt.*start the run again"):
        vectors(load_run("."))
    (tmp_path / "own.pt").unlink()
    assert load_run(".").plan.units[0].id == load_run_strictly(run.dir).plan.units[0].id == run.plan.units[0].id
    with pytest.raises(StageError, match=r"loading the model failed.*own\.pt.*does not exist"):
        vectors(load_run("."))
    (tmp_path / "own.pt").write_bytes(b"another")
    (run.dir / "weights.json").unlink()
    # not: other weights, so nothing refers to the embeddings
    with pytest.raises(StoreError, match=r"weights\.json is missing"):
        load_run_strictly(run.dir)


BAD = {
    "variant": (lambda: model("thor", variant="huge"), {}, "model_config.variant: 'huge'"),
    "option": (lambda: model("prithvi", varient="x"), {}, "did you mean 'variant'"),
    "modality": (lambda: model("remoteclip", modality="s1"), {}, "models.remoteclip.modality: 's1'"),
    "bands": (
        lambda: replace(model("terrafm"), sensor=SensorSpec(S2, ("B4", "B3", "B2"))),
        {},
        "12 bands in the order of B1, B2",
    ),
    "order": (
        lambda: replace(model("remoteclip"), sensor=SensorSpec(S2, ("B2", "B3", "B4"))),
        {},
        "3 bands in the order of B4, B3, B2",
    ),
    "decibel": (
        lambda: replace(model("thor", modality="s1"), sensor=SensorSpec("COPERNICUS/S1_GRD", ("VV", "VH"))),
        {},
        "'COPERNICUS/S1_GRD' is dB, and thor takes linear power",
    ),
    "float": (
        lambda: replace(model("thor", modality="s1"), sensor=SensorSpec(S1, ("VV", "VH"), use_float_linear=False)),
        {},
        "use_float_linear: False contradicts",
    ),
    "no weights": (lambda: model("terrafm", weights="nowhere.pt"), {}, "nowhere.pt"),
    "window": (lambda: model("prithvi"), {"temporal": None}, "temporal: None is not valid for the model prithvi"),
    "small": (lambda: model("terrafm"), {"spatials": [at(200, 200, 70)]}, "14 x 14 pixels is too small"),
    "tiles": (
        lambda: model("terrafm"),
        {"spatials": [at(200, 200, 1900)], "input_prep": InputPrepSpec("tile", max_tiles=2, max_tiles_hard=3)},
        "380 x 380 pixels is 4 tiles of 224; allowed: at most 3",
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_a_bad_request_is_refused_before_anything_is_fetched(case, opened, tmp_path):
    make, changes, words = BAD[case]
    with pytest.raises(Exception) as refused:
        opened([make()], fetched=False, **changes)
    assert isinstance(refused.value, (ModelError, ValueError))
    assert words in str(refused.value)
    assert_refusal(refused.value)
    assert not list(tmp_path.glob(".rs_embed/store/**/*.npy"))


def test_bad_imagery_is_an_error_of_its_roi_and_no_number(opened, tmp_path):
    """Reflectance instead of DN, only zeros, and dB that says it is power; NaN in part is embedded
    with a warning."""
    y, x = np.mgrid[0:400, 0:400]
    spread = (1000 + 10 * (x % 50) + 7 * (y % 60)).astype("float32")
    pixels = np.stack([spread + 100 * b for b in range(12)])
    pixels[:, :, :100] /= 10000
    pixels[:, :, 100:200] = 0
    pixels[:, 150:160, 250:260] = np.nan
    write(tmp_path / "in" / "s2.tif", pixels)
    write(tmp_path / "in" / "s1.tif", np.full((2, 400, 400), -12.0, "float32") + np.float32(0.01) * x)
    spatials = [at(c, 155, 400) for c in (50, 150, 250, 350)]
    run = opened([TINY], spatials, continue_on_error=True)
    embed(run, run.plan.units[0].id, "00000")
    rows = json.loads(Path(f"embed/{run.plan.units[0].id}/00000.json").read_text())["rows"]
    assert [r["status"] for r in rows] == ["failed", "failed", "ok", "ok"]
    assert "looks like reflectance" in rows[0]["error"]
    assert "every value of the image is 0" in rows[1]["error"]
    radar = opened([model("thor", modality="s1", variant="tiny")], [at(200, 200, 400)])
    with pytest.raises(StageError, match="ROI 'p00000', model thor: 100 % of the values are negative"):
        embed(radar, radar.plan.units[0].id, "00000")


def test_pixels_without_data_are_no_measurement_whatever_they_are_filled_with(opened):
    half = [at(380, 200, 500)]  # beyond the edge of the raster
    zero = vectors(opened([TINY], half))
    filled = opened([replace(TINY, fetch=FetchSpec(fill_value=-9999))], half)
    assert filled.plan.sources[0].identity["fill_value"] == -9999
    assert np.array_equal(vectors(filled), zero)


def test_missing_weights_are_reported_before_anything_is_fetched(tmp_path, monkeypatch):
    import subprocess
    import sys

    (tmp_path / "a.py").write_text(
        """
from rs_embed import *
export_batch(spatials=[PointBuffer(12.4082, 51.346, 300)], temporal=TemporalSpec.year(2022), models=["remoteclip"],
             target=ExportTarget.combined("out/run"), backend="sample", continue_on_error={tolerant})
""".replace("{tolerant}", "bool(__import__('sys').argv[1:])")
    )
    for key, value in (("HF_HUB_OFFLINE", "1"), ("HF_HOME", str(tmp_path / "hub"))):
        monkeypatch.setenv(key, value)
    done = subprocess.run([sys.executable, "a.py"], cwd=tmp_path, capture_output=True, text=True, timeout=120)
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith(
        "rs_embed.errors.ModelError: model remoteclip: weights: the file RemoteCLIP-ViT-B-32.pt of the hub repository"
    )
    assert "allowed: model_config={'weights': '<path of that file>'}" in last
    assert not list((tmp_path / "out").glob(".rs_embed/store/chips/*"))


def test_a_finished_export_asks_for_no_weights(tmp_path, monkeypatch):
    import shutil

    from rs_embed.runs.run import Run

    imagery(tmp_path / "in", 120, 120)
    request = (combined(tmp_path / "run"), [at(60, 60, 500)], [TINY])
    options = {"backend": f"local:{tmp_path / 'in'}", "temporal": JULY}
    first = export(*request, **options)
    shutil.rmtree(tmp_path / ".rs_embed" / "store" / "embeddings")

    def gone(*_, **__):
        raise ModelError("weights: not to be had")

    monkeypatch.setattr(Run, "checkpoint", gone)
    assert export(*request, **options)["models"] == first["models"]
    with pytest.raises(ModelError, match="not to be had"):
        export(*request, **options, precision="bf16")
