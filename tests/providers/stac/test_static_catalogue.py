"""Static catalogues with odd items: an item is judged when a ROI may need it."""

from __future__ import annotations

import json

import numpy as np
import pytest

from rs_embed import ProviderError, SpecError
from rs_embed.providers.stac import search
from rs_embed.runs.run_files import freeze_run, load_run

from ...support.rasters import at, noise
from ...support.stac_server import Fault
from ..rasters.test_local import _config
from .test_provider import at_loopback, planned

SPATIAL = at(30, 30)
FAR = [-80.0, 10.0, -79.0, 11.0]


def far(item: dict, **changes) -> dict:
    return item | {"bbox": FAR, "geometry": None} | changes


def without(item: dict, key: str) -> dict:
    return item | {"properties": {k: v for k, v in item["properties"].items() if k != key}}


#: Items that nobody needs, or of which nobody knows who needs them.
ODD = {
    "no location": lambda i: {k: v for k, v in i.items() if k not in ("bbox", "geometry")} | {"geometry": None},
    "location of another kind": lambda i: i | {"bbox": None, "geometry": {"type": "GeometryCollection"}},
    "no time": lambda i: i | {"properties": {"datetime": None}},
    "a time that is none": lambda i: i | {"properties": {"datetime": "yesterday"}},
    "no properties": lambda i: i | {"properties": None},
    "no assets": lambda i: i | {"assets": None},
    "no id, far away": lambda i: far({k: v for k, v in i.items() if k != "id"}),
    "no time, far away": lambda i: far(without(i, "datetime")),
    "a missing file, far away": lambda i: far(i, assets={"blue": {"href": "./none.tif", "type": "image/tiff"}}),
    "nodata that is none, far away": lambda i: far(i, assets={"blue": i["assets"]["blue"] | {"nodata": []}}),
    "a link that is none, far away": lambda i: far(i, assets={"blue": {"href": "http://[none/a.tif"}}),
    "links that are none, far away": lambda i: far(i, links=[1, {"rel": "self", "href": "http://[none/"}]),
    "a list": lambda i: [],
    "a text": lambda i: "no item",
}
#: Those of them that no ROI here may need.
SILENT = {"no assets", *(k for k in ODD if "far away" in k)}


@pytest.mark.parametrize(
    ("odd", "form"),
    [(odd, "catalog.json") for odd in ODD]
    + [(odd, "http") for odd in ("no location", "no time", "a missing file, far away", "a list")]
    + [(odd, "items.json") for odd in ("no location", "a text")],
)
def test_an_odd_item_refuses_nothing_and_hides_nothing(scenes, odd, form):
    pixels = noise(0)
    scenes.add_scene("a", pixels)
    scenes.stac.items.append(ODD[odd](scenes.stac.items[0] | {"id": "odd"}))
    backend = write(scenes, form)
    got, _ = scenes.chip(SPATIAL, backend)
    # items without a location are found by their files on disk
    located = form != "http" and odd in ("no location", "location of another kind")
    assert np.array_equal(got.pixels, pixels[:, 20:40, 20:40])
    assert [s["scene"] for s in got.provenance["scenes"]] == ["a", *(["odd"] if located else [])]
    assert bool(got.warnings) == (odd not in SILENT and not located), got.warnings
    assert not got.warnings or "is left out" in got.warnings[0]


def write(scenes, form: str) -> str:
    """Write the items as a static catalogue; returns the backend."""
    items = json.loads(json.dumps(scenes.stac.items).replace(f"{scenes.stac.files}/", "./"))
    (scenes.root / "items.json").write_text(json.dumps({"type": "FeatureCollection", "features": items}))
    links = []
    for number, item in enumerate(items):
        (scenes.root / f"item{number}.json").write_text(json.dumps(item))
        links.append({"rel": "item", "href": f"./item{number}.json"})
    head = {"type": "Catalog", "id": "c", "stac_version": "1.1.0", "description": "c", "links": links}
    (scenes.root / "catalog.json").write_text(json.dumps(head))
    return f"stac:{scenes.stac.files}/catalog.json" if form == "http" else f"stac:{scenes.root / form}"


def test_items_without_a_collection_are_used(scenes):
    scenes.add_scene("a", noise(0))["collection"] = None
    del scenes.add_scene("b", noise(1), day="2022-07-02")["collection"]
    scenes.add_scene("c", noise(2), day="2022-07-03")["collection"] = "other"
    got, _ = scenes.chip(SPATIAL, write(scenes, "catalog.json"))
    assert [s["scene"] for s in got.provenance["scenes"]] == ["a", "b"]


def test_items_with_one_id_do_not_hide_each_other(scenes):
    scenes.add_scene("a", noise(0), corner=(555000, 6350000))
    scenes.add_scene("b", noise(1))["id"] = "a"
    backend = write(scenes, "catalog.json")
    for spatial, name in ((SPATIAL, "b"), (at(530, 30), "a")):
        got, _ = scenes.chip(spatial, backend)
        seed = {"a": 0, "b": 1}[name]
        assert np.array_equal(got.pixels, noise(seed)[:, 20:40, 20:40])
    made = planned(scenes, [SPATIAL, at(530, 30)], backend=backend)
    freeze_run(made)
    job = load_run(made.dir)
    source = job.plan.sources[0]
    for index, seed in ((0, 1), (1, 0)):
        roi = job.roi(index)
        chip = job.provider.fetch(source, source.bands, roi, job.grid(source, roi))
        assert np.array_equal(chip.pixels, noise(seed)[:, 20:40, 20:40])


def test_what_was_left_out_is_known_to_jobs(scenes):
    scenes.add_scene("a", noise(0))
    scenes.stac.items.append(ODD["no time"](scenes.stac.items[0] | {"id": "odd"}))
    scenes.stac.items.append(ODD["no time, far away"](scenes.stac.items[0] | {"id": "far"}))
    made = planned(scenes, [SPATIAL], backend=write(scenes, "catalog.json"))
    assert [f["name"] for f in made.provider.freeze()["left_out"]] == ["odd"]
    freeze_run(made)
    job = load_run(made.dir)
    source, roi = job.plan.sources[0], job.roi(0)
    chip = job.provider.fetch(source, source.bands, roi, job.grid(source, roi))
    assert chip.warnings[0].startswith("1 item is left out (odd): STAC item 'odd'")


def test_a_file_that_a_roi_needs_must_exist(scenes):
    scenes.add_scene("a", noise(0))
    backend = write(scenes, "catalog.json")
    (scenes.root / "a_B2.tif").unlink()
    with pytest.raises(ProviderError, match=r"a_B2.tif' cannot be read: No such file"):
        planned(scenes, [SPATIAL], backend=backend)
    made = planned(scenes, [SPATIAL], backend=backend, config=_config("utm", continue_on_error=True))
    source, roi = made.plan.sources[0], made.roi(0)
    with pytest.raises(ProviderError, match="a_B2"):
        made.provider.fetch(source, source.bands, roi, made.grid(source, roi))


def test_an_item_that_a_roi_needs_must_be_valid(scenes, monkeypatch):
    s2 = "COPERNICUS/S2_SR_HARMONIZED"
    kind = (s2, "sentinel-2-l2a")
    scenes.add_scene("good", noise(0), collection=kind, **{"s2:processing_baseline": "03.00"})
    near = scenes.add_scene("odd", noise(1), day="2022-07-02", collection=kind, **{"eo:cloud_cover": 20})
    backend = at_loopback(monkeypatch, scenes, "earth-search")
    options = {"backend": backend, "stac": None, "collection": s2}
    with pytest.raises(ProviderError, match="ROI 'p00000': an item that it needs cannot be used: STAC item 'odd'"):
        planned(scenes, [SPATIAL], **options)
    planned(scenes, [SPATIAL], cloudy_pct=10, **options)
    got, _ = scenes.chip(SPATIAL, config=_config("utm", continue_on_error=True), **options)
    assert [s["scene"] for s in got.provenance["scenes"]] == ["good"]
    assert "1 item is left out (odd)" in got.warnings[0]
    near |= {"bbox": FAR, "geometry": None}
    planned(scenes, [SPATIAL], **options)


def test_a_message_about_no_imagery_names_what_was_left_out(scenes):
    scenes.add_scene("a", noise(0))
    scenes.stac.items[:] = [ODD["no time"](scenes.stac.items[0])]
    with pytest.raises(SpecError, match=r"has no imagery .*1 item is left out \(a\): STAC item 'a': datetime: 'NONE'"):
        planned(scenes, [SPATIAL], backend=write(scenes, "catalog.json"))


@pytest.mark.parametrize(
    ("content", "form"),
    [(None, "catalog.json"), (None, "http"), ("{", "catalog.json"), ("[]", "http"), ("<html>Log in</html>", "http")],
)
def test_an_item_that_cannot_be_read_is_left_out_with_a_warning(scenes, form, content):
    scenes.add_scene("a", noise(0))
    scenes.add_scene("b", noise(1), day="2022-07-02")
    backend = write(scenes, form)
    path = scenes.root / "item1.json"
    path.unlink() if content is None else path.write_text(content)
    got, _ = scenes.chip(SPATIAL, backend)
    assert np.array_equal(got.pixels, noise(0)[:, 20:40, 20:40])
    assert "1 item is left out" in got.warnings[0]
    assert "item1.json cannot be read" in got.warnings[0]


def test_a_link_that_is_no_url_is_an_item_that_is_left_out(scenes):
    scenes.add_scene("a", noise(0))
    backend = write(scenes, "http")
    head = json.loads((scenes.root / "catalog.json").read_text())
    head["links"] += [{"rel": "item", "href": "http://[none/?token=SECRET"}, {"rel": "item"}, 5]
    (scenes.root / "catalog.json").write_text(json.dumps(head))
    got, _ = scenes.chip(SPATIAL, backend)
    assert got.valid == 1
    assert "its link is no URL" in got.warnings[0]
    assert "SECRET" not in got.warnings[0]


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"II*\0rest", "it is a raster, not a STAC document"),
        (b"\xff\xfe\0", "it is not JSON"),
        (b"<html>Log in</html>", "it is a web page instead of JSON"),
        (b"[1]", "it is not a JSON object"),
        (b'{"type": "Topology"}', "its type is 'Topology'"),
        (b'{"a": ' * 100000, "it is not JSON"),
    ],
)
def test_what_is_no_catalogue_is_named(scenes, content, words):
    (scenes.root / "c.json").write_bytes(content)
    for backend in (f"stac:{scenes.root / 'c.json'}", f"stac:{scenes.stac.files}/c.json"):
        with pytest.raises(ProviderError, match=words) as found:
            planned(scenes, [SPATIAL], backend=backend)
        assert not found.value.retryable
    assert scenes.stac.count("/c.json") == 1


def test_a_remote_catalogue_that_fails_for_now_is_read_again(scenes, monkeypatch):
    from urllib3 import Retry

    monkeypatch.setattr(Retry, "get_backoff_time", lambda self: 0)
    monkeypatch.setattr(search, "TIMEOUT_S", (1, 1))
    scenes.add_scene("a", noise(0))
    backend = write(scenes, "http")
    scenes.stac.faults = [Fault("503", "item0.json", times=2)]
    assert scenes.chip(SPATIAL, backend)[0].valid == 1
    scenes.stac.faults = [Fault("503", "item0.json")]
    with pytest.raises(ProviderError, match=r"item0.json cannot be read: HTTP 503") as found:
        planned(scenes, [SPATIAL], backend=backend)
    assert found.value.retryable


def test_catalogues_that_link_to_each_other_are_read_once(scenes):
    scenes.add_scene("a", noise(0))
    backend = write(scenes, "http")
    head = json.loads((scenes.root / "catalog.json").read_text())
    other = head | {"links": [{"rel": "child", "href": "./catalog.json"}, {"rel": "item", "href": "item0.json"}]}
    skipped = head | {"type": "Collection", "id": "other", "links": [{"rel": "item", "href": "none.json"}]}
    head["links"] += [{"rel": "child", "href": "./other.json"}, {"rel": "child", "href": "./skipped.json"}]
    for name, content in (("catalog", head), ("other", other), ("skipped", skipped)):
        (scenes.root / f"{name}.json").write_text(json.dumps(content))
    assert scenes.chip(SPATIAL, backend)[0].valid == 1
    assert scenes.stac.count("item0.json") == scenes.stac.count("catalog.json") == 1
    assert scenes.stac.count("none.json") == 0
