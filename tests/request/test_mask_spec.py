"""Masks as users write them."""

from __future__ import annotations

import pytest

from rs_embed import FetchSpec, MaskSpec, SensorSpec, SpecError
from rs_embed.request.fields import to_mapping
from rs_embed.request.request import Request
from rs_embed.request.rois import read_rois

CONFIG = {
    "rois": [{"name": "a", "lon": 9.8, "lat": 57.3, "buffer_m": 100}],
    "temporal": {"year": 2022},
    "models": ["mosaiks"],
    "target": {"layout": "combined", "path": "out/run"},
}


def read(changes: dict) -> Request:
    config = CONFIG | changes
    return Request.from_config(config, read_rois(config["rois"], "/"))


def test_equal_masks_have_one_form():
    assert FetchSpec(mask="Clouds").mask == FetchSpec(mask=MaskSpec()).mask == FetchSpec(mask={}).mask == "clouds"
    assert FetchSpec(mask={"kind": "cloud_score_plus", "threshold": 0.6}).mask == "cloud_score_plus"
    assert MaskSpec(classes=("b", "A")) == MaskSpec(classes=["a", "b"])
    given = SensorSpec("c", ("B1",), mask={"classes": ["snow"]})
    assert given.mask == MaskSpec(classes=("snow",)) and hash(given)
    assert SensorSpec(**to_mapping(given, defaults=True)) == given


@pytest.mark.parametrize(
    ("mask", "message"),
    [
        ("cloud", r"FetchSpec\.mask: 'cloud' is not valid; allowed: one of 'clouds', 'cloud_score_plus', null"),
        (True, r"FetchSpec\.mask: True is not valid"),
        ({"threshold": 0.5}, r"mask\.threshold: it is not valid for 'clouds'; allowed: kind 'cloud_score_plus'"),
        ({"kind": "cloud_score_plus", "classes": ["snow"]}, r"mask\.classes: it is not valid"),
        ({"kind": "cloud_score_plus", "threshold": 2}, r"threshold: 2 is not valid; allowed: a number >= 0 and <= 1"),
        ({"classes": []}, r"mask\.classes: \[\] is not valid"),
        ({"classes": ["snow", "snow"]}, r"different names"),
        ({"classes": ["snow", "SNOW"]}, r"different names"),
        ({"class": ["snow"]}, r"FetchSpec\.mask: unknown key 'class' \(did you mean 'classes'"),
    ],
)
def test_other_masks_are_refused(mask, message):
    with pytest.raises(SpecError, match=message):
        FetchSpec(mask=mask)


@pytest.mark.parametrize(
    "mask", [None, "clouds", {"classes": ["snow"]}, {"kind": "cloud_score_plus", "threshold": 0.5}]
)
def test_a_config_and_a_call_mean_the_same(mask):
    from_config = read({"fetch": {"mask": mask}})
    assert from_config.fetch == FetchSpec(mask=mask)
    again = read(from_config.to_config(CONFIG["rois"]))
    assert again.fetch == from_config.fetch


def test_the_message_of_a_config_has_the_key_as_written():
    with pytest.raises(SpecError, match=r"^fetch\.mask: unknown key 'clases'"):
        read({"fetch": {"mask": {"clases": ["snow"]}}})
    with pytest.raises(SpecError, match=r"models\.mosaiks\.fetch\.mask: 'cloudy' is not valid"):
        read({"models": [{"name": "mosaiks", "fetch": {"mask": "cloudy"}}]})
