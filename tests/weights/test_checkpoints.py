"""Weights from the hub (a real client and a local server), from local files and random numbers."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import socket
from pathlib import Path

import pytest

from rs_embed import ModelError
from rs_embed.planning.model_info import Weights
from rs_embed.planning.units import weights_identity
from rs_embed.weights.checkpoints import Digests, _write_record, locate_weights

from ..support.hub_server import locate_in_process, read_results, serving, start_process

A, B, C = "a" * 40, "b" * 40, "c" * 40
REPOSITORY, FILE = "owner/Model", "model.pt"
OLD, NEW = b"weights" * 20_000, b"WEIGHTS" * 20_000
PUBLISHED = Weights(REPOSITORY, A, FILE)


def sha(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def wanted(revision: str = A, file: str = FILE, repository: str = REPOSITORY, sha256: str | None = None) -> dict:
    return {"repository": repository, "revision": revision, "file": file, "sha256": sha256}


@pytest.fixture
def hub():
    with serving() as hub:
        hub.push(REPOSITORY, A, {FILE: OLD, "sub/other.pt": NEW})
        yield hub


def record_of(home: Path) -> Path:
    (found,) = (home / "records").glob("*.json")
    return found


# the hub -----------------------------------------------------------------------------------------


def test_a_file_with_a_published_digest_is_downloaded_once(hub, tmp_path):
    (found,) = locate_in_process(hub, tmp_path, wanted(sha256=sha(OLD)))
    assert Path(found["path"]).read_bytes() == OLD
    assert tmp_path / "hf" in Path(found["path"]).parents
    assert found["metadata"] == {
        "pretrained": True,
        "repository": REPOSITORY,
        "revision": A,
        "commit": A,
        "file": FILE,
        "sha256": sha(OLD),
        "sha256_from": "published",
    }
    hub.requests.clear()
    assert locate_in_process(hub, tmp_path, wanted(sha256=sha(OLD))) == [found]
    assert not hub.requests


def test_a_digest_that_is_not_the_published_one_is_refused_and_not_recorded(hub, tmp_path):
    (found,) = locate_in_process(hub, tmp_path, wanted(sha256=sha(NEW)))
    assert found["error"] == "ModelError"
    for part in (
        FILE,
        REPOSITORY,
        A,
        sha(OLD),
        f"the one published is {sha(NEW)}",
        "model_config={'weights': '<path>'}",
    ):
        assert part in found["message"]
    assert not [p for p in (tmp_path / "records").glob("*") if p.is_file()]
    damaged = re.search(r"remove (\S+) to download it again", found["message"])[1]
    hub.commits[REPOSITORY, A][FILE] = NEW
    os.unlink(damaged)  # as the message tells
    (found,) = locate_in_process(hub, tmp_path, wanted(sha256=sha(NEW)))
    assert found["metadata"]["sha256"] == sha(NEW)


def test_a_digest_is_recorded_at_first_use_and_checked_later(hub, tmp_path):
    (first,) = locate_in_process(hub, tmp_path, wanted())
    assert first["metadata"]["sha256_from"] == "recorded at first use"
    record = json.loads(record_of(tmp_path).read_text())
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", record["recorded"])
    expected = {"repository": REPOSITORY, "revision": A, "file": FILE, "commit": A, "sha256": sha(OLD)}
    assert expected.items() <= record.items()
    assert locate_in_process(hub, tmp_path, wanted()) == [first]
    hub.commits[REPOSITORY, A][FILE] = NEW
    shutil.rmtree(tmp_path / "hf")
    (found,) = locate_in_process(hub, tmp_path, wanted())
    assert found["error"] == "ModelError"
    for part in (
        FILE,
        sha(OLD),
        sha(NEW),
        "recorded at first use",
        str(record_of(tmp_path)),
        "it is damaged or was replaced",
    ):
        assert part in found["message"]


def test_the_commit_of_a_branch_at_first_use_is_used_later(hub, tmp_path):
    (first,) = locate_in_process(hub, tmp_path, wanted("main"))
    assert (first["metadata"]["revision"], first["metadata"]["commit"]) == ("main", A)
    hub.push(REPOSITORY, B, {FILE: NEW})
    hub.requests.clear()
    assert locate_in_process(hub, tmp_path, wanted("main")) == [first]
    assert not hub.requests
    shutil.rmtree(tmp_path / "hf")
    assert locate_in_process(hub, tmp_path, wanted("main")) == [first]
    assert hub.requests[0] == f"HEAD /{REPOSITORY}/resolve/{A}/{FILE}"
    (elsewhere,) = locate_in_process(hub, tmp_path / "elsewhere", wanted("main"))
    assert elsewhere["metadata"]["commit"] == B


def test_the_first_record_is_used_if_a_branch_moves_between_two_first_uses(hub, tmp_path):
    hub.push(REPOSITORY, B, {FILE: NEW})
    about = {"repository": REPOSITORY, "revision": "main", "file": FILE}
    (found,) = locate_in_process(hub, tmp_path, wanted("main"))
    path = record_of(tmp_path)
    path.unlink()
    shutil.rmtree(tmp_path / "hf")
    hub.on_body = lambda: _write_record(
        path, about | {"commit": A, "sha256": sha(OLD), "recorded": "2026-01-01T00:00:00Z"}
    )
    (found,) = locate_in_process(hub, tmp_path, wanted("main"))
    assert (found["metadata"]["commit"], found["metadata"]["sha256"]) == (A, sha(OLD))


def test_a_file_in_a_folder_of_the_repository(hub, tmp_path):
    (found,) = locate_in_process(hub, tmp_path, wanted("main", "sub/other.pt"))
    assert (found["metadata"]["commit"], found["metadata"]["sha256"]) == (A, sha(NEW))


def test_errors_of_the_hub_name_file_reason_and_solution(hub, tmp_path):
    refusals = {
        "gated/Model": (401, "GatedRepo"),
        "denied/Model": (403, "GatedRepo"),
        "forbidden/Model": (403, ""),
        "private/Model": (401, "RepoNotFound"),
        "bare/Model": (404, ""),
        "busy/Model": (503, ""),
    }
    hub.refusals = refusals
    requested = [wanted(repository=r) for r in refusals]
    requested += [wanted(repository="absent/Model"), wanted(C), wanted(file="absent.pt")]
    found = locate_in_process(hub, tmp_path, *requested)
    for request, one in zip(requested, found, strict=True):
        assert one["error"] == "ModelError"
        for part in (request["file"], request["repository"], request["revision"], "{'weights': '<path of that file>'}"):
            assert part in one["message"]
    for one, status in zip(found, (401, 403, 403, 401)):
        assert f"is not accessible to you: the hub answered {status}" in one["message"]
        assert "HF_TOKEN" in one["message"]
    bare, busy, repository, revision, file = (one["message"] for one in found[4:])
    assert "the hub answered 404 (no such repository, revision or file)" in bare
    assert f"is not in the cache {tmp_path}/hf/hub and could not be downloaded: the hub answered 503" in busy
    assert f"`hf download busy/Model {FILE} --revision {A}`" in busy
    assert "models--busy--Model" in busy
    assert "the hub answered 404 (no such repository, revision or file)" in repository
    assert "the hub answered 404 (no such revision)" in revision
    assert "the hub answered 404 (no such file)" in file
    assert not (tmp_path / "records").exists()


def test_without_network_a_cached_file_is_used_and_another_is_refused(hub, tmp_path):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        unreachable = f"http://name:secret@127.0.0.1:{free.getsockname()[1]}"
        (refused,) = locate_in_process(hub, tmp_path, wanted(), HF_ENDPOINT=unreachable)
    assert "could not be downloaded: " in refused["message"]
    assert "onnect" in refused["message"]
    assert "secret" not in refused["message"]
    (refused,) = locate_in_process(hub, tmp_path, wanted(), HF_HUB_OFFLINE="1")
    assert "could not be downloaded: HF_HUB_OFFLINE is set; allowed: " in refused["message"]
    assert not hub.requests
    locate_in_process(hub, tmp_path, wanted("main"))
    hub.requests.clear()
    shutil.rmtree(tmp_path / "records")  # a cache that was copied here
    fresh, again, other = locate_in_process(hub, tmp_path, wanted("main"), wanted(), wanted(B), HF_HUB_OFFLINE="1")
    assert fresh["metadata"]["commit"] == again["metadata"]["commit"] == A
    assert B in other["message"]
    assert not hub.requests


def test_a_job_uses_the_download_of_the_start_and_no_network(hub, tmp_path):
    (refused,) = locate_in_process(hub, tmp_path, wanted("main"), A_JOB="1")
    assert "could not be downloaded: jobs do not download, the start of a run does; allowed: " in refused["message"]
    assert not hub.requests
    locate_in_process(hub, tmp_path, wanted("main"))
    hub.requests.clear()
    (found,) = locate_in_process(hub, tmp_path, wanted("main"), A_JOB="1")
    assert found["metadata"]["commit"] == A
    assert not hub.requests


def test_an_interrupted_download_is_not_used(hub, tmp_path):
    hub.truncated_answers = 1
    found = locate_in_process(
        hub, tmp_path, wanted(), wanted()
    )  # the library resumes at once or in the next call, depending on its version
    assert Path(found[-1]["path"]).read_bytes() == OLD
    shutil.rmtree(tmp_path / "hf")
    hub.truncated_answers = 10**6
    (refused,) = locate_in_process(hub, tmp_path, wanted())
    assert "could not be downloaded" in refused["message"]
    assert not list((tmp_path / "hf").glob("hub/*/snapshots/*/*"))
    hub.truncated_answers = 0
    assert locate_in_process(hub, tmp_path, wanted()) == found[-1:]


def test_concurrent_jobs_get_equal_results(hub, tmp_path):
    both = [start_process(hub, tmp_path, wanted("main"), wanted(), patient=True) for _ in range(2)]
    one, other = map(read_results, both)
    assert one == other
    assert one[0]["metadata"]["sha256"] == sha(OLD)
    assert sorted(p.suffix for p in (tmp_path / "records").iterdir()) == [
        "",
        ".json",
        ".json",
    ]  # and no temporary files


def test_a_damaged_cache_or_record_is_refused(hub, tmp_path):
    (found,) = locate_in_process(hub, tmp_path, wanted())
    cached = Path(found["path"]).resolve()
    cached.write_bytes(NEW)
    (refused,) = locate_in_process(hub, tmp_path, wanted())
    assert f"remove {cached} to download it again" in refused["message"]
    cached.unlink()
    assert locate_in_process(hub, tmp_path, wanted()) == [found]
    record = record_of(tmp_path)
    record.write_text(record.read_text().replace(sha(OLD), sha(NEW)))
    (refused,) = locate_in_process(hub, tmp_path, wanted())
    assert refused["error"] == "StoreError"
    assert str(record) in refused["message"]
    record.unlink()
    assert locate_in_process(hub, tmp_path, wanted()) == [found]


# local files -------------------------------------------------------------------------------------


@pytest.fixture
def local_file(tmp_path) -> Path:
    path = tmp_path / "own.pt"
    path.write_bytes(OLD)
    return path


def test_a_local_file_is_identified_by_its_content(local_file, tmp_path):
    digests = Digests(base=str(tmp_path / "run"))
    found = locate_weights(PUBLISHED, "../own.pt", 0, digests=digests, records=tmp_path)
    assert found.path == local_file
    assert found.metadata == {"pretrained": True, "file": "own.pt", "sha256": sha(OLD), "sha256_from": "local file"}
    before = weights_identity(PUBLISHED, "../own.pt", 0, digests.sha256)
    assert before == weights_identity(PUBLISHED, str(local_file), 7, digests.sha256) == {"sha256": sha(OLD)}
    moved = local_file.rename(tmp_path / "moved.pth")
    assert weights_identity(PUBLISHED, str(moved), 0, Digests().sha256) == before
    moved.write_bytes(NEW)
    assert weights_identity(PUBLISHED, str(moved), 0, Digests().sha256) != before


def test_files_are_hashed_concurrently_and_a_missing_one_is_reported_when_requested(tmp_path):
    for i in range(3):
        (tmp_path / f"{i}.pt").write_bytes(OLD * (i + 1))
    digests = Digests(base=str(tmp_path))
    digests.compute_all(["0.pt", "missing.pt", "1.pt", "2.pt", "1.pt"])
    assert [digests.sha256(f"{i}.pt") for i in range(3)] == [sha(OLD * (i + 1)) for i in range(3)]
    assert set(digests.used_entries()) == {"0.pt", "1.pt", "2.pt"}
    with pytest.raises(ModelError, match=r"missing.pt' does not exist"):
        digests.sha256("missing.pt")


def test_jobs_find_the_digests_of_the_start_and_hash_only_what_changed(local_file):
    first = Digests()
    first.sha256(str(local_file))
    frozen = json.loads(json.dumps(first.used_entries()))
    assert frozen == {
        str(local_file): {"size": len(OLD), "mtime_ns": local_file.stat().st_mtime_ns, "sha256": sha(OLD)}
    }
    times = local_file.stat().st_atime_ns, local_file.stat().st_mtime_ns
    local_file.write_bytes(NEW)
    os.utime(local_file, ns=times)  # same size and time: nothing is read
    assert Digests(frozen, job=True).checked_sha256(str(local_file)) == sha(OLD)
    os.utime(local_file, ns=(0, 1))
    with pytest.raises(ModelError, match=r"has changed since the run was started .*start the run again") as raised:
        Digests(frozen, job=True).checked_sha256(str(local_file))
    assert sha(OLD) in str(raised.value)
    assert sha(NEW) in str(raised.value)
    assert Digests(frozen).sha256(str(local_file)) == sha(NEW)  # a new start uses the current file
    local_file.write_bytes(OLD)  # written again, the same
    assert Digests(frozen, job=True).checked_sha256(str(local_file)) == sha(OLD)
    assert Digests({str(local_file): "damaged"}).sha256(str(local_file)) == sha(OLD)


@pytest.mark.parametrize(
    ("given", "wrong"),
    [
        ("none.pt", "does not exist"),
        ("folder", r"cannot be read \(it is a folder\)"),
        ("", "it is a folder"),
        ("Random", r"does not exist \(did you mean 'random'\?\)"),
        ("folder/randm", r"does not exist \(did you mean 'random'\?\)"),
        ("/dev/null", "it is not a file"),
        ("own.pt/x", "Not a directory"),
    ],
)
def test_paths_that_are_not_files_are_refused(local_file, given, wrong):
    (local_file.parent / "folder").mkdir()
    with pytest.raises(
        ModelError, match=rf"^model_config.weights: .*{wrong}.*; allowed: the path of a weights file"
    ) as raised:
        Digests(base=str(local_file.parent)).sha256(given)
    assert os.path.join(local_file.parent, given).rstrip("/") in str(raised.value)


# random and none ---------------------------------------------------------------------------------


def test_random_weights_are_marked(tmp_path):
    found = locate_weights(PUBLISHED, "random", 3, digests=Digests(), records=tmp_path)
    assert (found.path, found.seed) == (None, 3)
    assert found.metadata["pretrained"] is False
    assert found.metadata["random_seed"] == 3
    assert "random weights" in found.metadata["warning"]
    assert weights_identity(PUBLISHED, "random", 3, Digests().sha256) == {"random": 3}


def test_identities_of_a_published_file_and_of_a_model_without_weights(tmp_path):
    published = Weights(REPOSITORY, A, FILE, sha(OLD))
    expected = {"repository": REPOSITORY, "revision": A, "file": FILE}
    assert weights_identity(published, None, 3, Digests().sha256) == expected
    assert locate_weights(None, None, 0, digests=Digests(), records=tmp_path) is None
