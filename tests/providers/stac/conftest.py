"""Scenes behind a loopback server, for all tests of STAC."""

from __future__ import annotations

import pytest

from rs_embed.providers.stac import remote_rasters

from ...support.stac_scenes import serve_scenes


@pytest.fixture
def scenes(tmp_path):
    """A folder of scenes behind a STAC API."""
    with serve_scenes(tmp_path) as made:
        yield made


@pytest.fixture
def impatient(monkeypatch):
    """GDAL repeats a failed request once and waits a second for an answer."""
    quick = {"GDAL_HTTP_RETRY_DELAY": "0.05", "GDAL_HTTP_TIMEOUT": "1", "GDAL_HTTP_MAX_RETRY": "1"}
    monkeypatch.setattr(remote_rasters, "ENVIRONMENT", remote_rasters.ENVIRONMENT | quick)
