"""Hostile values in a request, a table, a catalogue or a checkpoint raise an error of the package,
and nothing is run."""

from __future__ import annotations

import json
import pickle
import subprocess
import sys
import warnings
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rs_embed.errors import ModelError, ProviderError, RSEmbedError, SpecError, StoreError
from rs_embed.providers.rasters import catalogue
from rs_embed.providers.stac import items
from rs_embed.providers.stac.services import EARTH_SEARCH, refuse_secrets
from rs_embed.request import request
from rs_embed.request.fields import LONGEST_TEXT, MAX_DEPTH
from rs_embed.request.geometry import Grid, refuse_too_large
from rs_embed.request.rois import read_rois
from rs_embed.runs.open_run import open_config
from rs_embed.store.objects import read_object, write_object
from rs_embed.weights.loading import read_tensors

from ..support.exports import places
from ..support.factories import PROPERTY

FUZZ = settings(PROPERTY, max_examples=150)
#: Texts that are dangerous in shells, formats, paths, encodings, tables or YAML.
NASTY = (
    *(
        "",
        " ",
        "\0",
        "\n",
        "a\nb",
        "\ud800",
        "\u202e",
        "é" * 300,
        "x" * 20_000,
        "../x",
        "../../etc/passwd",
        "/dev/zero",
        "~",
        "-rf",
        ".",
    ),
    *(
        "{x}",
        "{",
        "$(touch pwned)",
        "`touch pwned`",
        "'; touch pwned; '",
        "a b",
        "%s%n",
        "\\",
        "C:\\x",
        "*",
        "<x>",
        "null",
        "nan",
        "1e999",
    ),
    *(
        "!!python/object/apply:os.system [touch pwned]",
        "=cmd|' /C calc'!A0",
        "sample",
        "mosaiks",
        "local:",
        "stac:",
        "2022-06-01",
    ),
)
texts = st.sampled_from(NASTY) | st.text(max_size=8)
numbers = (
    st.sampled_from([0, -1, 1, 10**9, 10**400, 1e308, -1e308, 5e-324, float("nan"), float("inf")])
    | st.integers()
    | st.floats()
)
atoms = st.none() | st.booleans() | numbers | texts
KEYS = (
    "name",
    "lon",
    "lat",
    "buffer_m",
    "minlon",
    "year",
    "start",
    "layout",
    "path",
    "model_config",
    "weights",
    "mode",
    "bands",
)
values = st.recursive(
    atoms,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from(KEYS) | texts, inner, max_size=4),
    max_leaves=12,
)


def config(**changes) -> dict:
    """A config that would be accepted, but for ``changes``."""
    spot = places(1)[0]
    return {
        "rois": [{"lon": spot.lon, "lat": spot.lat, "buffer_m": spot.buffer_m}],
        "temporal": {"start": "2022-06-01", "end": "2022-09-01"},
        "models": ["mosaiks"],
        "target": {"layout": "combined", "path": "run"},
        "backend": "sample",
    } | changes


@pytest.fixture(scope="module")
def empty(tmp_path_factory):
    """A folder that tests must leave empty."""
    folder = tmp_path_factory.mktemp("empty")
    yield folder
    assert list(folder.iterdir()) == []


def refused(call, *, kinds: type | tuple = RSEmbedError) -> str | None:
    """The message of an error of the package, None without one; other errors fail the test."""
    try:
        call()
    except kinds as error:
        text = str(error)
        assert text
        assert len(text) <= 4100
        return text
    return None


@FUZZ
@given(st.sampled_from(request.KEYS), values)
def test_any_value_of_any_key(empty, key, value):
    refused(lambda: open_config(config(**{key: value}), str(empty)))


@FUZZ
@given(st.dictionaries(st.sampled_from(["rois", "models", "target", "export", "temporal", "backend"]) | texts, values))
def test_any_config(empty, given_config):
    refused(lambda: open_config(given_config, str(empty)))


@pytest.mark.parametrize(
    "changes",
    [
        {"models": ["a\0b"]},
        {"backend": "local:\0"},
        {"backend": "stac:\ud800"},
        {"models": [{"name": "remoteclip", "model_config": {"weights": "\ud800"}}]},
        {"export": {"work_dir": "\ud800"}},
        {"export": {"store_dir": "a" * 5000}},
        {"target": {"layout": "combined", "path": "a" * 300}},
        {"target": {"layout": "combined", "path": "/".join(["a" * 200] * 30)}},
        {"backend": "x" * (LONGEST_TEXT + 1)},
        {"export": {"infer_batch_size": 10**9}},
        {"export": {"num_workers": 10**30}},
        {"export": {"cores": 10**400}},
    ],
)
def test_values_that_raised_other_errors_before(empty, changes):
    assert refused(lambda: open_config(config(**changes), str(empty)), kinds=(ModelError, SpecError))


@pytest.mark.parametrize("leaf", ["lol", {}])
def test_a_bomb_is_not_unfolded(empty, leaf):
    """An alias of YAML is one object; without aliases this would be ten billion objects."""
    bomb = [leaf]
    for _ in range(10):
        bomb = [bomb] * 10 if leaf else {str(i): bomb for i in range(10)}
    assert "nested deeper" in refused(lambda: open_config(config(models=bomb), str(empty)))
    deep: list = []
    for _ in range(100_000):
        deep = [deep]
    assert f"deeper than {MAX_DEPTH} levels" in refused(lambda: open_config(config(models=deep), str(empty)))
    while deep:  # the collector would recurse
        deep = deep.pop()


@FUZZ
@given(content=st.binary(max_size=200) | st.lists(st.lists(texts, max_size=5).map(",".join), max_size=5).map("\n".join))
@pytest.mark.parametrize("name", ["rois.csv", "rois.geojson", "rois.gpkg"])
def test_any_table(tmp_path_factory, name, content):
    path = tmp_path_factory.mktemp("table") / name
    head = b"name,lon,lat,buffer_m\n" if name.endswith("csv") else b""
    path.write_bytes(head + (content if isinstance(content, bytes) else content.encode("utf-8", "surrogatepass")))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # of GDAL, about what it reads
        refused(lambda: read_rois(str(path), "."), kinds=SpecError)


@FUZZ
@given(st.dictionaries(st.sampled_from(["type", "features", "crs", "geometry", "coordinates"]), values))
def test_any_geojson(tmp_path_factory, members):
    path = tmp_path_factory.mktemp("table") / "rois.geojson"
    feature = {"type": "Feature", "properties": members, "geometry": {"type": "Point"} | members}
    path.write_text(json.dumps({"type": "FeatureCollection", "features": [feature]} | members), encoding="utf-8")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        refused(lambda: read_rois(str(path), "."), kinds=SpecError)


@FUZZ
@given(st.binary(max_size=300) | st.lists(st.lists(texts, max_size=10).map(",".join), max_size=4).map("\n".join))
def test_any_catalogue(tmp_path_factory, content):
    path = tmp_path_factory.mktemp("catalogue") / "catalogue.csv"
    data = content if isinstance(content, bytes) else content.encode("utf-8", "surrogatepass")
    path.write_bytes(b"path,collection,datetime,bands,scene,cloud_cover,scale,offset,nodata,orbit\n" + data)
    refused(lambda: catalogue.read_catalogue(str(path)), kinds=ProviderError)


ITEM = {
    "type": "Feature",
    "id": "one",
    "bbox": [12.0, 51.0, 13.0, 52.0],
    "properties": {"datetime": "2022-07-01T00:00:00Z", "earthsearch:boa_offset_applied": True},
    "assets": {"red": {"href": "https://example.org/red.tif", "type": "image/tiff"}},
}


@FUZZ
@given(
    st.sampled_from(
        [*ITEM, "geometry", "properties.datetime", "properties.eo:cloud_cover", "assets.red", "assets.red.href"]
    ),
    values,
)
def test_any_stac_item(where, value):
    item = json.loads(json.dumps(ITEM))
    *path, last = where.split(".")
    part = item
    for word in path:
        part = part[word]
    part[last] = value
    (mapped,) = EARTH_SEARCH.collections["COPERNICUS/S2_SR_HARMONIZED"][:1]
    refused(lambda: items.parse_item(item, "COPERNICUS/S2_SR_HARMONIZED", mapped, None), kinds=ProviderError)


def test_a_service_cannot_refer_to_files_of_this_machine():
    (mapped,) = EARTH_SEARCH.collections["COPERNICUS/S2_SR_HARMONIZED"][:1]
    item = ITEM | {"assets": {"red": {"href": "/etc/passwd", "type": "image/tiff"}}}
    assert items.parse_item(item, "COPERNICUS/S2_SR_HARMONIZED", mapped, None) is None


@pytest.mark.parametrize(
    "url", ["https://me:hunter2@host/stac", "https://host/stac?token=hunter2", "https://host/stac#hunter2"]
)
def test_no_token_gets_into_a_manifest_by_the_url_of_a_backend(empty, url):
    message = refused(lambda: open_config(config(backend=f"stac:{url}"), str(empty)), kinds=ModelError)
    assert message
    assert "hunter2" not in message
    refuse_secrets("https://host/stac/v1")


class Bomb:
    """Creates a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


@pytest.mark.parametrize("kind", ["pickle", "torch", "torch, old", "wrapped"])
def test_no_pickle_of_a_checkpoint_is_run(tmp_path, kind):
    import torch

    bomb, path = Bomb(tmp_path / "boom"), tmp_path / "weights.pt"
    if kind == "pickle":
        path.write_bytes(pickle.dumps(bomb))
    else:
        content = {"state_dict": {"a": torch.zeros(1), "b": bomb}} if kind == "wrapped" else bomb
        torch.save(content, path, _use_new_zipfile_serialization=kind != "torch, old")
    assert refused(lambda: read_tensors(path), kinds=ModelError)
    assert not bomb.path.exists()


@FUZZ
@given(
    st.binary(max_size=300),
    st.sampled_from([b"", b"PK\x03\x04", b"\x80\x02", b"\x10\0\0\0\0\0\0\0{", b"\xff" * 8 + b"{"]),
)
def test_any_bytes_as_a_checkpoint(tmp_path_factory, data, head):
    path = tmp_path_factory.mktemp("weights") / "weights.pt"
    path.write_bytes(head + data)
    refused(lambda: read_tensors(path), kinds=ModelError)


def test_no_pickle_of_an_object_is_run(tmp_path):
    """Also with a valid digest: the array contains Python objects."""
    import numpy as np

    boom, path = tmp_path / "boom", tmp_path / "a.npy"
    write_object(path, np.zeros(1), {})
    footer = path.read_bytes()[-48 - 2 :]
    array = np.empty(1, object)
    array[0] = Bomb(boom)
    with open(path, "wb") as file:
        np.lib.format.write_array(file, array, allow_pickle=True)
        file.write(footer[:-32])
    import hashlib

    data = path.read_bytes()
    path.write_bytes(data + hashlib.sha256(data).digest())
    with pytest.raises(StoreError, match="damaged object"):
        read_object(path)
    assert not boom.exists()


@FUZZ
@given(st.binary(max_size=400))
def test_any_bytes_as_an_object(tmp_path_factory, data):
    path = tmp_path_factory.mktemp("object") / "a.npy"
    path.write_bytes(data)
    refused(lambda: read_object(path), kinds=StoreError)


def test_a_chip_that_does_not_fit_into_memory_is_refused_with_its_pixels():
    grid = Grid("EPSG:32633", (10.0, 0.0, 0.0, 0.0, -10.0, 0.0), 32768, 32768)
    refuse_too_large(grid, 1, "ROI 'a'")
    with pytest.raises(
        SpecError, match="ROI 'a': 32768 x 32768 pixels with 12 bands and frames are 12,884,901,888 numbers"
    ):
        refuse_too_large(grid, 12, "ROI 'a'")


def test_half_a_continent_is_refused_before_anything_runs(empty):
    box = {"minlon": 0.0, "minlat": 40.0, "maxlon": 5.0, "maxlat": 50.0}
    message = refused(lambda: open_config(config(rois=[box]), str(empty)), kinds=SpecError)
    assert "ROI 'p00000'" in message
    assert "32768 pixels a side" in message or "a side" in message


def test_the_command_line_prints_one_line(tmp_path):
    for arguments in (
        ["fetch", "--run", str(tmp_path), "--source", "x", "--part", "y"],
        ["status", "\udcff"],
        ["models", "$(x)"],
    ):
        command = [sys.executable, "-m", "rs_embed", *arguments]
        done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
        assert done.returncode
        assert "Traceback" not in done.stderr
        assert done.stderr.count("\n") == 1
