"""Messages after faults: each of these was once a traceback, or a sentence without the reason."""

from __future__ import annotations

import errno
import os
import re
from pathlib import Path

import pytest

from rs_embed import cli
from rs_embed.errors import LONGEST, ModelError, StoreError
from rs_embed.store.atomic_files import replace_file, report_write_errors

from .cases import Case, family, sentence, start, step_of
from .kills import SLOW
from .test_lost_folders import _in_the_middle


@pytest.mark.heavy
@pytest.mark.parametrize(
    ("step", "message"),
    [
        ("embed", r"the embed job of the ROIs 'p0000[03]' to 'p0000[25]', model mosaiks, was ended by SIGKILL"),
        ("merge", "the merge job was ended by SIGKILL, as the system does when memory runs out"),
    ],
)
def test_a_job_that_was_killed(tmp_path, step, message):
    (tmp_path / "run").mkdir()
    process = start(Case().command(tmp_path / "run"), SLOW)
    _in_the_middle(process, step)
    for member in family(process):
        if step_of(member) == step:
            member.kill()
    text = sentence(process.communicate(timeout=60)[0])
    assert re.search(message, text), "of two that run at once, either is reported first"
    assert "was ended by SIGKILL" in text
    assert "what was finished is kept: call again to go on" in text


def test_a_file_that_cannot_be_written(monkeypatch, tmp_path):
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(StoreError, match=r"a\.json cannot be written \(No space left on device\)") as error:
        replace_file(tmp_path / "a.json", b"{}")
    assert "\n" not in str(error.value)
    assert list(tmp_path.iterdir()) == []


def test_an_error_of_the_package_passes_unchanged():
    with pytest.raises(ModelError, match="as it is"), report_write_errors(Path("a")):
        raise ModelError("as it is")


def test_the_command_line_reports_the_error_of_the_disk(monkeypatch, capsys):
    def fail(options: object) -> int:
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), "/somewhere/rois.csv")

    monkeypatch.setattr(cli, "_run_step", fail)
    assert cli.main(["merge"]) == 1
    assert capsys.readouterr().err == "error: merge: /somewhere/rois.csv cannot be used: No such file or directory\n"


def test_a_message_stays_readable():
    text = str(ModelError(f"models: {'x' * 1_000_000!r} is unknown; allowed: mosaiks"))
    assert text.startswith("models: 'xxx")
    assert text.endswith("allowed: mosaiks")
    assert len(text) <= LONGEST
