"""Faults between a fetch job and Earth Engine, over HTTP: which requests are repeated, which are
not, and the messages."""

from __future__ import annotations

import email.utils
import json
import os
import subprocess
import sys
import time

import numpy as np
import pytest

from rs_embed import ExportConfig, ModelError, ProviderError, SensorSpec
from rs_embed.providers.gee import client as gee_client
from rs_embed.providers.retries import retrying
from rs_embed.request.config import ExportModelRequest
from rs_embed.request.gee_backend import gee_share, resolve_gee_settings
from rs_embed.request.gee_settings import HIGH_VOLUME, GeeSettings
from rs_embed.runs.open_run import open_run
from rs_embed.runs.run_files import freeze_run, load_run
from rs_embed.stages.fetch import fetch
from rs_embed.stages.shared.jobs import StageError
from rs_embed.store.objects import read_object

from ...support.earth_engine import TOO_MANY, UNAVAILABLE, EarthEngine, Fault
from ...support.exports import CHECKOUT
from ...support.factories import assert_refusal, read_config
from ...support.gee_runs import S2, Archive, settings
from ...support.rasters import at, noise, request, run

MEMORY = Fault(400, "User memory limit exceeded.")
DENIED = Fault(403, "Permission 'earthengine.computations.create' denied on resource 'projects/test-project'.")


@pytest.fixture
def archive(tmp_path) -> Archive:
    made = Archive(tmp_path)
    made.make(noise(0), "2022-07-01")
    return made


def job(archive: Archive, service: EarthEngine, monkeypatch, spatials=None, *, gee=None, models=None, **options):
    """A planned run and the run of its jobs, in its folder."""
    options = {"max_retries": 3, "retry_backoff_s": 0.0, "num_workers": 4} | options
    made = run(
        archive.folder,
        spatials or [at(30, 30)],
        backend="gee",
        gee=gee or settings(service),
        collection=S2,
        config=ExportConfig(**options),
        **({"models": models} if models else {}),
    )
    freeze_run(made)
    monkeypatch.chdir(made.dir)
    service.reset_counts()
    return load_run(made.dir)


def fetch_all(made) -> list[dict]:
    return [fetch(made, source.id, part) for source in made.plan.sources for part in made.plan.parts]


def chips_of(made) -> list[np.ndarray]:
    """Stored pixels of all ROIs."""
    source = made.plan.sources[0]
    return [
        read_object(made.store.chip_path(source.id, source.bands, name)).array
        for name in made.plan.object_names(source.id)
    ]


# retryable failures ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "fault",
    [
        TOO_MANY,
        Fault(429, "Quota exceeded.", retry_after="0"),
        Fault(500, "An internal error has occurred (request ID: 5)."),
        Fault(502, "Bad gateway"),
        UNAVAILABLE,
        Fault(504, "Deadline exceeded"),
        Fault(cut=True),
        Fault(drop=True),
        Fault(slow=3.0),
    ],
    ids=lambda f: f"{f.status}{'cut' * f.cut}{'drop' * f.drop}{'slow' * bool(f.slow)}",
)
@pytest.mark.parametrize("kind", ["pixels", "value"])
def test_a_retryable_failure_is_retried_once(archive, monkeypatch, fault, kind):
    if fault.slow:
        monkeypatch.setattr(gee_client, "TIMEOUT_S", (3.0, 0.5))
    with archive.served() as service:
        made = job(archive, service, monkeypatch)
        (service.faults if kind == "pixels" else service.value_faults).append(fault)
        assert fetch_all(made) == [{"fetched": 1, "restored": 0, "reused": 0, "failed": 0}]
        counts = service.counts()
        assert (counts["pixels"], counts["value"]) == ((2, 1) if kind == "pixels" else (1, 2))
        assert service.repeats == 0 or fault.slow
        assert np.array_equal(chips_of(made)[0], noise(0)[:, 20:40, 20:40])


def test_a_burst_of_failures_is_retried_and_retries_are_counted(archive, monkeypatch):
    with archive.served() as service:
        made = job(archive, service, monkeypatch, max_retries=5)
        service.faults += [TOO_MANY, UNAVAILABLE, TOO_MANY, Fault(drop=True), TOO_MANY]
        fetch_all(made)
        assert service.counts()["pixels"] == 6
        again = job(archive, service, monkeypatch, [at(20, 20)], max_retries=2)
        service.faults += [TOO_MANY] * 3
        with pytest.raises(StageError, match=r"fetch failed for ROI 'p00000', .*: Earth Engine answers 429: Too Many"):
            fetch_all(again)
        assert service.counts()["pixels"] == 3
        fetch_all(again)
        assert service.counts()["pixels"] == 4, "the next job continues from there"


def test_connecting_is_retried_too(archive, monkeypatch):
    with archive.served() as service:
        made = job(archive, service, monkeypatch)
        monkeypatch.setattr(gee_client, "_connected", None)
        service.start_faults = 2
        fetch_all(made)
        assert service.counts()["start"] == 5


@pytest.mark.parametrize("form", ["seconds", "date"])
def test_retry_after_is_honoured(archive, monkeypatch, form):
    with archive.served() as service:
        made = job(archive, service, monkeypatch)
        retry_after = "1" if form == "seconds" else email.utils.formatdate(time.time() + 2, usegmt=True)
        service.faults += [Fault(429, "Slow down", retry_after)]
        fetch_all(made)
        first, second = [t for t, b in zip(service.start_times, service.kinds) if b == "pixels"]
        assert second - first >= (0.95 if form == "seconds" else 0.5)


def test_a_pause_is_jitter_and_retry_after(monkeypatch):
    naps: list[float] = []
    monkeypatch.setattr("tenacity.nap.time.sleep", naps.append)

    def fail(retry_after=None):
        raise ProviderError("busy", retryable=True, retry_after=retry_after)

    with pytest.raises(ProviderError):
        retrying(40, 1.0)(fail)
    assert len(naps) == 40
    assert max(naps) <= 60 and naps[0] <= 1 and len(set(naps)) == 40
    assert sum(naps[10:]) / 30 == pytest.approx(30, rel=0.5), "full jitter: any pause up to the cap"
    naps.clear()
    with pytest.raises(ProviderError):
        retrying(2, 1.0)(fail, 7.0)
    assert all(7 <= nap <= 9 for nap in naps)
    naps.clear()
    with pytest.raises(ProviderError):
        retrying(9, 1.0)(fail, 3600.0)
    assert naps == [], "no job waits for an hour"
    assert gee_client._parse_retry_after("soon") is None
    assert gee_client._parse_retry_after("2.5") == 2.5
    assert gee_client._parse_retry_after("Wed, 21 Oct 2015 07:28:00 GMT") == 0.0


# permanent failures ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        (MEMORY, ("400", "User memory limit exceeded", "a shorter window")),
        (Fault(429, "User memory limit exceeded."), ("a shorter window",)),
        (Fault(400, "Computation timed out."), ("a shorter window",)),
        (Fault(400, "Total request size (1 bytes) must be less than or equal to 0 bytes."), ("a smaller ROI",)),
        (DENIED, ("403", "denied", "gee.project")),
        (Fault(401, "Request had invalid authentication credentials."), ("earthengine authenticate",)),
        (Fault(404, "Not found"), ("404", "Not found")),
        (Fault(400, "x" * 1000 + "\nand more"), ("xxx...",)),
    ],
    ids=lambda f: f.message[:20] if isinstance(f, Fault) else "",
)
@pytest.mark.parametrize("kind", ["pixels", "value"])
def test_a_permanent_failure_is_not_retried(archive, monkeypatch, fault, words, kind):
    with archive.served() as service:
        made = job(archive, service, monkeypatch)
        (service.faults if kind == "pixels" else service.value_faults).append(fault)
        with pytest.raises(StageError) as found:
            fetch_all(made)
        assert len(str(found.value)) < 600 and "\n" not in str(found.value)
        for word in ("ROI 'p00000'", *words):
            assert word in str(found.value)
        counts = service.counts()
        assert (counts["pixels"], counts["value"]) == ((1, 1) if kind == "pixels" else (0, 1))


def test_a_deterministic_failure_is_a_final_row_where_errors_are_tolerated(archive, monkeypatch):
    with archive.served() as service:
        made = job(archive, service, monkeypatch, [at(30, 30), at(20, 20)], continue_on_error=True, num_workers=1)
        service.faults += [MEMORY, None]
        assert fetch_all(made) == [{"fetched": 1, "restored": 0, "reused": 0, "failed": 1}]
        (receipt,) = made.dir.glob("fetch/*/*.json")
        failed = [r for r in json.loads(receipt.read_text())["rows"] if r["status"] == "failed"]
        assert [r["retryable"] for r in failed] == [False]


def test_a_look_up_that_is_too_large_is_halved_and_a_refused_one_is_not(archive, monkeypatch):
    spatials = [at(20 + i, 30) for i in range(8)]
    with archive.served() as service:
        made = job(archive, service, monkeypatch, spatials)
        service.value_faults += [MEMORY, None, MEMORY, None, None]
        assert fetch_all(made)[0]["fetched"] == 8
        assert service.counts() == {"pixels": 8, "value": 5, "start": 0}
        other = job(archive, service, monkeypatch, [at(20 + i, 20) for i in range(8)], continue_on_error=True)
        service.value_faults += [DENIED]
        assert fetch_all(other)[0]["failed"] == 8
        assert service.counts() == {"pixels": 0, "value": 1, "start": 0}


def refused(archive: Archive, service, *words: str, error=ProviderError, **changes) -> None:
    with pytest.raises(error) as found:
        run(archive.folder, [at(30, 30)], **({"backend": "gee", "gee": settings(service), "collection": S2} | changes))
    assert_refusal(found.value, *words)


def test_a_wrong_collection_or_band_is_refused_at_the_start(archive):
    archive.collections["EMPTY"] = []
    with archive.served() as service:
        refused(archive, service, "'B9' is not in the collection", "B2, B3", bands=("B2", "B9"))
        refused(archive, service, "'EMPTY' has no images", collection="EMPTY")
        with pytest.raises(ProviderError, match=r"answers 400: .*'NOWHERE' not found") as found:
            run(archive.folder, [at(30, 30)], backend="gee", gee=settings(service), collection="NOWHERE")
        assert not found.value.retryable
        assert service.counts()["pixels"] == 0


def test_a_start_makes_one_request_and_a_second_start_none(archive):
    with archive.served() as service:
        first_request = request(archive.folder, [at(30, 30)], backend="gee", gee=settings(service), collection=S2)
        made = open_run(first_request, "/")
        assert service.counts() == {"pixels": 0, "value": 1, "start": 3}
        freeze_run(made)
        service.reset_counts()
        again = open_run(first_request, "/")
        job_run = load_run(made.dir)
        assert service.counts() == {"pixels": 0, "value": 0, "start": 0}
        assert again.plan.receipts() == made.plan.receipts() == job_run.plan.receipts()
        assert job_run.provider.settings == made.provider.settings


# quota (see also tests/providers/limits) ---------------------------------------------------------


def test_two_processes_never_have_more_in_flight_than_the_run_may(archive, monkeypatch):
    spatials = [at(15 + i, 30, 50) for i in range(24)]
    models = ["mosaiks", ExportModelRequest("mosaiks", label="m", sensor=SensorSpec(S2, ("B2",), composite="mosaic"))]
    with archive.served(latency=0.05, chances={TOO_MANY: 0.1}) as service:
        gee = settings(service, concurrency=3)
        made = job(archive, service, monkeypatch, spatials, gee=gee, models=models, num_workers=4, retry_backoff_s=0.05)
        command = [sys.executable, "-m", "rs_embed", "fetch", "--part"]
        part = next(iter(made.plan.parts))
        jobs = [
            subprocess.Popen([*command, part, "--source", s.id], env=os.environ | {"PYTHONPATH": str(CHECKOUT)})
            for s in made.plan.sources
        ]
        assert [j.wait(60) for j in jobs] == [0, 0]
        assert len(service.answered) == 48
        assert service.max_in_flight == 3
        assert service.repeats == 0


def test_snakemake_starts_two_jobs_more_than_the_concurrency_supports():
    for workers, concurrency, jobs in ((8, 40, 7), (2, 4, 4), (40, 40, 3), (64, 40, 2), (1, 40, 50)):
        config = resolve_gee_settings(
            read_config(_config() | {"gee": {"concurrency": concurrency}, "export": {"num_workers": workers}}), "/", {}
        )
        assert 100 // gee_share(config) == jobs
    assert gee_share(read_config(_config() | {"backend": "sample"})) == 0


# settings and credentials ------------------------------------------------------------------------


def _config() -> dict:
    return {
        "rois": [{"lon": 9.8, "lat": 57.2, "buffer_m": 100}],
        "temporal": {"year": 2022},
        "models": ["mosaiks"],
        "target": {"layout": "combined", "path": "out/run"},
        "backend": "gee",
    }


def test_settings_come_from_the_backend_the_config_and_the_environment():
    everywhere = {
        "EE_PROJECT": "of-ee",
        "GOOGLE_CLOUD_PROJECT": "of-cloud",
        "RS_EMBED_GEE_URL": "http://127.0.0.1:1/",
        "EE_SERVICE_ACCOUNT_FILE": "/keys/a.json",
    }
    own = {"project": "own", "url": "https://gee.example", "service_account": "b.json", "concurrency": 3}

    def settled(backend="auto", gee=None, environment=everywhere):
        made = resolve_gee_settings(read_config(_config() | {"backend": backend, "gee": gee}), "/base", environment)
        assert made.backend == "gee"
        return made.gee

    assert settled("gee:first", own).project == "first"
    assert settled(gee=own) == GeeSettings("own", "https://gee.example", "/base/b.json", 3)
    assert settled() == GeeSettings("of-ee", "http://127.0.0.1:1", "/keys/a.json")
    assert settled(environment={"GOOGLE_CLOUD_PROJECT": "of-cloud"}) == GeeSettings("of-cloud")
    assert settled(environment={}).endpoint == HIGH_VOLUME
    other = read_config(_config() | {"backend": "sample", "gee": own})
    assert resolve_gee_settings(other, "/", everywhere) == other
    again = read_config(other.to_config(_config()["rois"]))
    assert again.gee == other.gee


def test_the_endpoint_is_part_of_the_identity_and_the_account_is_not():
    from rs_embed.providers.gee.provider import VERSION, GeeProvider

    def identity(**given):
        return GeeProvider("", "/", settings=GeeSettings(**given)).identity()

    plain = {"name": "gee", "version": VERSION}
    assert identity() == identity(project="a", concurrency=3, service_account="b") == plain
    assert identity(url="https://earthengine.googleapis.com/") == identity(url=HIGH_VOLUME) == plain
    assert identity(url="http://localhost:9") == plain | {"url": "http://localhost:9"}


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"url": "http://gee.example"}, ("gee.url", "https://")),
        ({"url": "https://me:hunter2@gee.example"}, ("gee.url",)),
        ({"url": "https://gee.example?key=hunter2"}, ("gee.url",)),
        ({"url": "gee"}, ("gee.url",)),
        ({"service_account": '{"private_key": "hunter2"}'}, ("gee.service_account", "path")),
        ({"service_account": "-----BEGIN PRIVATE KEY-----\nhunter2"}, ("gee.service_account",)),
        ({"project": " "}, ("gee.project",)),
        ({"concurrency": 0}, ("gee.concurrency", ">= 1")),
        ({"requests_per_second": 0}, ("gee.requests_per_second",)),
        ({"projects": "x"}, ("did you mean 'project'",)),
    ],
    ids=str,
)
def test_invalid_settings_are_refused_without_repeating_secrets(given, words):
    with pytest.raises(ModelError) as found:
        read_config(_config() | {"gee": given})
    assert_refusal(found.value, *words)
    assert "hunter2" not in str(found.value)


@pytest.fixture
def no_credentials(tmp_path, monkeypatch):
    """An environment without credentials."""
    for name in ("GOOGLE_APPLICATION_CREDENTIALS", "EE_PROJECT", "GOOGLE_CLOUD_PROJECT", "EE_SERVICE_ACCOUNT_FILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.delenv("RS_EMBED_GEE_URL", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("CLOUDSDK_CONFIG", str(tmp_path / "home"))
    monkeypatch.setenv("NO_GCE_CHECK", "true")


def test_missing_credentials_are_refused_with_the_commands_that_create_them(tmp_path, no_credentials):
    with pytest.raises(ProviderError) as found:
        run(tmp_path, [at(30, 30)], backend="gee:my-project", collection=S2)
    for words in ("earthengine authenticate", "earthengine set_project <project>", "EE_PROJECT=<project>"):
        assert words in str(found.value)
    assert not found.value.retryable
    assert "\n" not in str(found.value)
    assert not (tmp_path / "out").exists()


def test_a_missing_project_is_refused_with_the_command_that_sets_it(archive, no_credentials):
    with archive.served() as service:
        with pytest.raises(ProviderError, match=r"no project is set; .*earthengine set_project <project>"):
            run(archive.folder, [at(30, 30)], backend="auto", gee={"url": service.url}, collection=S2)
        assert service.counts() == {"pixels": 0, "value": 0, "start": 0}


def _key(path):
    """A service account's key file, with a new key."""
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric import rsa

    key = rsa.generate_private_key(public_exponent=65537, key_size=2048).private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.TraditionalOpenSSL, serialization.NoEncryption()
    )
    about = {
        "type": "service_account",
        "project_id": "of-the-account",
        "client_email": "robot@of-the-account.example",
        "token_uri": "https://localhost/token",
        "private_key_id": "1",
        "private_key": key.decode(),
    }
    path.write_text(json.dumps(about))
    return path


def test_a_service_account_is_used_where_one_is_named(tmp_path, no_credentials, monkeypatch):
    import ee

    path = _key(tmp_path / "key.json")
    client = gee_client.Client(GeeSettings(service_account=str(path)))
    assert client._credentials(ee).service_account_email == "robot@of-the-account.example"
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(path))
    assert gee_client.Client(GeeSettings())._credentials(ee).project_id == "of-the-account"
    (tmp_path / "bad.json").write_text('{"private_key": "hunter2"}')
    for name, words in (("bad.json", "not the key of a service account"), ("missing.json", "No such file")):
        with pytest.raises(ProviderError, match=words) as found:
            gee_client.Client(GeeSettings(service_account=str(tmp_path / name)))._credentials(ee)
        assert "hunter2" not in str(found.value)
    anonymous = gee_client.Client(GeeSettings(url="http://127.0.0.1:9", service_account=str(path)))._credentials(ee)
    assert type(anonymous).__name__ == "AnonymousCredentials", "no token is sent to a test server"


def test_without_the_client_library_the_error_names_the_package(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "ee", None)
    with pytest.raises(ProviderError, match="pip install earthengine-api"):
        run(tmp_path, [at(30, 30)], backend="gee", collection=S2)
