"""Links of STAC items: what tells files apart, what is never stored, and relative links."""

from __future__ import annotations

import json
from urllib.parse import quote

import numpy as np
import pytest

from rs_embed import ProviderError, SpecError
from rs_embed.providers.stac import links
from rs_embed.runs.run_files import freeze_run

from ...support.rasters import at, noise
from .test_provider import objects, planned

AZURE = "sv=2021-06-08&st=2026-01-01&se=2026-01-02&sr=c&sp=rl&skoid=1&sktid=2&skt=3&ske=4&sks=b&skv=5&SIG=SECRET%2B"
AMAZON = (
    "X-Amz-Algorithm=AWS4&x-amz-credential=SECRET&X-Amz-Date=1&X-Amz-Expires=9&X-Amz-SignedHeaders=host"
    "&X-Amz-Signature=SECRET&X-Amz-Security-Token=SECRET"
)


@pytest.mark.parametrize(
    ("query", "kept"),
    [
        ("", ""),
        ("versionId=3&path=a%20b", "versionId=3&path=a%20b"),
        ("id=1&sp=2&st=3&sr=4&policy=5&expires=6", "id=1&sp=2&st=3&sr=4&policy=5&expires=6"),
        (AZURE, ""),
        (f"asset=red&{AZURE}&band=2", "asset=red&band=2"),
        (AMAZON, ""),
        (f"versionId=3&{AMAZON}", "versionId=3"),
        ("AWSAccessKeyId=SECRET&Signature=SECRET&Expires=1&x=y", "x=y"),
        ("Policy=SECRET&Signature=SECRET&Key-Pair-Id=SECRET&file=a", "file=a"),
        ("X-Goog-Algorithm=1&X-Goog-Signature=SECRET&X-Goog-Custom=2&file=a", "file=a"),
        ("GoogleAccessId=SECRET&Signature=SECRET&Expires=1", ""),
        ("file=a&Token=SECRET&access_token=SECRET&API_KEY=SECRET&Subscription-Key=SECRET", "file=a"),
        ("auth=SECRET&AuthKey=SECRET&auth_key=SECRET&jwt=SECRET&file=a", "file=a"),
        ("sas_token=SECRET&SasToken=SECRET&id_token=SECRET&session_token=SECRET&file=a", "file=a"),
        ("access_key=SECRET&secret=SECRET&client_secret=SECRET&key=a%2Fb.tif", "key=a%2Fb.tif"),
    ],
)
def test_a_link_loses_its_signature_and_secrets_and_nothing_else(query, kept):
    found, removed = links.remove_secrets(f"https://host/a.tif?{query}#part")
    assert found == f"https://host/a.tif{'?' + kept if kept else ''}"
    assert bool(removed) == (query != kept)
    assert "SECRET" not in found + str(removed)


def test_a_user_and_password_are_removed_from_a_link():
    assert links.remove_secrets("https://me:hunter2@host:8/a.tif?x=1") == (
        "https://host:8/a.tif?x=1",
        ("user and password",),
    )


@pytest.mark.parametrize("signed", ["", f"&{AZURE}", f"&{AMAZON}", "&token=SECRET"])
def test_links_that_differ_in_their_query_are_different_files(scenes, signed):
    pixels = noise(0)
    item = scenes.add_scene("a", pixels)
    for band, asset in (("B2", "blue"), ("B3", "green")):
        item["assets"][asset]["href"] = f"{scenes.stac.files}/download?file=a_{band}.tif{signed}"
    got, _ = scenes.chip(at(30, 30))
    assert np.array_equal(got.pixels, pixels[:, 20:40, 20:40])
    assert {a.query.partition("&")[0] for a in scenes.stac.requests if "/download" in a.path} == {
        "file=a_B2.tif",
        "file=a_B3.tif",
    }


def test_the_name_of_a_chip_depends_on_the_query_and_not_on_the_signature(scenes):
    item = scenes.add_scene("a", noise(0))
    asset = item["assets"]["blue"]
    plain = asset["href"]
    names = []
    for query in ("v=1", "v=2", f"v=1&{AZURE}", f"{AMAZON}&v=1"):
        asset["href"] = f"{plain}?{query}"
        names.append(objects(scenes, [at(30, 30)])[0])
    assert names[0] == names[2] == names[3] != names[1]


def test_a_removed_signature_is_named_where_the_file_needs_it_and_stored_nowhere(scenes):
    item = scenes.add_scene("a", noise(0), bands=("B2",))
    item["assets"]["blue"]["href"] = (
        item["assets"]["blue"]["href"].replace("://", "://me:SECRET@") + f"?{AZURE}&token=SECRET"
    )
    scenes.stac.signed = True
    made = planned(scenes, [at(30, 30)], bands=("B2",))
    freeze_run(made)
    for path in (scenes.root / "out").rglob("*"):
        assert not path.is_file() or b"SECRET" not in path.read_bytes(), path
    source, roi = made.plan.sources[0], made.roi(0)
    with pytest.raises(ProviderError) as found:
        made.provider.fetch(source, source.bands, roi, made.grid(source, roi))
    assert not found.value.retryable
    for word in ("HTTP 403", "its link had SIG", "token", "user and password", "not stored", "allowed"):
        assert word in str(found.value)
    assert "SECRET" not in str(found.value)


@pytest.mark.parametrize(
    "name", ["with space.tif", "größe.tif", "a#1.tif", "what?.tif", "50%.tif", "a%20b.tif", "x:y.tif"]
)
def test_files_of_a_local_catalogue_can_have_any_name(scenes, name):
    pixels = noise(0, (1, 60, 60))
    scenes.add_scene("a", pixels, bands=("B2",))
    (scenes.root / "a_B2.tif").rename(scenes.root / name)
    path, document = str(scenes.root / name), str(scenes.root / "items.json")
    for href in (name, f"./{name}", quote(name), f"file://{quote(path)}", f"file://{path}", f"FILE://localhost{path}"):
        assert links.make_absolute(href, document) == path
    scenes.stac.items[0]["assets"]["blue"]["href"] = f"./{name}"
    (scenes.root / "items.json").write_text(json.dumps({"type": "FeatureCollection", "features": scenes.stac.items}))
    got, _ = scenes.chip(at(30, 30), f"stac:{document}", bands=("B2",))
    assert np.array_equal(got.pixels, pixels[:, 20:40, 20:40])


@pytest.mark.parametrize("folder", ["Größe #1?", "a b%20c"])
def test_documents_of_a_local_catalogue_can_have_any_name(scenes, folder):
    pixels = noise(0, (1, 60, 60))
    item = scenes.add_scene("a", pixels, bands=("B2",))
    place = scenes.root / folder
    place.mkdir()
    (scenes.root / "a_B2.tif").rename(place / "a.tif")
    item["assets"]["blue"]["href"] = "a.tif"
    item["links"] = [{"rel": "self", "href": "https://original.example.org/items/a.json"}]
    (place / "item #1.json").write_text(json.dumps(item))
    head = {"type": "Catalog", "id": "c", "stac_version": "1.1.0", "description": "c"}
    (place / "catalog.json").write_text(json.dumps(head | {"links": [{"rel": "item", "href": "./item #1.json"}]}))
    (scenes.root / "top.json").write_text(
        json.dumps(head | {"links": [{"rel": "child", "href": f"./{folder}/catalog.json"}]})
    )
    for backend in (f"stac:{scenes.root / 'top.json'}", f"stac:{place / 'item #1.json'}"):
        got, _ = scenes.chip(at(30, 30), backend, bands=("B2",))
        assert np.array_equal(got.pixels, pixels[:, 20:40, 20:40])


@pytest.mark.parametrize("href", ["./a_B2.tif", "a_B2.tif", "../KEY/a_B2.tif", "/files/KEY/a_B2.tif"])
def test_relative_links_of_an_api_are_relative_to_the_item(scenes, href):
    pixels = noise(0, (1, 60, 60))
    item = scenes.add_scene("a", pixels, bands=("B2",))
    item["links"] = [{"rel": "self", "href": f"{scenes.stac.files}/a.json"}]
    item["assets"]["blue"]["href"] = href.replace("KEY", scenes.stac.key)
    got, _ = scenes.chip(at(30, 30), bands=("B2",))
    assert np.array_equal(got.pixels, pixels[:, 20:40, 20:40])


@pytest.mark.parametrize(
    "href", ["file:///etc/passwd", "FILE:///etc/passwd", "gs://bucket/a.tif", "netcdf:/etc/passwd"]
)
def test_links_that_are_not_read_are_named(scenes, href):
    item = scenes.add_scene("a", noise(0), bands=("B2",))
    item["links"] = [{"rel": "self", "href": f"{scenes.stac.files}/a.json"}]
    item["assets"]["blue"]["href"] = href
    words = (
        "no self link" if href.startswith("netcdf") else "links of the scheme '(file|gs)' are not read; allowed: http"
    )
    with pytest.raises(ProviderError, match=words):
        planned(scenes, [at(30, 30)], bands=("B2",))


def test_relative_links_without_a_base_are_named(scenes):
    item = scenes.add_scene("a", noise(0), bands=("B2",))
    item["assets"]["blue"]["href"] = "./a_B2.tif"
    with pytest.raises(ProviderError, match="'a' has relative links and no self link"):
        planned(scenes, [at(30, 30)], bands=("B2",))
    item["bbox"] = [100, 0, 101, 1]
    del item["geometry"]
    with pytest.raises(SpecError, match="0 items of s2"):
        planned(scenes, [at(30, 30)], bands=("B2",))


@pytest.mark.parametrize("name", ["with space.tif", "größe.tif", "a#1.tif", "what?.tif", "50%.tif"])
def test_remote_files_can_have_any_name(scenes, name):
    pixels = noise(0, (1, 60, 60))
    item = scenes.add_scene("a", pixels, bands=("B2",))
    (scenes.root / "a_B2.tif").rename(scenes.root / name)
    raw = f"{scenes.stac.files}/{name}"
    for href in (f"{scenes.stac.files}/{quote(name)}", *([raw] if not set("#?%") & set(name) else [])):
        item["assets"]["blue"]["href"] = href
        got, _ = scenes.chip(at(30, 30), bands=("B2",))
        assert np.array_equal(got.pixels, pixels[:, 20:40, 20:40])


@pytest.mark.parametrize(
    ("href", "base", "expected"),
    [
        ("item.json", "https://e.com/folder", "https://e.com/item.json"),
        ("item.json", "https://e.com/folder/", "https://e.com/folder/item.json"),
        ("/a.tif", "https://e.com/folder/x", "https://e.com/a.tif"),
        ("a b.tif?x=1", "https://e.com/f/", "https://e.com/f/a%20b.tif?x=1"),
        ("../b.tif", "s3://bucket/f/item.json", "s3://bucket/b.tif"),
        ("https://e.com/ü.tif", None, "https://e.com/%C3%BC.tif"),
        ("a.tif", None, "a.tif"),
        ("netcdf:/etc/passwd", "https://e.com/f/", "netcdf:/etc/passwd"),
        ("/vsicurl/https://e.com/a.tif", "/data/item.json", "/vsicurl/https://e.com/a.tif"),
        ("../b/a.tif", "/data/x/item.json", "/data/b/a.tif"),
    ],
)
def test_links_are_resolved_as_urls_or_paths(href, base, expected):
    assert links.make_absolute(href, base) == expected
