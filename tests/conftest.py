"""Fixtures that several packages of tests use."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import rs_embed

from .support.exports import combined, export, places


@pytest.fixture(scope="session")
def finished(tmp_path_factory) -> Path:
    """A finished combined export of nine places with two models on one source, and a store that
    keeps everything; tests copy it, never change it."""
    folder = tmp_path_factory.mktemp("finished")
    rgb = rs_embed.SensorSpec("COPERNICUS/S2_SR_HARMONIZED", ("B4", "B3", "B2"))
    models = [
        rs_embed.ExportModelRequest("mosaiks", model_config={"features": 64}),
        rs_embed.ExportModelRequest("mosaiks", label="rgb", sensor=rgb, model_config={"features": 32}),
    ]
    export(combined(folder / "run"), places(9), models, keep_work="all")
    return folder


@pytest.fixture
def say(capsys):
    """Run a command with ``--json`` (or without); returns the exit status and what it said."""

    def said(command: str, folder: Path, *flags: str, plain: bool = False):
        from rs_embed.cli import main

        code = main([command, str(folder), *flags, *([] if plain else ["--json"])])
        out, err = capsys.readouterr()
        if plain or not out:
            return code, out + err
        return code, json.loads(out, parse_constant=lambda c: pytest.fail(c))

    return said
