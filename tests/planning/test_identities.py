"""Identities change on purpose only: with another one, everything that was computed is computed
again."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from rs_embed.models import MODELS, get_model_info

from ..support.identities import RECORDED, REQUESTS, identities, make, prepare

KNOWN = json.loads(RECORDED.read_text())
#: The recording of version 0.1.0.
BEFORE = json.loads(RECORDED.with_name("identities-0.1.0.json").read_text())
#: Since 0.1.0: version of the adapter, and why its embeddings are others.
CHANGED_MODELS = {
    "mosaiks": (2, "the bias of the paper, its formula of the two signs"),
    "prithvi": (2, "dates of acquisition"),
    "remoteclip": (2, "official: QuickGELU"),
    "thor": (2, "official: no clip of DN, values clamped to five deviations"),
}
#: Providers whose pixels or dates are others, and why.
CHANGED_PROVIDERS = {
    "gee": "types and bands of the images that are used, images without a time, dates of acquisition",
    "stac": "nodata, scale and offset of items, side files, links, outlines, dates of acquisition",
    "local": "dates of acquisition, alpha bands",
}


def reasons(model: str, backend: str) -> list[str]:
    """Why the embeddings of a model with a provider are others than in 0.1.0."""
    of_model = [CHANGED_MODELS[model][1]] if model in CHANGED_MODELS else []
    return of_model + [why for name, why in CHANGED_PROVIDERS.items() if name == backend]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    made = tmp_path_factory.mktemp("identities")
    prepare(made)
    return made


@pytest.mark.parametrize("name", REQUESTS)
def test_a_request_keeps_its_identities(name, folder, monkeypatch):
    monkeypatch.delenv("RS_EMBED_STORE", raising=False)
    made = identities(make(REQUESTS[name], folder))
    assert made == KNOWN[name], "on purpose? Then record them again: python -m tests.support.identities"


def test_every_recorded_request_is_still_made():
    assert list(KNOWN) == list(REQUESTS)


def test_no_two_requests_have_all_identities_in_common():
    """Each one is there for something that the others do not have."""
    assert len({json.dumps(known) for known in KNOWN.values()}) == len(KNOWN)


@pytest.mark.parametrize("name", REQUESTS)
def test_units_of_0_1_0_changed_for_a_listed_reason_only(name):
    """Every embedding that has to be computed again has a reason, and nothing else is computed
    again."""
    before, after = (known[name]["units"] for known in (BEFORE, KNOWN))
    for old, new in zip(before, after, strict=True):
        model = new.rpartition("-")[0]
        backend = REQUESTS[name].get("backend", "gee").partition(":")[0]
        assert (old != new) == bool(reasons(model, backend)), (name, model)


def test_the_reasons_are_those_of_the_versions():
    for model, (version, _) in CHANGED_MODELS.items():
        assert get_model_info(model).version == version
    for model in {get_model_info(name).id for name in MODELS} - CHANGED_MODELS.keys():
        assert get_model_info(model).version == 1
    page = (Path(__file__).resolve().parents[2] / "docs" / "changes-0.2.md").read_text()
    for word in (*CHANGED_MODELS, *CHANGED_PROVIDERS):
        assert f"`{word}" in page
