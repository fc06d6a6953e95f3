"""Units of the real models: options in identities, and valid tile sizes."""

from __future__ import annotations

import dataclasses

import pytest

from rs_embed import ExportModelRequest, FetchSpec, InputPrepSpec, ModelError
from rs_embed.models import MODELS, get_model_info
from rs_embed.planning.plan import make_plan
from rs_embed.planning.units import Unit

from ..support.factories import PROVIDER, assert_refusal, request

NAMES = sorted({get_model_info(name).id for name in MODELS})
#: Another value of every option than its default.
OTHER = {
    "activation": {"remoteclip": "gelu", "mosaiks": "torchgeo"},
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
    "vector": "pooled_token",
}


def unit(model: str, options: dict | None = None, **changes) -> Unit:
    asked = request(models=[ExportModelRequest(model, model_config=options)], **changes)
    return make_plan(asked, ["0"] * 3, describe=get_model_info, provider=PROVIDER, target="/x.npz").units[0]


@pytest.mark.parametrize("name", NAMES)
def test_every_option_of_a_model_is_in_its_identity(name):
    declared = {f.name for f in dataclasses.fields(get_model_info(name).options)}
    own = {"weights": "random"} if "weights" in declared else {"bias": -1.0}  # without one, activation has no effect
    ids = [unit(name, own).id]
    for key in sorted(declared - {"weights", "n_frames"}):
        other = OTHER[key][name] if isinstance(OTHER[key], dict) else OTHER[key]
        ids.append(unit(name, own | {key: other}).id)
    assert len(set(ids)) == len(ids)
    if "weights" in own:
        assert unit(name, {"weights": "a.pt"}).id == unit(name, {"weights": "a.pt", "seed": 1}).id != unit(name, own).id


@pytest.mark.parametrize("mode", ["tile", "auto"])
def test_tiles_that_are_too_small_for_a_model_are_refused(mode):
    with pytest.raises(ModelError) as refused:
        unit("thor", input_prep=InputPrepSpec(mode, tile_size=7))
    assert_refusal(refused.value, "config.input_prep.tile_size: 7", "thor", "at least 8 pixels")
    assert unit("thor", input_prep=InputPrepSpec(mode, tile_size=8)).prep.tile_size == 8


def test_what_changes_no_number_is_in_no_identity():
    def same(model: str, modality: str | None = None, *options: dict) -> bool:
        asked = [request(models=[ExportModelRequest(model, modality=modality, model_config=o)]) for o in options]
        plans = [make_plan(a, ["0"] * 3, describe=get_model_info, provider=PROVIDER, target="/x.npz") for a in asked]
        return len({p.units[0].id for p in plans}) == 1

    assert same("terrafm", None, {}, {"stem": "l2a"})
    assert same("terrafm", "s1", {}, {"stem": "l2a"}, {"stem": "l1c"})
    assert not same("terrafm", None, {}, {"stem": "l1c"})
    assert same(
        "prithvi", None, {}, {"temporal_mode": "multi"}, {"max_frames": 9}, {"n_frames": 3}
    )  # 92 days: 3 frames
    assert same("prithvi", None, {"temporal_mode": "single"}, {"temporal_mode": "single", "max_frames": 1})
    assert not same("prithvi", None, {}, {"temporal_mode": "single"})
    assert not same("prithvi", None, {}, {"max_frames": 2})
    assert same("mosaiks", None, {}, {"activation": "torchgeo"}, {"bias": -0.0})
    assert not same("mosaiks", None, {"bias": -1.0}, {"activation": "torchgeo", "bias": -1.0})


@pytest.mark.parametrize(("scale_m", "prep"), [(12.5, "resize"), (7, "tile")])
def test_a_pixel_size_without_whole_patches_is_refused_before_a_fetch(scale_m, prep):
    with pytest.raises(ModelError, match=r"models\.thor: pixels of") as refused:
        unit("thor", {"variant": "tiny"}, fetch=FetchSpec(scale_m=scale_m), input_prep=prep)
    assert_refusal(refused.value)
    assert unit("thor", {"variant": "tiny"}, fetch=FetchSpec(scale_m=20), input_prep=prep)
