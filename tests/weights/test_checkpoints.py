"""Where weights come from: the hub (a real client against a server on the loopback), local files, random numbers."""

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
from rs_embed.weights.checkpoints import Digests, _record, locate

from ..support.hub_server import located, results, serving, start

A, B, C = "a" * 40, "b" * 40, "c" * 40
REPOSITORY, FILE = "people/Model", "model.pt"
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


# the hub --------------------------------------------------------------------------------------------------------


def test_a_file_with_a_published_digest_is_downloaded_once(hub, tmp_path):
    (found,) = located(hub, tmp_path, wanted(sha256=sha(OLD)))
    assert Path(found["path"]).read_bytes() == OLD
    assert tmp_path / "hf" in Path(found["path"]).parents
    assert found["said"] == {
        "pretrained": True,
        "repository": REPOSITORY,
        "revision": A,
        "commit": A,
        "file": FILE,
        "sha256": sha(OLD),
        "sha256_from": "published",
    }
    hub.asked.clear()
    assert located(hub, tmp_path, wanted(sha256=sha(OLD))) == [found]
    assert not hub.asked


def test_a_digest_that_is_not_the_published_one_is_refused_and_not_recorded(hub, tmp_path):
    (found,) = located(hub, tmp_path, wanted(sha256=sha(NEW)))
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
    os.unlink(damaged)  # as it says
    (found,) = located(hub, tmp_path, wanted(sha256=sha(NEW)))
    assert found["said"]["sha256"] == sha(NEW)


def test_a_digest_is_recorded_at_first_use_and_checked_ever_after(hub, tmp_path):
    (first,) = located(hub, tmp_path, wanted())
    assert first["said"]["sha256_from"] == "recorded at first use"
    record = json.loads(record_of(tmp_path).read_text())
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", record["recorded"])
    expected = {"repository": REPOSITORY, "revision": A, "file": FILE, "commit": A, "sha256": sha(OLD)}
    assert expected.items() <= record.items()
    assert located(hub, tmp_path, wanted()) == [first]
    hub.commits[REPOSITORY, A][FILE] = NEW
    shutil.rmtree(tmp_path / "hf")
    (found,) = located(hub, tmp_path, wanted())
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


def test_of_a_branch_the_commit_of_the_first_use_is_asked_for_ever_after(hub, tmp_path):
    (first,) = located(hub, tmp_path, wanted("main"))
    assert (first["said"]["revision"], first["said"]["commit"]) == ("main", A)
    hub.push(REPOSITORY, B, {FILE: NEW})
    hub.asked.clear()
    assert located(hub, tmp_path, wanted("main")) == [first]
    assert not hub.asked
    shutil.rmtree(tmp_path / "hf")
    assert located(hub, tmp_path, wanted("main")) == [first]
    assert hub.asked[0] == f"HEAD /{REPOSITORY}/resolve/{A}/{FILE}"
    (elsewhere,) = located(hub, tmp_path / "elsewhere", wanted("main"))
    assert elsewhere["said"]["commit"] == B


def test_where_a_branch_moves_between_two_first_uses_the_first_record_counts(hub, tmp_path):
    hub.push(REPOSITORY, B, {FILE: NEW})
    about = {"repository": REPOSITORY, "revision": "main", "file": FILE}
    (found,) = located(hub, tmp_path, wanted("main"))
    path = record_of(tmp_path)
    path.unlink()
    shutil.rmtree(tmp_path / "hf")
    hub.on_body = lambda: _record(path, about | {"commit": A, "sha256": sha(OLD), "recorded": "2026-01-01T00:00:00Z"})
    (found,) = located(hub, tmp_path, wanted("main"))
    assert (found["said"]["commit"], found["said"]["sha256"]) == (A, sha(OLD))


def test_a_file_in_a_folder_of_the_repository(hub, tmp_path):
    (found,) = located(hub, tmp_path, wanted("main", "sub/other.pt"))
    assert (found["said"]["commit"], found["said"]["sha256"]) == (A, sha(NEW))


def test_refusals_of_the_hub_say_file_reason_and_what_to_do(hub, tmp_path):
    refusals = {
        "gated/Model": (401, "GatedRepo"),
        "denied/Model": (403, "GatedRepo"),
        "forbidden/Model": (403, ""),
        "private/Model": (401, "RepoNotFound"),
        "bare/Model": (404, ""),
        "busy/Model": (503, ""),
    }
    hub.refusals = refusals
    asked = [wanted(repository=r) for r in refusals]
    asked += [wanted(repository="absent/Model"), wanted(C), wanted(file="absent.pt")]
    found = located(hub, tmp_path, *asked)
    for request, one in zip(asked, found, strict=True):
        assert one["error"] == "ModelError"
        for part in (request["file"], request["repository"], request["revision"], "{'weights': '<path of that file>'}"):
            assert part in one["message"]
    for one, status in zip(found, (401, 403, 403, 401)):
        assert f"is not open to you: the hub answered {status}" in one["message"]
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
        nobody = f"http://name:secret@127.0.0.1:{free.getsockname()[1]}"
        (refused,) = located(hub, tmp_path, wanted(), HF_ENDPOINT=nobody)
    assert "could not be downloaded: " in refused["message"]
    assert "onnect" in refused["message"]
    assert "secret" not in refused["message"]
    (refused,) = located(hub, tmp_path, wanted(), HF_HUB_OFFLINE="1")
    assert "could not be downloaded: HF_HUB_OFFLINE is set; allowed: " in refused["message"]
    assert not hub.asked
    located(hub, tmp_path, wanted("main"))
    hub.asked.clear()
    shutil.rmtree(tmp_path / "records")  # a cache that was copied here
    fresh, again, other = located(hub, tmp_path, wanted("main"), wanted(), wanted(B), HF_HUB_OFFLINE="1")
    assert fresh["said"]["commit"] == again["said"]["commit"] == A
    assert B in other["message"]
    assert not hub.asked


def test_a_job_takes_what_the_start_of_its_run_has_downloaded_and_asks_nobody(hub, tmp_path):
    (refused,) = located(hub, tmp_path, wanted("main"), A_JOB="1")
    assert "could not be downloaded: jobs do not download, the start of a run does; allowed: " in refused["message"]
    assert not hub.asked
    located(hub, tmp_path, wanted("main"))
    hub.asked.clear()
    (found,) = located(hub, tmp_path, wanted("main"), A_JOB="1")
    assert found["said"]["commit"] == A
    assert not hub.asked


def test_a_download_that_breaks_never_counts_as_the_file(hub, tmp_path):
    hub.cut = 1
    found = located(hub, tmp_path, wanted(), wanted())  # versions of the library go on at once or at the next call
    assert Path(found[-1]["path"]).read_bytes() == OLD
    shutil.rmtree(tmp_path / "hf")
    hub.cut = 10**6
    (refused,) = located(hub, tmp_path, wanted())
    assert "could not be downloaded" in refused["message"]
    assert not list((tmp_path / "hf").glob("hub/*/snapshots/*/*"))
    hub.cut = 0
    assert located(hub, tmp_path, wanted()) == found[-1:]


def test_two_jobs_at_once_agree(hub, tmp_path):
    both = [start(hub, tmp_path, wanted("main"), wanted(), patient=True) for _ in range(2)]
    one, other = map(results, both)
    assert one == other
    assert one[0]["said"]["sha256"] == sha(OLD)
    assert sorted(p.suffix for p in (tmp_path / "records").iterdir()) == [
        "",
        ".json",
        ".json",
    ]  # and no temporary files


def test_a_damaged_cache_or_record_is_refused(hub, tmp_path):
    (found,) = located(hub, tmp_path, wanted())
    cached = Path(found["path"]).resolve()
    cached.write_bytes(NEW)
    (refused,) = located(hub, tmp_path, wanted())
    assert f"remove {cached} to download it again" in refused["message"]
    cached.unlink()
    assert located(hub, tmp_path, wanted()) == [found]
    record = record_of(tmp_path)
    record.write_text(record.read_text().replace(sha(OLD), sha(NEW)))
    (refused,) = located(hub, tmp_path, wanted())
    assert refused["error"] == "StoreError"
    assert str(record) in refused["message"]
    record.unlink()
    assert located(hub, tmp_path, wanted()) == [found]


# local files ----------------------------------------------------------------------------------------------------


@pytest.fixture
def own(tmp_path) -> Path:
    path = tmp_path / "own.pt"
    path.write_bytes(OLD)
    return path


def test_a_local_file_counts_by_its_content(own, tmp_path):
    digests = Digests(base=str(tmp_path / "run"))
    found = locate(PUBLISHED, "../own.pt", 0, digests=digests, records=tmp_path)
    assert found.path == own
    assert found.said == {"pretrained": True, "file": "own.pt", "sha256": sha(OLD), "sha256_from": "local file"}
    before = weights_identity(PUBLISHED, "../own.pt", 0, digests.of)
    assert before == weights_identity(PUBLISHED, str(own), 7, digests.of) == {"sha256": sha(OLD)}
    moved = own.rename(tmp_path / "moved.pth")
    assert weights_identity(PUBLISHED, str(moved), 0, Digests().of) == before
    moved.write_bytes(NEW)
    assert weights_identity(PUBLISHED, str(moved), 0, Digests().of) != before


def test_files_are_hashed_side_by_side_and_a_missing_one_is_said_when_it_is_asked_for(tmp_path):
    for i in range(3):
        (tmp_path / f"{i}.pt").write_bytes(OLD * (i + 1))
    digests = Digests(base=str(tmp_path))
    digests.look_at(["0.pt", "gone.pt", "1.pt", "2.pt", "1.pt"])
    assert [digests.of(f"{i}.pt") for i in range(3)] == [sha(OLD * (i + 1)) for i in range(3)]
    assert set(digests.frozen()) == {"0.pt", "1.pt", "2.pt"}
    with pytest.raises(ModelError, match=r"gone.pt' is not there"):
        digests.of("gone.pt")


def test_jobs_find_the_digests_of_the_start_and_hash_only_what_changed(own):
    first = Digests()
    first.of(str(own))
    frozen = json.loads(json.dumps(first.frozen()))
    assert frozen == {str(own): {"size": len(OLD), "mtime_ns": own.stat().st_mtime_ns, "sha256": sha(OLD)}}
    times = own.stat().st_atime_ns, own.stat().st_mtime_ns
    own.write_bytes(NEW)
    os.utime(own, ns=times)  # size and time as they were: nothing is read
    assert Digests(frozen, job=True).check(str(own)) == sha(OLD)
    os.utime(own, ns=(0, 1))
    with pytest.raises(ModelError, match=r"has changed since the run was started .*start the run again") as raised:
        Digests(frozen, job=True).check(str(own))
    assert sha(OLD) in str(raised.value)
    assert sha(NEW) in str(raised.value)
    assert Digests(frozen).of(str(own)) == sha(NEW)  # a new start takes the file as it is
    own.write_bytes(OLD)  # written again, the same
    assert Digests(frozen, job=True).check(str(own)) == sha(OLD)
    assert Digests({str(own): "damaged"}).of(str(own)) == sha(OLD)


@pytest.mark.parametrize(
    ("given", "wrong"),
    [
        ("none.pt", "is not there"),
        ("folder", r"cannot be read \(it is a folder\)"),
        ("", "it is a folder"),
        ("Random", r"is not there \(did you mean 'random'\?\)"),
        ("folder/randm", r"is not there \(did you mean 'random'\?\)"),
        ("/dev/null", "it is no file"),
        ("own.pt/x", "Not a directory"),
    ],
)
def test_what_is_no_file_is_refused(own, given, wrong):
    (own.parent / "folder").mkdir()
    with pytest.raises(
        ModelError, match=rf"^model_config.weights: .*{wrong}.*; allowed: the path of a weights file"
    ) as raised:
        Digests(base=str(own.parent)).of(given)
    assert os.path.join(own.parent, given).rstrip("/") in str(raised.value)


# random and none ------------------------------------------------------------------------------------------------


def test_random_weights_say_so(tmp_path):
    found = locate(PUBLISHED, "random", 3, digests=Digests(), records=tmp_path)
    assert (found.path, found.seed) == (None, 3)
    assert found.said["pretrained"] is False
    assert found.said["random_seed"] == 3
    assert "random weights" in found.said["warning"]
    assert weights_identity(PUBLISHED, "random", 3, Digests().of) == {"random": 3}


def test_identities_of_the_published_file_and_of_a_model_without(tmp_path):
    published = Weights(REPOSITORY, A, FILE, sha(OLD))
    expected = {"repository": REPOSITORY, "revision": A, "file": FILE}
    assert weights_identity(published, None, 3, Digests().of) == expected
    assert locate(None, None, 0, digests=Digests(), records=tmp_path) is None
