"""APIs that are searched in one way only, that do not say what they are, or that want a login."""

from __future__ import annotations

import json

import numpy as np
import pytest

from rs_embed import ProviderError
from rs_embed.providers.stac import search

from ...support.rasters import at, noise
from ...support.stac_scenes import SETTINGS
from ...support.stac_server import Fault
from .test_provider import planned

SPATIAL = at(30, 30)


@pytest.fixture(autouse=True)
def without_waiting(impatient):
    """Failures of a server are noticed at once."""


@pytest.mark.parametrize("conforms", [True, False])
@pytest.mark.parametrize("methods", [("GET", "POST"), ("GET",), ("POST",)])
def test_an_api_is_searched_with_the_method_that_it_has(scenes, methods, conforms):
    for i in range(3):
        scenes.add_scene(f"s{i}", noise(i), day=f"2022-07-0{i + 1}")
    scenes.stac.methods, scenes.stac.conforms, scenes.stac.page = methods, conforms, 2
    got, _ = scenes.chip(SPATIAL)
    assert [s["scene"] for s in got.provenance["scenes"]] == ["s0", "s1", "s2"]
    assert np.array_equal(got.pixels, np.median([noise(i) for i in range(3)], axis=0)[:, 20:40, 20:40])


@pytest.mark.parametrize("status", ["404", "405", "501"])
def test_a_refused_post_becomes_a_get_for_all_searches(scenes, status):
    scenes.add_scene("a", noise(0))
    scenes.add_scene("b", noise(1), corner=(850000, 6350000))
    scenes.stac.faults = [Fault(status, "/search", times=1)]
    planned(scenes, [SPATIAL, at(30, 30, corner=(850000, 6350000))])
    methods = [a.method for a in scenes.stac.requests if a.path == "/search"]
    assert methods.count("GET") >= 1
    assert 3 <= len(methods) <= 4


def test_the_method_can_be_set(scenes):
    scenes.add_scene("a", noise(0))
    for method in ("GET", "POST"):
        scenes.stac.requests.clear()
        planned(scenes, [SPATIAL], stac=SETTINGS | {"search_method": method.lower()})
        assert [a.method for a in scenes.stac.requests if a.path == "/search"] == [method]
    scenes.stac.methods = ("GET",)
    with pytest.raises(ProviderError, match="HTTP 405"):
        planned(scenes, [SPATIAL], stac=SETTINGS | {"search_method": "POST"})


@pytest.mark.parametrize("path", ["", "/search"])
def test_a_page_to_log_in_is_no_api(scenes, path):
    scenes.add_scene("a", noise(0))
    scenes.stac.faults = [Fault("page", path)]
    with pytest.raises(
        ProviderError, match="it answers with a web page instead of JSON, perhaps one to log in"
    ) as found:
        planned(scenes, [SPATIAL])
    assert not found.value.retryable
    assert len(scenes.stac.requests) == (1 if not path else 2)


def test_a_page_to_log_in_is_no_raster(scenes):
    scenes.add_scene("a", noise(0), bands=("B2",))
    made = planned(scenes, [SPATIAL], bands=("B2",))
    source, roi = made.plan.sources[0], made.roi(0)
    scenes.stac.faults = [Fault("page")]
    scenes.stac.requests.clear()
    with pytest.raises(ProviderError) as found:
        made.provider.fetch(source, source.bands, roi, made.grid(source, roi))
    assert not found.value.retryable, "so nobody asks again"
    assert "the server answers with a web page (HTTP 200), perhaps one to log in; allowed" in str(found.value)
    assert len(scenes.stac.requests) <= 4


def test_pages_are_told_from_json():
    assert search.is_page("\ufeff \n<!DOCTYPE html>")
    assert not search.is_page('{"type": "Catalog"}')


def test_times_are_those_of_rfc_3339(scenes):
    item = scenes.add_scene("a", noise(0))
    for text in ("2022-07-01t10:00:00z", "2022-07-01T12:00:00.123456789+02:00", "2022-07-01T10:00:00.1Z"):
        item["properties"]["datetime"] = text
        (scenes.root / "items.json").write_text(json.dumps({"type": "FeatureCollection", "features": [item]}))
        got, _ = scenes.chip(SPATIAL, f"stac:{scenes.root / 'items.json'}")
        assert got.provenance["scenes"][0]["datetime"] == "2022-07-01T10:00:00Z"
