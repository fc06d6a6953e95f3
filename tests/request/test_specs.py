"""specs.py, config.py, fields.py: what is accepted, what is refused, and in which words."""

from __future__ import annotations

import dataclasses
import datetime as dt
import pathlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rs_embed import (
    BBox,
    ExportConfig,
    ExportModelRequest,
    ExportTarget,
    FetchSpec,
    InputPrepSpec,
    ModelError,
    OutputSpec,
    PointBuffer,
    RSEmbedError,
    SensorSpec,
    SpecError,
    TemporalSpec,
)
from rs_embed.request.config import RESERVED_NAMES, canonical_modality, check_names
from rs_embed.request.fields import Refused, from_mapping, json_schema, normalise_value, to_mapping
from rs_embed.request.request import Request

from ..support.factories import PROPERTY, assert_refusal

POINT = PointBuffer(12.4, 51.3, 320)
SENSOR = SensorSpec("S2", ("B4", "B3"))
FETCH = FetchSpec(scale_m=20)
RANGE = TemporalSpec.range


def build(**changes) -> Request:
    given = {"spatials": [POINT], "temporal": None, "models": ["mosaiks"], "target": ExportTarget.combined("x")}
    return Request.build(**given | changes)


# what is accepted -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("made", "expected"),
    [
        (SENSOR, {"scale_m": 10, "cloudy_pct": 30, "fill_value": 0.0, "composite": "median", "modality": None}),
        (SENSOR, {"orbit": None, "use_float_linear": True, "s1_require_iw": True, "s1_relax_iw_on_empty": True}),
        (SENSOR, {"check_input": False, "check_raise": True, "check_save_dir": None}),
        (FetchSpec(), {"scale_m": None, "cloudy_pct": None, "fill_value": None, "composite": None}),
        (OutputSpec.pooled(), {"mode": "pooled", "pooling": "mean", "grid_orientation": "north_up"}),
        (OutputSpec.grid(), {"mode": "grid", "pooling": "mean", "grid_orientation": "north_up"}),
        (InputPrepSpec(), {"mode": "tile", "tile_size": None, "tile_stride": None, "max_tiles": 64}),
        (InputPrepSpec(), {"max_tiles_hard": 1024, "pad_edges": True, "tile_snap_frac": 0.1}),
        (POINT, {"lon": 12.4, "lat": 51.3, "buffer_m": 320.0, "crs": "EPSG:4326"}),
        (BBox(1, 2, 3, 4), {"minlon": 1, "minlat": 2, "maxlon": 3, "maxlat": 4, "crs": "EPSG:4326"}),
        (ExportConfig(), {"format": "npz", "save_inputs": True, "save_embeddings": True, "save_manifest": True}),
        (ExportConfig(), {"resume": True, "input_prep": "resize", "chunk_size": None, "infer_batch_size": None}),
        (ExportConfig(), {"max_retries": 3, "retry_backoff_s": 1.0, "num_workers": 8, "writer_workers": 2}),
        (ExportConfig(), {"continue_on_error": False, "async_write": True, "show_progress": True}),
        (ExportConfig(), {"fail_on_bad_input": False, "projection": "utm", "precision": "fp32", "refetch": False}),
        (ExportModelRequest("m"), {"sensor": None, "fetch": None, "modality": None, "model_config": None}),
    ],
)
def test_the_defaults_are_the_documented_ones(made, expected):
    assert {k: getattr(made, k) for k in expected} == expected


def test_the_errors_are_one_family():
    assert issubclass(SpecError, RSEmbedError) and issubclass(SpecError, ValueError)
    assert issubclass(ModelError, RSEmbedError) and not issubclass(ModelError, SpecError)


@pytest.mark.parametrize(
    "made",
    [
        POINT,
        BBox(1, 2, 3, 4),
        RANGE("2022-01-01", "2022-02-01"),
        SENSOR,
        FETCH,
        OutputSpec.pooled(),
        InputPrepSpec(),
        ExportConfig(),
        ExportTarget.combined("x"),
        ExportModelRequest("m", model_config={"a": 1}),
        build(),
    ],
    ids=lambda made: type(made).__name__,
)
def test_every_value_object_is_frozen_hashable_and_equal_by_value(made):
    name = dataclasses.fields(made)[0].name
    with pytest.raises(dataclasses.FrozenInstanceError):
        setattr(made, name, getattr(made, name))
    again = dataclasses.replace(made)
    assert again == made and hash(again) == hash(made)


def test_numbers_become_floats_and_choices_ignore_case():
    assert type(PointBuffer(1, 2, 3).lon) is float
    assert SensorSpec("S2", ["B4"], scale_m=20) == SensorSpec("S2", ("B4",), scale_m=20.0)
    assert ExportConfig(format="NPZ").format == "npz"
    assert SensorSpec("S1", ("VV",), orbit="ascending").orbit == "ASCENDING"
    assert str(PointBuffer(-0.0, -0.0, 1).lon) == "0.0"  # two zeros would give two identities of one ROI


def test_a_year_is_january_to_january_and_keeps_its_mode():
    year = TemporalSpec.year(2022)
    assert (year.start, year.end) == ("2022-01-01", "2023-01-01")
    assert year.to_dict() == {"mode": "year", "year": 2022, "start": "2022-01-01", "end": "2023-01-01"}
    assert RANGE("2022-06-01", "2022-09-01").to_dict()["year"] is None
    assert TemporalSpec.from_dict({"year": 2022}) == year


@PROPERTY
@given(st.dates(), st.dates())
def test_a_window_is_half_open_and_survives_its_dict(a, b):
    # date objects come from YAML loaders, which turn 2022-06-01 into one; years before 1000 keep
    # four digits
    if a >= b:
        with pytest.raises(SpecError) as refused:
            RANGE(a, b)
        assert_refusal(refused.value, "start", repr(a.isoformat()))
        return
    made = RANGE(a, b)
    assert (made.start, made.end) == (a.isoformat(), b.isoformat())
    assert TemporalSpec.from_dict(made.to_dict()) == made == RANGE(a.isoformat(), b.isoformat())
    assert RANGE(dt.datetime.combine(a, dt.time()), b) == made
    with pytest.raises(SpecError, match="allowed: a date"):  # a time of day is refused, not cut off
        RANGE(dt.datetime.combine(a, dt.time(5)), b)


def test_a_target_takes_paths_and_names_of_any_kind():
    assert ExportTarget.combined(pathlib.Path("a") / "b") == ExportTarget.combined("a/b")
    assert ExportTarget.per_item("d", names=["p1", "p2"]).names == ("p1", "p2")
    assert ExportTarget.per_item("d").names is None
    assert check_names(["a" * 128, "A-b_c.d", "-x", "_", "0"])[1] == "A-b_c.d"
    with pytest.raises(TypeError):
        ExportTarget.per_item("d", ["p1"])  # names are keyword-only


def test_names_default_to_numbers_and_come_from_the_target():
    assert build(spatials=[POINT] * 2).names == ("p00000", "p00001")
    assert build(target=ExportTarget.per_item("d", names=["here"])).names == ("here",)


@pytest.mark.parametrize(
    ("word", "canonical"),
    [("sentinel-2", "s2"), (" Sentinel_1 ", "s1"), ("S2", "s2"), ("s2-l1c", "s2_l1c"), (None, None)],
)
def test_modalities_have_one_spelling(word, canonical):
    assert canonical_modality(word) == canonical
    assert ExportModelRequest("m", modality=word).modality == canonical == build(modality=word).modality


def test_a_string_is_the_same_as_a_request_by_that_name_and_no_options_are_none():
    assert build(models=["mosaiks"]) == build(models=[ExportModelRequest(" mosaiks ")])
    assert ExportModelRequest("m", model_config={}) == ExportModelRequest("m", model_config=None)


def test_a_request_keeps_its_own_copy_of_the_options():
    options = {"seed": 1}
    made = ExportModelRequest("m", model_config=options)
    options["seed"] = 2
    assert made.model_config == {"seed": 1}


@pytest.mark.parametrize("mode", ["resize", "tile", "auto"])
def test_a_large_roi_policy_is_a_word_or_a_spec_of_that_word(mode):
    assert ExportConfig(input_prep=InputPrepSpec(mode)) == ExportConfig(input_prep=mode)


def test_the_documented_constructors_run():
    ExportConfig(
        format="npz", save_inputs=True, save_embeddings=True, save_manifest=True, resume=True, input_prep="resize"
    )
    ExportModelRequest("prithvi", fetch=FetchSpec(scale_m=30))
    ExportModelRequest("thor", model_config={"variant": "large"})
    ExportModelRequest("terrafm", modality="s1")
    assert build(spatials=(PointBuffer(121.5, 31.2, 2048), BBox(1, 2, 3, 4))).names == ("p00000", "p00001")


def test_the_device_may_be_left_open():
    assert build(device=None).device == build(device="").device == "auto"
    assert build(device=" CUDA ").device == "cuda" and build(backend=" Local:/A B ").backend == "local:/A B"


def test_values_that_differ_from_their_defaults_are_what_a_mapping_holds():
    sensor = dataclasses.replace(SENSOR, scale_m=20)
    assert to_mapping(sensor) == {"collection": "S2", "bands": ["B4", "B3"], "scale_m": 20.0}
    assert from_mapping(SensorSpec, to_mapping(sensor), "sensor", SpecError) == sensor
    assert to_mapping(FetchSpec()) == {}
    assert json_schema(SensorSpec)["required"] == ["collection", "bands"]


# what is refused --------------------------------------------------------------------------------

SPEC_ERRORS = {
    "lon too large": (lambda: PointBuffer(180.1, 0, 1), "PointBuffer.lon", "180.1"),
    "lat too small": (lambda: PointBuffer(0, -90.5, 1), "PointBuffer.lat", "-90.5"),
    "lat NaN": (lambda: PointBuffer(0, float("nan"), 1), "PointBuffer.lat", "nan"),
    "lon infinite": (lambda: PointBuffer(float("inf"), 0, 1), "PointBuffer.lon", "inf"),
    "lon beyond any float": (lambda: PointBuffer(10**400, 0, 1), "PointBuffer.lon"),
    "lon a text": (lambda: PointBuffer("12", 0, 1), "PointBuffer.lon", "'12'"),
    "lat a truth value": (lambda: PointBuffer(0, True, 1), "PointBuffer.lat", "True"),
    "buffer zero": (lambda: PointBuffer(0, 0, 0), "PointBuffer.buffer_m", "0"),
    "buffer negative": (lambda: PointBuffer(0, 0, -5), "PointBuffer.buffer_m", "-5"),
    "buffer missing": (lambda: PointBuffer(0, 0, None), "PointBuffer.buffer_m", "None"),
    "another crs": (lambda: PointBuffer(0, 0, 1, "EPSG:3857"), "PointBuffer.crs", "'EPSG:3857'"),
    "square over the antimeridian": (lambda: PointBuffer(179.9999, 0, 5000), "PointBuffer.lon", "180", "5000"),
    "square over it from the east": (lambda: PointBuffer(-179.99, 60, 1000), "PointBuffer.lon", "-179.99"),
    "square over a pole": (lambda: PointBuffer(0, 89.99, 2000), "PointBuffer.lat", "89.99"),
    "box across the antimeridian": (lambda: BBox(179, 0, -179, 1), "BBox.minlon", "179", "split"),
    "box without width": (lambda: BBox(1, 0, 1, 1), "BBox.minlon", "1"),
    "box upside down": (lambda: BBox(0, 2, 1, 1), "BBox.minlat", "2"),
    "box too far north": (lambda: BBox(0, 0, 1, 91), "BBox.maxlat", "91"),
    "no date": (lambda: RANGE("2022-02-30", "2022-09-01"), "TemporalSpec.start", "'2022-02-30'"),
    "no day": (lambda: RANGE("2022-06", "2022-09-01"), "TemporalSpec.start", "'2022-06'"),
    "a week": (lambda: RANGE("2022-W01-1", "2022-09-01"), "TemporalSpec.start", "'2022-W01-1'"),
    "no end": (lambda: RANGE("2022-06-01", None), "TemporalSpec.end", "None"),
    "empty window": (lambda: RANGE("2022-06-01", "2022-06-01"), "TemporalSpec.start", "'2022-06-01'"),
    "unknown mode": (lambda: TemporalSpec("month", "2022-01-01", "2022-02-01"), "TemporalSpec.mode", "'month'"),
    "year mode of half a year": (lambda: TemporalSpec("year", "2022-01-01", "2022-06-01"), "mode", "'year'"),
    "year a text": (lambda: TemporalSpec.year("2022"), "TemporalSpec.year", "'2022'"),
    "year a truth value": (lambda: TemporalSpec.year(True), "TemporalSpec.year", "True"),
    "year zero": (lambda: TemporalSpec.year(0), "TemporalSpec.year", "0"),
    "collection empty": (lambda: SensorSpec(" ", ("B4",)), "SensorSpec.collection", "' '"),
    "bands empty": (lambda: SensorSpec("S2", ()), "SensorSpec.bands", "[]"),
    "bands one text": (lambda: SensorSpec("S2", "B4"), "SensorSpec.bands", "'B4'"),
    "bands twice": (lambda: SensorSpec("S2", ("B4", "B4")), "SensorSpec.bands", "['B4', 'B4']"),
    "scale zero": (lambda: SensorSpec("S2", ("B4",), scale_m=0), "SensorSpec.scale_m", "0"),
    "cloud 101": (lambda: SensorSpec("S2", ("B4",), cloudy_pct=101), "SensorSpec.cloudy_pct", "101", "<= 100"),
    "composite unknown": (lambda: SensorSpec("S2", ("B4",), composite="mean"), "composite", "'mean'", "'mosaic'"),
    "orbit unknown": (lambda: SensorSpec("S1", ("VV",), orbit="up"), "SensorSpec.orbit", "'up'", "'ASCENDING'"),
    "check_input not yet": (lambda: SensorSpec("S2", ("B4",), check_input=True), "check_input", "True"),
    "check_raise not yet": (lambda: SensorSpec("S2", ("B4",), check_raise=False), "check_raise", "False"),
    "check_save_dir not yet": (lambda: SensorSpec("S2", ("B4",), check_save_dir="d"), "check_save_dir", "'d'"),
    "fetch scale negative": (lambda: FetchSpec(scale_m=-1), "FetchSpec.scale_m", "-1"),
    "fetch composite unknown": (lambda: FetchSpec(composite="max"), "FetchSpec.composite", "'max'"),
    "output unknown": (lambda: OutputSpec("cls"), "OutputSpec.mode", "'cls'", "'pooled'"),
    "pooling unknown": (lambda: OutputSpec.pooled("min"), "OutputSpec.pooling", "'min'"),
    "output scale": (lambda: OutputSpec.grid(scale_m=10), "OutputSpec.scale_m", "10", "FetchSpec"),
    "prep mode": (lambda: InputPrepSpec("crop"), "InputPrepSpec.mode", "'crop'"),
    "prep stride": (lambda: InputPrepSpec(tile_size=64, tile_stride=32), "InputPrepSpec.tile_stride", "32", "64"),
    "prep edges not yet": (lambda: InputPrepSpec(pad_edges=False), "InputPrepSpec.pad_edges", "False", "True"),
    "prep snap": (lambda: InputPrepSpec(tile_snap_frac=1.5), "InputPrepSpec.tile_snap_frac", "1.5"),
    "temporal a text": (lambda: build(temporal="2022"), "temporal", "'2022'"),
    "names a text": (lambda: ExportTarget.per_item("d", names="ab"), "target.names", "'ab'"),
    "names a number": (lambda: ExportTarget.per_item("d", names=5), "target.names", "5"),
}

MODEL_ERRORS = {
    "no rois": (lambda: build(spatials=[]), "spatials", "[]"),
    "rois no list": (lambda: build(spatials=5), "spatials", "5"),
    "roi a tuple": (lambda: build(spatials=[(1, 2, 3)]), "spatials[0]", "(1, 2, 3)", "PointBuffer"),
    "models a text": (lambda: build(models="mosaiks"), "models", "'mosaiks'", "list"),
    "models empty": (lambda: build(models=[]), "models", "[]"),
    "model a number": (lambda: build(models=[5]), "models", "5"),
    "model blank": (lambda: ExportModelRequest(" "), "models", "' '"),
    "target a path": (lambda: build(target="x"), "target", "'x'"),
    "layout unknown": (lambda: ExportTarget("both", "x"), "target.layout", "'both'", "'per_item'"),
    "path empty": (lambda: ExportTarget.combined(" "), "target.path", "' '"),
    "path a number": (lambda: ExportTarget.combined(5), "target.path", "5"),
    "config a dict": (lambda: build(config={}), "config", "{}"),
    "output a text": (lambda: build(output="pooled"), "output", "'pooled'"),
    "device unknown": (lambda: build(device="tpu"), "device", "'tpu'", "'cuda'"),
    "backend blank": (lambda: build(backend=" "), "backend", "' '"),
    "modality blank": (lambda: build(modality=" "), "modality", "' '"),
    "modality a number": (lambda: ExportModelRequest("m", modality=5), "modality", "5"),
    "name count": (lambda: build(target=ExportTarget.per_item("d", names=["a", "b"])), "names", "2", "1"),
    "both for the run": (lambda: build(sensor=SENSOR, fetch=FETCH), "fetch", "FetchSpec and SensorSpec"),
    "both for a model": (lambda: ExportModelRequest("m", SENSOR, FETCH), "models.m.fetch", "FetchSpec and SensorSpec"),
    "sensor a dict": (lambda: build(sensor={"collection": "S2"}), "sensor", "{'collection': 'S2'}"),
    "fetch a number": (lambda: ExportModelRequest("m", fetch=10), "models.m.fetch", "10"),
    "label unsafe": (lambda: ExportModelRequest("m", label="a/b"), "models.m.label", "'a/b'"),
    "label empty": (lambda: ExportModelRequest("m", label=""), "models.m.label", "''"),
    "options a list": (lambda: ExportModelRequest("m", model_config=[1]), "models.m.model_config", "[1]"),
    "option a list": (lambda: ExportModelRequest("m", model_config={"a": [1]}), "model_config.a", "[1]"),
    "option NaN": (lambda: ExportModelRequest("m", model_config={"a": float("nan")}), "model_config.a", "nan"),
    "format unknown": (lambda: ExportConfig(format="hdf5"), "config.format", "'hdf5'", "'npz'"),
    "precision unknown": (lambda: ExportConfig(precision="fp16"), "config.precision", "'fp16'", "'bf16'"),
    "keep_work": (
        lambda: ExportConfig(keep_work="chips"),
        "config.keep_work",
        "'chips'",
        "'all', 'embeddings', 'none'",
    ),
    "store_limit_gb": (lambda: ExportConfig(store_limit_gb=-1), "config.store_limit_gb", "-1", "a number >= 0 or null"),
    "empty profile": (lambda: ExportConfig(profile=" "), "config.profile", "' '", "a path or null"),
    "chunk zero": (lambda: ExportConfig(chunk_size=0), "config.chunk_size", "0", ">= 1"),
    "chunk a float": (lambda: ExportConfig(chunk_size=2.5), "config.chunk_size", "2.5", "integer"),
    "chunk a truth value": (lambda: ExportConfig(chunk_size=True), "config.chunk_size", "True"),
    "workers zero": (lambda: ExportConfig(num_workers=0), "config.num_workers", "0"),
    "retries negative": (lambda: ExportConfig(max_retries=-1), "config.max_retries", "-1"),
    "backoff infinite": (lambda: ExportConfig(retry_backoff_s=float("inf")), "config.retry_backoff_s", "inf"),
    "resume a text": (lambda: ExportConfig(resume="yes"), "config.resume", "'yes'", "true or false"),
    "nothing to save": (lambda: ExportConfig(save_inputs=False, save_embeddings=False), "save_embeddings", "False"),
    "refetch and resume": (lambda: ExportConfig(refetch=True), "config.refetch", "True", "resume"),
    "work_dir blank": (lambda: ExportConfig(work_dir=" "), "config.work_dir", "' '"),
    "prep unknown": (lambda: ExportConfig(input_prep="crop"), "config.input_prep", "'crop'", "'tile'"),
}


@pytest.mark.parametrize(("make", "words"), [(v[0], v[1:]) for v in SPEC_ERRORS.values()], ids=SPEC_ERRORS)
def test_a_bad_place_time_or_imagery_is_refused_in_a_sentence(make, words):
    with pytest.raises(SpecError) as refused:
        make()
    assert_refusal(refused.value, *words)


@pytest.mark.parametrize(("make", "words"), [(v[0], v[1:]) for v in MODEL_ERRORS.values()], ids=MODEL_ERRORS)
def test_a_bad_model_or_option_is_refused_in_a_sentence(make, words):
    with pytest.raises(ModelError) as refused:
        make()
    assert_refusal(refused.value, *words)


@pytest.mark.parametrize(
    "names",
    [
        *(
            [bad]
            for bad in ("../x", "a/b", "a\\b", "a b", "a;rm", "", ".x", "..", "$(x)", "a" * 129, "a\n", "ä", 5, None)
        ),
        *(["ok", "a", "a"], ["Plot", "plot"], [RESERVED_NAMES[0]], ["Manifest"]),
    ],
    ids=repr,
)
def test_a_name_that_is_no_safe_file_name_is_refused_with_its_value(names):
    for give in (check_names, lambda names: ExportTarget.per_item("d", names=names)):
        with pytest.raises(SpecError) as refused:
            give(names)
        assert_refusal(refused.value, "name", repr(names[-1]))


@PROPERTY
@given(st.text(max_size=140))
def test_no_accepted_name_leaves_its_folder(name):
    try:
        check_names([name])
    except SpecError as refused:
        assert_refusal(refused, repr(name))
    else:
        folder = pathlib.PurePosixPath("/folder")
        assert (folder / f"{name}.npz").parent == folder and ".." not in (folder / name).parts
        assert name.isascii() and name.isprintable() and " " not in name


@PROPERTY
@given(st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(), st.lists(st.text(max_size=3))))
def test_any_value_of_any_option_is_taken_or_refused_in_a_sentence(value):
    for name in ExportConfig.keywords():
        try:
            made = ExportConfig(**{name: value})
        except ModelError as refused:
            assert_refusal(refused, f"config.{name}")
        else:
            kept = getattr(made, name)
            assert kept == (float(value) if isinstance(kept, float) else value) or kept == value.strip().lower()


def test_the_message_of_a_check_lists_what_a_field_accepts():
    with pytest.raises(Refused, match="allowed: an integer >= 1 or null"):
        normalise_value("x", int | None, {"minimum": 1})
    with pytest.raises(Refused, match=r"allowed: a number > 0 and <= 5"):
        normalise_value(0.0, float, {"above": 0, "maximum": 5})
