"""STAC services that fail, and the requests of a run: retries, tokens, bytes, no duplicates, no
secrets."""

from __future__ import annotations

import logging
import re
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from rs_embed import ProviderError, SensorSpec, load_export
from rs_embed.providers.stac import remote_rasters, search, signing
from rs_embed.runs.run_files import freeze_run, load_run
from rs_embed.stages.fetch import fetch

from ...support.exports import combined, export, log_of, run_folder, steps
from ...support.rasters import WINDOW, at, noise, write
from ...support.stac_scenes import SETTINGS
from ...support.stac_server import Fault
from .test_provider import at_loopback, planned

SPATIAL = at(30, 30)


@pytest.fixture(autouse=True)
def without_waiting(impatient):
    """Failures of a server are noticed at once."""


def prepare_fetch(scenes, spatial=SPATIAL, **changes):
    """(provider, fetch of the only ROI) of a planned run."""
    made = planned(scenes, [spatial], **changes)
    source, roi = made.plan.sources[0], made.roi(0)
    return made.provider, lambda: made.provider.fetch(source, source.bands, roi, made.grid(source, roi))


# files -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["429", "500", "502", "503", "504"])
@pytest.mark.parametrize("after", [0, 1, 2])
def test_a_read_that_fails_once_is_repeated(scenes, kind, after):
    pixels = noise(0, (1, 300, 300))
    scenes.add_scene("a", pixels, bands=("B2",))
    _, chip = prepare_fetch(scenes, bands=("B2",))
    scenes.stac.faults = [Fault(kind, times=1, after=after)]
    assert np.array_equal(chip().pixels, pixels[:, 20:40, 20:40])
    assert scenes.stac.faults[0].times == 0


@pytest.mark.parametrize(
    ("kind", "after"), [(k, a) for k in ("429", "503", "drop", "cut") for a in range(3)] + [("slow", 1)]
)
def test_a_read_that_keeps_failing_is_retryable(scenes, kind, after):
    pixels = noise(0, (1, 300, 300))
    scenes.add_scene("a", pixels, bands=("B2",))
    _, chip = prepare_fetch(scenes, bands=("B2",))
    scenes.stac.faults = [Fault(kind, after=after)]
    if kind == "cut" and after == 0:
        scenes.stac.faults[0].ranged = True  # a HEAD has no body
    try:
        got = chip()
    except ProviderError as error:
        assert error.retryable
        assert "\n" not in str(error)
        assert f"{scenes.stac.files}/a_B2.tif cannot be read" in str(error)
        if kind.isdigit():
            assert f"HTTP {kind}" in str(error)
        scenes.stac.faults.clear()
        got = chip()
    else:
        assert kind == "cut", "half of the header was enough, or GDAL requested the remaining bytes"
    assert np.array_equal(got.pixels, pixels[:, 20:40, 20:40]), "never from half an answer"


@pytest.mark.parametrize("profile", [{"compress": "none"}, {"compress": "lzw", "blocksize": 256}])
def test_blocks_that_are_cut_off_are_never_pixels(scenes, profile):
    pixels = noise(0, (1, 300, 300))
    scenes.add_scene("a", pixels, bands=("B2",), profile=profile)
    _, chip = prepare_fetch(scenes, at(118, 118), bands=("B2",))  # the lower end of a block
    scenes.stac.faults = [Fault("cut", ranged=True, after=1)]
    try:
        got = chip()
    except ProviderError as error:
        assert error.retryable
        scenes.stac.faults.clear()
        got = chip()
    assert np.array_equal(got.pixels, pixels[:, 108:128, 108:128])


@pytest.mark.parametrize(
    ("kind", "message"),
    [("404", "the file does not exist"), ("403", "no permission"), ("410", "the file does not exist")],
)
@pytest.mark.parametrize("after", [0, 1])
def test_a_missing_file_is_not_requested_again(scenes, kind, message, after):
    scenes.add_scene("a", noise(0), bands=("B2",))
    _, chip = prepare_fetch(scenes, bands=("B2",))
    scenes.stac.faults = [Fault(kind, after=after)]
    with pytest.raises(ProviderError) as found:
        chip()
    assert not found.value.retryable
    assert f"HTTP {kind}" in str(found.value)
    assert message in str(found.value)
    assert scenes.stac.count("/files/") <= after + 2


@pytest.mark.filterwarnings("ignore:.*:rasterio.errors.NotGeoreferencedWarning")
def test_a_file_without_a_grid_is_refused(scenes):
    import rasterio

    scenes.add_scene("a", noise(0), bands=("B2",))
    with rasterio.open(
        scenes.root / "a_B2.tif", "w", driver="GTiff", count=1, height=9, width=9, dtype="uint8"
    ) as file:
        file.gcps = ([rasterio.control.GroundControlPoint(0, 0, 9, 57)], "EPSG:4326")
        file.write(np.ones((1, 9, 9), "uint8"))
    _, chip = prepare_fetch(scenes, bands=("B2",))
    with pytest.raises(ProviderError, match="is located by ground control points; allowed: warped rasters") as found:
        chip()
    assert not found.value.retryable
    write(scenes.root / "b_B2.tif", noise(0, (1, 9, 9)), crs=None)
    scenes.stac.items[0]["assets"]["blue"]["href"] = f"{scenes.stac.files}/b_B2.tif"
    _, chip = prepare_fetch(scenes, bands=("B2",))
    with pytest.raises(ProviderError, match="has no CRS"):
        chip()


# searches ----------------------------------------------------------------------------------------


@pytest.fixture
def no_backoff(monkeypatch):
    from urllib3 import Retry

    monkeypatch.setattr(Retry, "get_backoff_time", lambda self: 0)
    monkeypatch.setattr(search, "TIMEOUT_S", (1, 1))


@pytest.mark.parametrize("path", ["/search", ""])
@pytest.mark.parametrize(
    "fault", [Fault("429", headers={"Retry_After": 1}), Fault("503"), Fault("drop"), Fault("slow")]
)
def test_a_search_that_fails_is_repeated(scenes, no_backoff, fault, path):
    scenes.add_scene("a", noise(0))
    scenes.stac.faults = [Fault(fault.kind, path, times=2, headers=fault.headers)]
    _, chip = prepare_fetch(scenes)
    assert chip().valid == 1


def test_a_search_that_keeps_failing_is_an_error(scenes, no_backoff):
    scenes.add_scene("a", noise(0))
    for kind, retryable in (("503", True), ("drop", True), ("cut", True), ("400", False), ("404", False)):
        scenes.stac.faults = [Fault(kind, "/search")]
        scenes.stac.requests.clear()
        with pytest.raises(ProviderError) as found:
            planned(scenes, [SPATIAL])
        assert found.value.retryable == retryable
        assert scenes.stac.address in str(found.value)
        assert "\n" not in str(found.value)
        searches = {"503": 5, "drop": 5, "404": 2}.get(kind, 1)  # 404: by POST, then by GET
        assert scenes.stac.count("/search") == searches
    with pytest.raises(ProviderError) as found:
        planned(scenes, [SPATIAL], backend="stac:http://127.0.0.1:9/stac")
    assert found.value.retryable


# tokens ------------------------------------------------------------------------------------------


def sentinel_2(scenes, count: int = 1) -> dict:
    kind = ("COPERNICUS/S2_SR_HARMONIZED", "sentinel-2-l2a")
    for i in range(count):
        item = scenes.add_scene(
            f"s{i}", noise(i), day=f"2022-07-0{i + 1}", collection=kind, **{"s2:processing_baseline": "03.00"}
        )
        item["assets"] = {{"blue": "B02", "green": "B03"}[n]: a for n, a in item["assets"].items()}
    return {"collection": kind[0], "stac": None}


def test_a_token_is_requested_once_and_renewed_before_it_expires(scenes, monkeypatch):
    options = sentinel_2(scenes, 4)
    scenes.stac.signed = True
    backend = at_loopback(monkeypatch, scenes, "planetary-computer")
    provider, chip = prepare_fetch(scenes, backend=backend, **options)
    assert scenes.stac.tokens == 0, "a start needs none"
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda _: chip(), range(4)))
    assert scenes.stac.tokens == 1, "one for all files and threads"
    assert [a.path for a in scenes.stac.requests if "token" in a.path] == ["/token/sentinel-2-l2a"]
    scenes.stac.lifetime = signing.RENEW_EARLY_S - 5
    provider._signer._tokens.clear()
    before = scenes.stac.tokens
    href = f"{scenes.stac.files}/s0_B2.tif"
    first = provider._signer.get_token(href, "sentinel-2-l2a")
    scenes.stac.lifetime = 3600
    second = provider._signer.get_token(href, "sentinel-2-l2a")
    assert (scenes.stac.tokens - before, first != second) == (2, True), "it was about to expire"
    assert provider._signer.get_token(href, "sentinel-2-l2a") == second
    assert provider._signer.get_token("https://elsewhere.org/a.tif", "sentinel-2-l2a") is None


def test_a_token_that_is_refused_early_is_replaced_once(scenes, monkeypatch):
    options = sentinel_2(scenes)
    scenes.stac.signed = True
    _, chip = prepare_fetch(scenes, backend=at_loopback(monkeypatch, scenes, "planetary-computer"), **options)
    assert chip().valid == 1
    scenes.stac.good.clear()  # expired early
    scenes.add_scene("more", noise(5))
    remote_reads = scenes.stac.tokens
    provider, chip = prepare_fetch(scenes, backend="stac:planetary-computer", **options)
    monkeypatch.setattr(remote_rasters, "_failures", {f"{scenes.stac.files}/s0_{b}.tif": 7 for b in ("B2", "B3")})
    provider._signer._tokens["sentinel-2-l2a"] = ("sig=OLD", signing.dt.datetime.max.replace(tzinfo=signing.dt.UTC))
    assert chip().valid == 1
    assert scenes.stac.tokens == remote_reads + 1
    scenes.stac.faults = [Fault("403")]
    monkeypatch.setattr(remote_rasters, "_failures", {f"{scenes.stac.files}/s0_{b}.tif": 70 for b in ("B2", "B3")})
    with pytest.raises(ProviderError) as found:
        chip()
    assert not found.value.retryable
    assert "SECRET" not in str(found.value)


@pytest.mark.parametrize(("kind", "retryable"), [("429", True), ("503", True), ("drop", True), ("401", False)])
def test_a_token_that_is_not_available(scenes, monkeypatch, kind, retryable):
    options = sentinel_2(scenes)
    scenes.stac.signed = True
    monkeypatch.setenv(signing.KEY_VARIABLE, "MYKEY")
    _, chip = prepare_fetch(scenes, backend=at_loopback(monkeypatch, scenes, "planetary-computer"), **options)
    scenes.stac.faults = [Fault(kind, "/token/")]
    with pytest.raises(ProviderError) as found:
        chip()
    assert found.value.retryable == retryable
    assert "MYKEY" not in str(found.value)
    assert retryable or signing.KEY_VARIABLE in str(found.value)
    scenes.stac.faults.clear()
    assert chip().valid == 1


def test_no_secret_is_written_or_logged(scenes, monkeypatch, caplog):
    options = sentinel_2(scenes)
    scenes.stac.items[0]["assets"]["B02"]["href"] += "?st=1&sig=ITEMSECRET"
    scenes.stac.signed = True
    made = planned(scenes, [SPATIAL], backend=at_loopback(monkeypatch, scenes, "planetary-computer"), **options)
    freeze_run(made)
    run = load_run(made.dir)
    source = run.plan.sources[0]
    scenes.stac.faults = [Fault("503", times=1)]
    with caplog.at_level(logging.DEBUG, logger="rasterio"):
        monkeypatch.chdir(run.dir)
        fetch(run, source.id, next(iter(run.plan.parts)))
    assert scenes.stac.tokens == 1
    assert "SECRET" not in caplog.text
    for path in (scenes.root / "out").rglob("*"):
        if path.is_file():
            assert b"SECRET" not in path.read_bytes(), path


# bytes and requests ------------------------------------------------------------------------------


def test_only_the_blocks_of_a_roi_are_read(scenes):
    size = {"blocksize": 256, "compress": "none"}
    scenes.add_scene("a", noise(0, (1, 2048, 2048)), bands=("B2",), profile=size)
    _, chip = prepare_fetch(scenes, bands=("B2",))
    scenes.stac.requests.clear()
    assert chip().valid == 1
    whole, block = (scenes.root / "a_B2.tif").stat().st_size, 256 * 256 * 2
    assert scenes.stac.sent() <= block + 32768 + 16384 < whole / 40
    assert scenes.stac.count(".tif") == 5, "its size, its header, two files beside it, one block"
    assert scenes.stac.count(".tif.msk") == scenes.stac.count(".tif.aux.xml") == 1
    assert chip().valid == 1
    assert scenes.stac.count("/files/") == 5, "cached"
    none = {"collections": {"S2": SETTINGS["collections"]["S2"] | {"side_files": False}}}
    scenes.add_scene("b", noise(0, (1, 2048, 2048)), bands=("B2",), profile=size, day="2022-07-02")
    _, chip = prepare_fetch(scenes, bands=("B2",), stac=none)
    chip()
    assert scenes.stac.count("/b_B2.tif") == 3, "its size, its header, one block"


def test_jobs_request_nothing_that_is_stored(scenes):
    for i in range(3):
        scenes.add_scene(f"s{i}", noise(i, (2, 300, 300)), day=f"2022-07-0{i + 1}")
    spatials = [at(25, 25), at(150, 150), at(275, 275)]
    made = planned(scenes, spatials)
    freeze_run(made)
    run = load_run(made.dir)
    source, part = run.plan.sources[0], next(iter(run.plan.parts))
    scenes.stac.requests.clear()
    assert fetch_in(run, source.id, part)["fetched"] == 3
    assert set(scenes.stac.kinds) == {"files"}, "a job searches nothing"
    first = scenes.stac.count("/files/")
    # for each ROI and file at most its size, its header and the blocks, in one or two ranges
    # (threads that read a file at once do not share its header); for each file two others
    assert first <= 3 * 6 * 4 + 6 * 2
    scenes.stac.requests.clear()
    assert fetch_in(load_run(made.dir), source.id, part) | {"seconds": 0} == {
        "fetched": 0,
        "restored": 0,
        "reused": 3,
        "failed": 0,
        "seconds": 0,
    }
    assert scenes.stac.requests == []
    planned(scenes, spatials)
    assert scenes.stac.kinds == {"landing": 1, "search": 1}
    scenes.add_scene("new", noise(7, (2, 100, 100)), day="2022-07-09")  # of the upper left corner
    again = planned(scenes, spatials).plan.object_names(source.id)
    assert [a != b for a, b in zip(again, made.plan.object_names(source.id))] == [True, False, False]


def fetch_in(run, source: str, part: str) -> dict:
    import os

    before = os.getcwd()
    os.chdir(run.dir)
    try:
        return fetch(run, source, part)
    finally:
        os.chdir(before)


@pytest.mark.heavy
def test_an_export_through_snakemake_grows_with_the_catalogue_without_duplicate_requests(scenes):
    for i, corner in enumerate(((0, 0), (5000, 0))):
        scenes.add_scene(f"s{i}", noise(i), corner=(550000 + corner[0], 6350000))
    spatials = [at(20, 20), at(40, 40), at(520, 20)]
    given = {"backend": f"stac:{scenes.stac.address}", "stac": SETTINGS, "sensor": SensorSpec("S2", ("B2", "B3"))}
    target = scenes.root / "out" / "run"

    def again() -> dict:
        scenes.stac.requests.clear()
        return export(combined(target), spatials, temporal=WINDOW, keep_work="all", **given)

    scenes.stac.faults = [Fault("503", times=2), Fault("429", "/search", times=1)]
    manifest = again()
    assert manifest["status"] == "ok"
    assert manifest["backend"] == f"stac:{scenes.stac.address}"
    first = load_export(target.with_suffix(".npz")).models["mosaiks"].raw_inputs()
    assert np.array_equal(first[0], noise(0)[:, 10:30, 10:30])
    again()
    assert set(scenes.stac.kinds) == {"landing", "search"}, "everything is stored"
    scenes.add_scene("new", noise(5), day="2022-07-05", corner=(555000, 6350000))
    again()
    assert {a.path.rsplit("/", 1)[1] for a in scenes.stac.requests if "/files/" in a.path} == {
        f"{s}_{b}.tif{side}" for s in ("s1", "new") for b in ("B2", "B3") for side in ("", ".msk", ".aux.xml")
    }
    (scenes.root / "out" / "run.npz").unlink()
    scenes.stac.faults = [Fault("503", "/files/")]
    assert again()["status"] == "ok"
    local = export(
        combined(scenes.root / "other" / "run"),
        spatials,
        temporal=WINDOW,
        backend=f"local:{scenes.root}",
        sensor=given["sensor"],
    )
    assert local["status"] == "ok"
    both = [load_export(p.with_suffix(".npz")) for p in (target, scenes.root / "other" / "run")]
    assert np.array_equal(*(b.embedding("mosaiks") for b in both))
    assert np.array_equal(*(b.models["mosaiks"].raw_inputs() for b in both))
    assert not re.search(r"[?]sig|token=", log_of(run_folder(target)))
    assert "fetch" not in steps(run_folder(target))
