"""Links by where the document with them comes from: only documents on disk name files of this
machine. Keys of ``s3://`` links."""

from __future__ import annotations

import json
from urllib.parse import quote

import numpy as np
import pytest

from rs_embed import ProviderError, SpecError
from rs_embed.providers.stac import links

from ...support.rasters import at, noise
from .test_provider import planned

SPATIAL = at(30, 30)
HEAD = {"type": "Catalog", "id": "c", "stac_version": "1.1.0", "description": "c"}


def own(href: str) -> list:
    return [{"rel": "self", "href": href}]


def write(path, document) -> None:
    path.write_text(json.dumps(document))


@pytest.mark.parametrize(
    ("href", "origin", "expected"),
    [
        ("/v1/items/a", "https://e.com/stac/catalog.json", "https://e.com/v1/items/a"),
        ("/tmp/x/catalog.json", "http://e.com:8/catalog.json", "http://e.com:8/tmp/x/catalog.json"),
        ("//other.com/a", "https://e.com/x", "https://other.com/a"),
        ("file:///tmp/x.json", "https://e.com/x", None),
        ("FILE://localhost/tmp/x.json", "https://e.com/x", None),
        ("./a.json", "https://e.com/x", None),
        ("https://o.com/a.json", "https://e.com/x", "https://o.com/a.json"),
        ("/tmp/x.json", "/data/a.json", "/tmp/x.json"),
        ("file:///tmp/a%20b.json", "/data/a.json", "/tmp/a b.json"),
        ("File://localhost/tmp/x.json", "/data/a.json", "/tmp/x.json"),
        ("https://o.com/a.json", "/data/a.json", "https://o.com/a.json"),
    ],
)
def test_a_self_link_means_what_its_origin_says(href, origin, expected):
    assert links.self_link({"links": [None, {"rel": "root", "href": "/z"}, *own(href)]}, origin) == expected


@pytest.mark.parametrize("form", ["item", "catalogue", "collection of items"])
@pytest.mark.parametrize("moved", [False, True])
def test_self_links_of_documents_on_disk_can_be_file_urls(scenes, form, moved):
    pixels = noise(0)
    item = scenes.add_scene("a", pixels)
    for asset in item["assets"].values():
        asset["href"] = asset["href"].rpartition("/")[2]
    place = scenes.root / "old place" if moved else scenes.root
    item["links"] = own(f"file://{quote(str(place))}/a.json")
    write(scenes.root / "a.json", item)
    write(scenes.root / "items.json", {"type": "FeatureCollection", "features": [item]})
    linked = [{"rel": "item", "href": "./a.json"}]
    write(scenes.root / "c.json", HEAD | {"links": own(f"file://{quote(str(place))}/c.json") + linked})
    name = {"item": "a.json", "catalogue": "c.json", "collection of items": "items.json"}[form]
    got, _ = scenes.chip(SPATIAL, f"stac:{scenes.root / name}")
    assert np.array_equal(got.pixels, pixels[:, 20:40, 20:40])


@pytest.mark.parametrize("prefix", ["", "file://", "file://localhost"])
def test_a_remote_catalogue_names_no_documents_of_this_machine(scenes, prefix):
    """The self link is the path of a folder on this machine with a document of the same name."""
    pixels = noise(0)
    item = scenes.add_scene("a", pixels)
    local = scenes.root / "local folder"
    local.mkdir()
    write(local / "item.json", item | {"id": "of this machine"})
    write(scenes.root / "item.json", item)
    linked = [{"rel": "item", "href": "./item.json"}]
    write(scenes.root / "c.json", HEAD | {"links": own(f"{prefix}{local}/c.json") + linked})
    backend = f"stac:{scenes.stac.files}/c.json"
    if prefix:
        got, _ = scenes.chip(SPATIAL, backend)
        assert [s["scene"] for s in got.provenance["scenes"]] == ["a"], "its self link says nothing"
        return
    with pytest.raises(SpecError, match=r"item.json cannot be read: HTTP 404"):
        planned(scenes, [SPATIAL], backend=backend)
    assert scenes.stac.requests[-1].path.startswith(quote(str(local))), "relative to the host"


@pytest.mark.parametrize("rel", ["item", "child"])
@pytest.mark.parametrize("href", ["FILE", "file://FILE", "//[none/FILE", "zip:FILE", "/vsizip/FILE"])
def test_a_remote_document_links_to_no_file_of_this_machine(scenes, monkeypatch, rel, href):
    item = scenes.add_scene("a", noise(0))
    secret = scenes.root / "secret.json"
    write(secret, item | {"id": "secret"})
    monkeypatch.setattr("rs_embed.providers.stac.static_catalogue._read_file", lambda path: pytest.fail(path))
    write(scenes.root / "c.json", HEAD | {"links": [{"rel": rel, "href": href.replace("FILE", str(secret))}]})
    with pytest.raises((ProviderError, SpecError), match=r"HTTP 404|file of this machine|scheme 'file'|is no URL"):
        planned(scenes, [SPATIAL], backend=f"stac:{scenes.stac.files}/c.json")


@pytest.mark.parametrize("href", ["/vsizip/x.zip/a_B2.tif", "zip:a_B2.tif", "file:///tmp/a_B2.tif"])
def test_a_remote_item_of_a_catalogue_on_disk_names_no_file_of_this_machine(scenes, href):
    item = scenes.add_scene("a", noise(0), bands=("B2",))
    item["assets"]["blue"]["href"] = href
    write(scenes.root / "a.json", item)
    linked = [{"rel": "item", "href": f"{scenes.stac.files}/a.json"}]
    write(scenes.root / "c.json", HEAD | {"links": linked})
    with pytest.raises(ProviderError, match="links of the scheme 'file' are not read"):
        planned(scenes, [SPATIAL], backend=f"stac:{scenes.root / 'c.json'}", bands=("B2",))


def test_root_relative_self_links_of_an_api_are_relative_to_its_host(scenes):
    pixels = noise(0, (1, 60, 60))
    item = scenes.add_scene("a", pixels, bands=("B2",))
    item["links"] = own(f"/files/{scenes.stac.key}/a.json")
    item["assets"]["blue"]["href"] = "./a_B2.tif"
    got, _ = scenes.chip(SPATIAL, bands=("B2",))
    assert np.array_equal(got.pixels, pixels[:, 20:40, 20:40])
    item["links"] = own(f"file://{scenes.root}/a.json")
    with pytest.raises(ProviderError, match="'a' has relative links and no self link"):
        planned(scenes, [SPATIAL], bands=("B2",))


@pytest.mark.parametrize("name", ["with space.tif", "größe.tif", "a+b.tif"])
@pytest.mark.parametrize("encoded", [False, True])
def test_keys_of_s3_can_have_any_name(scenes, monkeypatch, name, encoded):
    for key, value in {
        "AWS_S3_ENDPOINT": scenes.stac.address.partition("://")[2],
        "AWS_HTTPS": "NO",
        "AWS_VIRTUAL_HOSTING": "FALSE",
        "AWS_NO_SIGN_REQUEST": "YES",
    }.items():
        monkeypatch.setenv(key, value)
    pixels = noise(0, (1, 60, 60))
    item = scenes.add_scene("a", pixels, bands=("B2",))
    (scenes.root / "a_B2.tif").rename(scenes.root / name)
    item["assets"]["blue"]["href"] = f"s3://files/{scenes.stac.key}/{quote(name) if encoded else name}"
    got, _ = scenes.chip(SPATIAL, bands=("B2",))
    assert np.array_equal(got.pixels, pixels[:, 20:40, 20:40])


def test_a_version_of_an_s3_key_is_refused(scenes):
    """GDAL would read the newest version under each of these names."""
    item = scenes.add_scene("a", noise(0), bands=("B2",))
    item["assets"]["blue"]["href"] = "s3://bucket/a.tif?versionId=3"
    with pytest.raises(ProviderError, match=r"'s3' with a query \(versionId=3\) are not read"):
        planned(scenes, [SPATIAL], bands=("B2",))
