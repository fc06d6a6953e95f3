"""Units of the real models: what of their options is in an identity, and which tiles they take."""

from __future__ import annotations

import dataclasses

import pytest

from rs_embed import ExportModelRequest, InputPrepSpec, ModelError
from rs_embed.models import MODELS, describe
from rs_embed.plan import make_plan
from rs_embed.units import Unit

from .factories import PROVIDER, assert_refusal, request

NAMES = sorted({describe(name).id for name in MODELS})
#: Another value of every option than its default.
OTHER = {
    "activation": "quickgelu",
    "bias": 0.5,
    "features": 64,
    "grid_cell": 9,
    "input_scale": 1.0,
    "max_frames": 2,
    "patch_size": {"mosaiks": 5, "thor": 16},
    "preset": "rs-embed",
    "seed": 1,
    "stem": "l1c",
    "temporal_mode": "single",
    "variant": {
        "prithvi": "prithvi_eo_v2_300_tl",
        "remoteclip": "ViT-L-14",
        "terrafm": "l",
        "thor": "tiny",
    },
}


def unit(model: str, options: dict | None = None, **changes) -> Unit:
    asked = request(models=[ExportModelRequest(model, model_config=options)], **changes)
    return make_plan(asked, ["0"] * 3, describe=describe, provider=PROVIDER, target="/x.npz").units[0]


@pytest.mark.parametrize("name", NAMES)
def test_every_option_of_a_model_is_in_its_identity(name):
    declared = {f.name for f in dataclasses.fields(describe(name).options)}
    own = {"weights": "random"} if "weights" in declared else {}
    ids = [unit(name, own).id]
    for key in sorted(declared - {"weights", "n_frames"}):
        other = OTHER[key][name] if isinstance(OTHER[key], dict) else OTHER[key]
        ids.append(unit(name, own | {key: other}).id)
    assert len(set(ids)) == len(ids)
    if own:
        assert unit(name, {"weights": "a.pt"}).id == unit(name, {"weights": "a.pt", "seed": 1}).id != unit(name, own).id


@pytest.mark.parametrize("mode", ["tile", "auto"])
def test_tiles_that_are_too_small_for_a_model_are_refused(mode):
    with pytest.raises(ModelError) as refused:
        unit("thor", input_prep=InputPrepSpec(mode, tile_size=7))
    assert_refusal(refused.value, "config.input_prep.tile_size: 7", "thor", "at least 8 pixels")
    assert unit("thor", input_prep=InputPrepSpec(mode, tile_size=8)).prep.tile_size == 8
