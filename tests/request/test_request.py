"""request.py, rois.py, schema.py: a request as arguments, as a config file with its table, and
what either refuses."""

from __future__ import annotations

import copy
import dataclasses
import math
import string

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from jsonschema import Draft202012Validator

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
    SensorSpec,
    SpecError,
    TemporalSpec,
)
from rs_embed.request.request import DEVICES, KEYS, Request
from rs_embed.request.rois import format_rois, read_rois, spatial_cells
from rs_embed.request.schema import config_schema, format_schema

from ..support.exports import CHECKOUT
from ..support.factories import PROPERTY, assert_refusal, read_config

SCHEMA = Draft202012Validator(config_schema())

# every request can be written and read back -----------------------------------------------------

written = st.characters(codec="utf-8", exclude_characters="\0")  # what paths and files can contain
numbers = st.floats(allow_nan=False, allow_infinity=False)
positive = st.floats(min_value=0, exclude_min=True, allow_infinity=False)
words = st.text(written, min_size=1, max_size=12).filter(str.strip)
paths = words.filter(lambda word: "\0" not in word)
counts = st.none() | st.integers(1, 1024)
name_chars = string.ascii_letters + string.digits + "._-"
names = st.text(name_chars, min_size=1, max_size=20).filter(lambda n: n[0] != "." and n.lower() != "manifest")
labels = st.builds(str.__add__, st.sampled_from(string.ascii_letters), st.text(name_chars + "+", max_size=10))
points = st.builds(PointBuffer, st.floats(-178, 178), st.floats(-85, 85), st.floats(1e-9, 5000))
boxes = st.builds(
    lambda lon, lat, width, height: BBox(lon, lat, lon + width, lat + height),
    st.floats(-180, 179),
    st.floats(-90, 89),
    st.floats(1e-6, 1),
    st.floats(1e-6, 1),
)
dates = st.lists(st.dates(), min_size=2, max_size=2, unique=True).map(sorted)
months = st.sampled_from(["01-01", "07-01"])
windows = st.one_of(
    st.none(),
    st.builds(TemporalSpec.year, st.integers(1, 9998)),
    # from 1 January on, but written as a range
    st.builds(lambda y, end: TemporalSpec.range(f"{y}-01-01", f"{y + 1}-{end}"), st.integers(1000, 9998), months),
    dates.map(lambda pair: TemporalSpec.range(*(d.isoformat() for d in pair))),
)
sensors = st.builds(
    SensorSpec,
    collection=words,
    bands=st.lists(st.text(written, min_size=1, max_size=5), min_size=1, max_size=4, unique=True),
    scale_m=positive,
    cloudy_pct=st.floats(0, 100),
    fill_value=numbers,
    composite=st.sampled_from(["median", "mosaic"]),
    modality=st.none() | words,
    orbit=st.sampled_from([None, "ASCENDING", "DESCENDING"]),
    use_float_linear=st.booleans(),
)
fetches = st.builds(
    FetchSpec,
    scale_m=st.none() | positive,
    cloudy_pct=st.none() | st.floats(0, 100),
    fill_value=st.none() | numbers,
    composite=st.sampled_from([None, "median", "mosaic"]),
)
overrides = st.one_of(
    st.just({}), st.builds(lambda s: {"sensor": s}, sensors), st.builds(lambda f: {"fetch": f}, fetches)
)
values = st.none() | st.booleans() | st.integers() | numbers | st.text(written, max_size=20)
models = words | st.builds(
    lambda kind, **rest: ExportModelRequest(**rest, **kind),
    overrides,
    name=words,
    label=st.none() | labels,
    modality=st.none() | words,
    model_config=st.none() | st.dictionaries(st.text(written, max_size=10), values, max_size=4),
)
configs = st.builds(
    lambda saved, again, **rest: ExportConfig(save_inputs=saved[0], save_embeddings=saved[1], **again, **rest),
    st.sampled_from([(True, True), (True, False), (False, True)]),
    st.sampled_from([{}, {"resume": False}, {"resume": False, "refetch": True}]),
    save_manifest=st.booleans(),
    continue_on_error=st.booleans(),
    fail_on_bad_input=st.booleans(),
    show_progress=st.booleans(),
    chunk_size=counts,
    infer_batch_size=counts,
    cores=counts,
    max_retries=st.integers(0, 99),
    retry_backoff_s=st.floats(0, 3600),
    input_prep=st.sampled_from(
        ["resize", "tile", "auto", InputPrepSpec(tile_size=64), InputPrepSpec("auto", max_tiles=9)]
    ),
    projection=st.sampled_from(["utm", "web_mercator"]),
    work_dir=st.none() | paths,
    store_dir=st.none() | paths,
)


@st.composite
def requests(draw) -> Request:
    spatials = draw(st.lists(points | boxes, min_size=1, max_size=4))
    own = st.none() | dates.map(lambda pair: TemporalSpec.range(*(d.isoformat() for d in pair)))
    unique = st.lists(names, min_size=len(spatials), max_size=len(spatials), unique_by=str.lower)
    return Request.build(
        spatials=spatials,
        names=draw(st.none() | unique),
        temporal=draw(windows),
        models=draw(st.lists(models, min_size=1, max_size=3)),
        target=draw(st.builds(ExportTarget, st.sampled_from(["combined", "per_item"]), paths)),
        config=draw(st.none() | configs),
        backend=draw(st.sampled_from(["auto", "GEE", "sample", "local:/A folder/x.csv"]) | words),
        device=draw(st.sampled_from([None, *DEVICES])),
        output=draw(st.builds(OutputSpec, st.sampled_from(["pooled", "grid"]), st.sampled_from(["mean", "max"]))),
        modality=draw(st.none() | words),
        windows=draw(st.none() | st.lists(own, min_size=len(spatials), max_size=len(spatials))),
        **draw(overrides),
    )


def own_window(request: Request, index: int) -> dict:
    window = request.windows and request.windows[index]
    return {"start": window.start, "end": window.end} if window else {}


@PROPERTY
@given(request=requests(), inline=st.booleans())
def test_a_request_survives_its_config_file_and_its_table(tmp_path_factory, request, inline):
    folder = tmp_path_factory.getbasetemp()
    ids = [f"{i:032x}" for i in range(len(request.names))]
    (folder / "rois.csv").write_text(format_rois(request.spatials, request.names, ids, request.windows))
    rows = [
        {"name": n, **spatial_cells(s), **own_window(request, i)}
        for i, (n, s) in enumerate(zip(request.names, request.spatials))
    ]
    text = yaml.safe_dump(request.to_config(rows if inline else "rois.csv"), sort_keys=False)
    config = yaml.safe_load(text)
    assert [e.message for e in SCHEMA.iter_errors(config)] == []
    again = read_config(config, str(folder))
    assert again == request
    assert repr(again) == repr(request)  # == takes 1, 1.0 and True for the same
    assert hash(again) == hash(request)


def test_a_table_without_names_gives_the_default_ones(tmp_path):
    table = tmp_path / "t.csv"
    # spreadsheets write byte order marks, spaces and blank lines
    table.write_text("\ufeffminlon, minlat, maxlon, maxlat\n\n1, 2, 3, 4\n 5,6,7,8 \n\n", encoding="utf-8")
    assert read_rois("t.csv", str(tmp_path)) == ([BBox(1, 2, 3, 4), BBox(5, 6, 7, 8)], None, None)
    assert read_rois(str(table), "elsewhere")[0][0] == BBox(1, 2, 3, 4)
    table.write_text("name ,lon,lat,buffer_m\n here ,1,2,3\n")
    assert read_rois("t.csv", str(tmp_path)) == ([PointBuffer(1, 2, 3)], ["here"], None)


def test_dates_need_no_quotes_in_a_config_file():
    config = GOOD | yaml.safe_load("temporal: {start: 2022-06-01, end: 2022-09-01}")
    assert read_config(config).temporal == TemporalSpec.range("2022-06-01", "2022-09-01")


# invalid config files ---------------------------------------------------------------------------

GOOD = {
    "rois": [{"name": "a", "lon": 1.0, "lat": 2.0, "buffer_m": 10.0}],
    "temporal": {"year": 2022},
    "models": [{"name": "mosaiks", "label": "one"}, "mosaiks"],
    "target": {"layout": "combined", "path": "out/run"},
    "export": {},
}
SENSOR = {"collection": "S2", "bands": ["B4"]}
REMOVED = object()


def changed(*path_and_value) -> dict:
    """The valid config with one value changed, or removed with REMOVED."""
    *path, last, value = path_and_value
    config = at = copy.deepcopy(GOOD)
    for key in path:
        at = at[key] if isinstance(at, list) else at.setdefault(key, {})
    if value is REMOVED:
        del at[last]
    else:
        at[last] = value
    return config


def named(*names: object) -> dict:
    return changed("rois", [{"name": name, "lon": i, "lat": 2, "buffer_m": 10} for i, name in enumerate(names)])


# (config, error, words of the message); the schema refuses these, too
BROKEN = {
    "unknown key": (changed("model", ["mosaiks"]), ModelError, "'model'", "did you mean 'models'"),
    "unknown option": (changed("export", "chunksize", 8), ModelError, "'chunksize'", "did you mean 'chunk_size'"),
    "unknown target key": (changed("target", "names", ["a"]), ModelError, "target", "'names'", "layout, path"),
    "unknown model key": (changed("models", 0, "lable", "x"), ModelError, "'lable'", "did you mean 'label'"),
    "unknown sensor key": (changed("sensor", SENSOR | {"scale": 1}), SpecError, "'scale'", "did you mean 'scale_m'"),
    "unknown fetch key": (changed("fetch", "cloudy", 5), SpecError, "'cloudy'", "did you mean 'cloudy_pct'"),
    "unknown output key": (changed("output", "poling", "max"), SpecError, "'poling'", "did you mean 'pooling'"),
    "unknown roi key": (changed("rois", 0, "buffer", 5), SpecError, "rois[0]", "'buffer'", "buffer_m"),
    "no rois": (changed("rois", REMOVED), ModelError, "'rois'"),
    "no models": (changed("models", REMOVED), ModelError, "'models'"),
    "no target": (changed("target", None), ModelError, "'target'"),
    "no layout": (changed("target", "layout", REMOVED), ModelError, "'layout'", "'per_item'"),
    "no path": (changed("target", "path", REMOVED), ModelError, "'path'"),
    "no bands": (changed("sensor", {"collection": "S2"}), SpecError, "sensor", "'bands'"),
    "no model name": (changed("models", 0, {"label": "x"}), ModelError, "models", "'name'"),
    "no mapping": (["rois"], ModelError, "config", "['rois']"),
    "rois a number": (changed("rois", 5), SpecError, "rois", "5"),
    "rois empty": (changed("rois", []), ModelError, "[]"),
    "roi a text": (changed("rois", ["here"]), SpecError, "rois[0]", "'here'"),
    "roi of both kinds": (changed("rois", 0, "minlon", 0.0), SpecError, "rois[0]", "minlon"),
    "roi without size": (changed("rois", 0, "buffer_m", REMOVED), SpecError, "rois[0]", "buffer_m"),
    "roi size zero": (changed("rois", 0, "buffer_m", 0), SpecError, "rois[0]", "buffer_m", "0"),
    "roi beyond the pole": (changed("rois", 0, "lat", 100), SpecError, "rois[0]", "lat", "100"),
    "roi lon a truth value": (changed("rois", 0, "lon", True), SpecError, "rois[0]: lon", "True"),
    "name out of the folder": (named("../x"), SpecError, "name", "'../x'"),
    "name with a slash": (named("a/b"), SpecError, "name", "'a/b'"),
    "name with a space": (named("a b"), SpecError, "name", "'a b'"),
    "name with a semicolon": (named("a;rm"), SpecError, "name", "'a;rm'"),
    "name with a dollar": (named("$(x)"), SpecError, "name", "'$(x)'"),
    "name hidden": (named(".x"), SpecError, "name", "'.x'"),
    "name too long": (named("n" * 129), SpecError, "name", "n" * 129),
    "name empty": (named(""), SpecError, "name"),
    "one name empty": (named("a", ""), SpecError, "rois[1]", "name"),
    "temporal a number": (changed("temporal", 2022), SpecError, "temporal", "2022"),
    "year a text": (changed("temporal", {"year": "2022"}), SpecError, "year", "'2022'"),
    "year too late": (changed("temporal", {"year": 9999}), SpecError, "year", "9999"),
    "window without end": (changed("temporal", {"start": "2022-01-01"}), SpecError, "temporal", "'end'"),
    "window with a week": (changed("temporal", {"start": "2022-W01-1", "end": "2023-01-01"}), SpecError, "2022-W01-1"),
    "window of another mode": (
        changed("temporal", {"mode": "month", "start": "2022-01-01", "end": "2022-02-01"}),
        SpecError,
        "'month'",
    ),
    "models a text": (changed("models", "mosaiks"), ModelError, "models", "'mosaiks'"),
    "models empty": (changed("models", []), ModelError, "models", "[]"),
    "model empty": (changed("models", [""]), ModelError, "models", "''"),
    "label unsafe": (changed("models", 0, "label", "$(x)"), ModelError, "models.mosaiks.label", "'$(x)'"),
    "options a list": (changed("models", 0, "model_config", [1]), ModelError, "models.mosaiks.model_config", "[1]"),
    "option a list": (changed("models", 0, "model_config", {"seed": [1]}), ModelError, "model_config.seed", "[1]"),
    "target a path": (changed("target", "out/run"), ModelError, "target", "'out/run'"),
    "layout unknown": (changed("target", "layout", "both"), ModelError, "target.layout", "'both'"),
    "path empty": (changed("target", "path", ""), ModelError, "target.path", "''"),
    "backend a truth value": (changed("backend", False), ModelError, "backend", "False"),
    "backend empty": (changed("backend", ""), ModelError, "backend", "''"),
    "device unknown": (changed("device", "tpu"), ModelError, "device", "'tpu'"),
    "modality a number": (changed("modality", 2), ModelError, "modality", "2"),
    "output unknown": (changed("output", "mode", "cls"), SpecError, "output.mode", "'cls'"),
    "sensor and fetch": (changed("sensor", SENSOR) | {"fetch": {"scale_m": 20}}, ModelError, "fetch", "SensorSpec"),
    "sensor and fetch of a model": (
        changed("models", 0, {"name": "m", "sensor": SENSOR, "fetch": {"scale_m": 20}}),
        ModelError,
        "models.m.fetch",
    ),
    "bands empty": (changed("sensor", SENSOR | {"bands": []}), SpecError, "bands", "[]"),
    "bands a text": (changed("sensor", SENSOR | {"bands": "B4"}), SpecError, "bands", "'B4'"),
    "bands twice": (changed("sensor", SENSOR | {"bands": ["B4", "B4"]}), SpecError, "bands", "['B4', 'B4']"),
    "collection empty": (changed("sensor", SENSOR | {"collection": ""}), SpecError, "collection", "''"),
    "scale zero": (changed("fetch", "scale_m", 0), SpecError, "scale_m", "0"),
    "cloud too high": (changed("fetch", "cloudy_pct", 101), SpecError, "cloudy_pct", "101"),
    "check_input not yet": (changed("sensor", SENSOR | {"check_input": True}), SpecError, "check_input", "True"),
    "chunk a text": (changed("export", "chunk_size", "16"), ModelError, "chunk_size", "'16'"),
    "chunk zero": (changed("export", "chunk_size", 0), ModelError, "chunk_size", "0"),
    "resume a number": (changed("export", "resume", 1), ModelError, "resume", "1"),
    "backoff negative": (changed("export", "retry_backoff_s", -0.5), ModelError, "retry_backoff_s", "-0.5"),
    "format in capitals": (changed("export", "format", "NPZ"), ModelError, "export.format", "'NPZ'"),
    "precision unknown": (changed("export", "precision", "fp16"), ModelError, "precision", "'fp16'"),
    "prep with a wrong key": (changed("export", "input_prep", {"tile": 9}), SpecError, "export.input_prep", "'tile'"),
    "prep with a wrong value": (
        changed("export", "input_prep", {"tile_size": "9"}),
        SpecError,
        "export.input_prep.tile_size",
        "'9'",
    ),
    "nothing to save": (
        changed("export", {"save_inputs": False, "save_embeddings": False}),
        ModelError,
        "save_embeddings",
    ),
    "refetch and resume": (changed("export", "refetch", True), ModelError, "refetch", "True"),
}

# what a schema cannot express: relations between values, files, calendars
BROKEN_BEYOND_SCHEMA = {
    "rois no csv": (changed("rois", "rois.txt"), SpecError, "rois", "'rois.txt'", ".csv"),
    "rois missing": (changed("rois", "missing.csv"), SpecError, "rois", "'missing.csv'"),
    "no such day": (changed("temporal", {"start": "2022-02-30", "end": "2023-01-01"}), SpecError, "'2022-02-30'"),
    "window reversed": (changed("temporal", {"start": "2023-01-01", "end": "2022-01-01"}), SpecError, "'2023-01-01'"),
    "names twice": (named("a", "b", "a"), SpecError, "name", "'a'", "twice"),
    "names but for case": (named("a", "A"), SpecError, "name", "'A'", "case"),
    "name reserved": (named("manifest"), SpecError, "name", "'manifest'"),
    "roi over the antimeridian": (changed("rois", 0, "lon", 180.0), SpecError, "rois[0]", "lon", "180"),
    "box across the antimeridian": (
        changed("rois", [{"minlon": 179.0, "minlat": 0.0, "maxlon": -179.0, "maxlat": 1.0}]),
        SpecError,
        "rois[0]",
        "minlon",
    ),
    "backoff NaN": (changed("export", "retry_backoff_s", math.nan), ModelError, "retry_backoff_s", "nan"),
    "path blank": (changed("target", "path", " "), ModelError, "target.path", "' '"),
}


def test_the_config_that_the_broken_ones_come_from_is_good():
    assert SCHEMA.is_valid(GOOD)
    assert read_config(GOOD).names == ("a",)
    assert len(BROKEN | BROKEN_BEYOND_SCHEMA) == len(BROKEN) + len(BROKEN_BEYOND_SCHEMA)


@pytest.mark.parametrize("case", [*BROKEN, *BROKEN_BEYOND_SCHEMA])
def test_a_broken_config_is_refused_in_a_sentence_with_key_and_value(case, tmp_path):
    config, error, *words = (BROKEN | BROKEN_BEYOND_SCHEMA)[case]
    with pytest.raises(error) as refused:
        read_config(config, str(tmp_path))
    assert_refusal(refused.value, *words)


@pytest.mark.parametrize("case", BROKEN)
def test_the_schema_refuses_a_broken_config_too(case):
    assert not SCHEMA.is_valid(BROKEN[case][0])


HEADER = "name,lon,lat,buffer_m\n"
BROKEN_TABLES = {
    "empty": ("", "allowed: name, lon, lat, buffer_m"),
    "no header": ("a,1,2,3\n", "'a'"),
    "unknown column": ("name,longitude,lat,buffer_m\na,1,2,3\n", "'longitude'"),
    "column missing": ("name,lon,lat\na,1,2\n", "name, lon, lat", "buffer_m"),
    "column twice": ("lon,lat,lat,buffer_m\n1,2,3,4\n", "lat"),
    "too many cells": (HEADER + "a,1,2,3\nb,1,2,3,4\n", "line 3", "4"),
    "too few cells": (HEADER + "a,1,2,3\nb,1,2\n", "line 3", "buffer_m"),
    "no number": (HEADER + "a,1,2,3\nb,1,north,3\n", "line 3", "lat", "'north'"),
    "decimal comma": (HEADER + 'a,1,"2,5",3\n', "line 2", "lat", "'2,5'"),
    "not a number": (HEADER + "a,1,2,3\nb,1,nan,3\n", "line 3", "lat", "nan"),
    "beyond the pole": (HEADER + "a,1,2,3\nb,1,100,3\n", "line 3", "lat", "100"),
    "after a blank line": (HEADER + "\n\na,1,2,3\nb,1,x,3\n", "line 5", "lat", "'x'"),
    "both kinds in a row": ("lon,lat,buffer_m,minlon,minlat,maxlon,maxlat\n1,2,3,1,2,3,4\n", "line 2", "minlon"),
    "a name missing": (HEADER + "a,1,2,3\n,1,2,3\n", "line 3", "name"),
    "no rows": (HEADER, "empty"),
    "unsafe name": (HEADER + "../x,1,2,3\n", "name", "'../x'"),
    "not UTF-8": ((HEADER + "pré,1,2,3\n").encode("latin-1"), "rois.csv", "UTF-8"),
}


@pytest.mark.parametrize("case", BROKEN_TABLES)
def test_a_broken_table_is_refused_with_its_line(case, tmp_path):
    text, *words = BROKEN_TABLES[case]
    (tmp_path / "rois.csv").write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(SpecError) as refused:
        read_config(GOOD | {"rois": "rois.csv"}, str(tmp_path))
    assert_refusal(refused.value, *words)


# files of the checkout --------------------------------------------------------------------------


def test_the_schema_is_a_schema_of_all_keys_and_its_file_is_up_to_date():
    Draft202012Validator.check_schema(config_schema())
    assert tuple(config_schema()["properties"]) == KEYS
    assert (CHECKOUT / "workflow/schemas/config.schema.yaml").read_text() == format_schema()


def test_the_example_config_is_valid_complete_and_shows_the_defaults():
    config = yaml.safe_load((CHECKOUT / "config/config.yaml").read_text())
    assert [e.message for e in SCHEMA.iter_errors(config)] == []
    assert set(config) == set(KEYS)
    # options of the Python call alone: Snakemake has its own --cores, --profile and --quiet
    assert set(config["export"]) == set(ExportConfig.keywords()) - {"cores", "profile", "show_progress"}
    defaults = dataclasses.asdict(ExportConfig())
    assert repr(config["export"]) == repr({k: defaults[k] for k in config["export"]})  # 1 is not true
    made = read_config(config, str(CHECKOUT))
    assert (made.config, made.output, made.device) == (ExportConfig(), OutputSpec(), "auto")
    assert (made.sensor, made.fetch, made.modality) == (None, None, None)
