"""Identities change on purpose only: with another one, everything that was computed is computed
again."""

from __future__ import annotations

import json

import pytest

from ..support.identities import RECORDED, REQUESTS, identities, make, prepare

KNOWN = json.loads(RECORDED.read_text())


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
