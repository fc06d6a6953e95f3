"""Real runs with hostile names, folders and files: no command in them is run, no file appears
elsewhere, no secret is written."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from ..faults.cases import Case, run
from ..support.exports import CHECKOUT, content, snakemake

pytestmark = pytest.mark.heavy

#: Folders that a shell, Python's format, a glob, a wildcard or an environment variable with a list
#: would take for something else.
FOLDERS = [
    "a {b} $(touch pwned) 'q'",
    'x"y`touch pwned`\nz;touch pwned;#',
    "{wildcards.x}{{<results>*[",
    os.fsdecode(b"caf\xe9 col:on \\n %s ~root"),
]
#: Secrets that a person's environment holds.
SECRETS = {
    name: f"s3cr3t-{i}" for i, name in enumerate(("HF_TOKEN", "PC_SDK_SUBSCRIPTION_KEY", "AWS_SECRET_ACCESS_KEY"))
}


def tree(folder: Path) -> set[str]:
    """Everything around an export, without what is below it."""
    return {str(p) for p in folder.rglob("*") if ".rs_embed" not in p.parts}


@pytest.mark.parametrize("entry", ["python", "snakemake"])
@pytest.mark.parametrize("name", FOLDERS, ids=range(len(FOLDERS)))
def test_a_hostile_folder(tmp_path, name, entry):
    case = Case("per_item" if entry == "python" else "combined", entry=entry)
    folder, plain = tmp_path / "around" / name, tmp_path / "plain"
    folder.mkdir(parents=True)
    plain.mkdir()
    work = str(folder / f"work {name}") if "\n" in name else None
    status, output = run(case.command(folder, work_dir=work), **SECRETS)
    assert status == 0, output
    assert run(case.command(plain))[0] == 0
    assert content(folder).keys() >= content(plain).keys()
    made = {p for p in tree(tmp_path / "around") if not p.startswith(str(folder))}
    assert made <= {str(folder.with_name(f"{folder.name}.yaml"))}, "files outside of the target and the work folder"
    assert not [p for root in (tmp_path, CHECKOUT) for p in root.glob("**/pwned*")]
    held = [p for p in tmp_path.rglob("*") if p.is_file() and not p.is_symlink()]
    assert not [p for p in held if any(s.encode() in p.read_bytes() for s in SECRETS.values())], "a secret was written"


def test_the_key_of_a_service_account_is_in_no_file(tmp_path):
    key = tmp_path / "key.json"
    secret = "-----BEGIN PRIVATE KEY-----nobody"
    key.write_text(json.dumps({"type": "service_account", "private_key": secret, "client_email": "me@example.org"}))
    config = Case()._config(tmp_path, {}) | {"backend": "gee", "gee": {"service_account": str(key), "project": "p"}}
    (tmp_path / "config.yaml").write_text(json.dumps(config))
    done = snakemake("--configfile", str(tmp_path / "config.yaml"), "--cores", "1", cwd=tmp_path)
    assert done.returncode
    assert secret not in done.stdout + done.stderr
    files = [p for p in tmp_path.rglob("*") if p.is_file() and p != key]
    assert not [p for p in files if secret.encode() in p.read_bytes()]


def test_a_symbolic_link_at_the_target_is_replaced_and_not_followed(tmp_path):
    elsewhere = tmp_path / "elsewhere"
    elsewhere.write_text("mine")
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / "run.npz").symlink_to(elsewhere)
    assert run(Case().command(folder)) == (0, "")
    assert elsewhere.read_text() == "mine"
    assert not (folder / "run.npz").is_symlink()


YAML = {
    "python": ("models: !!python/object/apply:os.system ['touch pwned']\n", "not valid JSON or YAML"),
    "lists": (
        "".join(f"a{i}: &a{i} [{','.join([f'*a{i - 1}'] * 9) if i else 1}]\n" for i in range(9)) + "models: *a8\n",
        "nested",
    ),
    "nul": ('target: {layout: combined, path: "a\\0b"}\n', "without NUL"),
    "surrogate": ('target: {layout: combined, path: "a\\ud800b"}\n', "that UTF-8 can encode"),
    "injection": ("models: ['$(touch pwned)', '{x}']\n", "is unknown"),
    "traversal": ("rois: [{name: ../x, lon: 12.4, lat: 51.34, buffer_m: 100}]\n", "'../x' is not valid"),
    "infinite": ("rois: [{lon: 12.4, lat: 51.34, buffer_m: .inf}]\n", "inf is not valid"),
    "continent": ("rois: [{minlon: 0, minlat: 40, maxlon: 5, maxlat: 50}]\n", "32768"),
    "no mapping": ("- a\n", "keys at top level"),
    "empty": ("", "keys at top level"),
}


@pytest.mark.parametrize("name", YAML)
def test_a_hostile_config_file(tmp_path, name):
    text, message = YAML[name]
    rest = {k: v for k, v in Case()._config(tmp_path / "run", {}).items() if f"{k}:" not in text}
    lines = "".join(f"{k}: {json.dumps(v)}\n" for k, v in rest.items())
    (tmp_path / "config.yaml").write_text(text + (lines if name not in ("no mapping", "empty") else ""))
    done = snakemake("--configfile", "config.yaml", "--cores", "1", "-n", cwd=tmp_path)
    assert done.returncode
    assert message in done.stderr + done.stdout
    assert "Traceback" not in done.stderr
    assert {p.name for p in tmp_path.iterdir()} <= {"config.yaml", ".snakemake"}
