"""plan.py, units.py, identity.py: what changes an identity and what does not. Chunks and keys are
in test_plan_chunks.py."""

from __future__ import annotations

import hashlib
import json
import os
import re
import subprocess
import sys
import time
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rs_embed import (
    BBox,
    ExportModelRequest,
    ExportTarget,
    FetchSpec,
    InputPrepSpec,
    ModelError,
    OutputSpec,
    PointBuffer,
    SensorSpec,
    SpecError,
    TemporalSpec,
)
from rs_embed.models import MODELS as REAL_MODELS
from rs_embed.models import get_model_info
from rs_embed.planning.plan import Plan, make_plan
from rs_embed.planning.units import Generation, array_key
from rs_embed.request.identity import canonical, digest
from rs_embed.request.rois import roi_id

from ..support.exports import CHECKOUT
from ..support.factories import ALPHA, MODELS, PROPERTY, PROVIDER, S1, S2, assert_refusal, make_points, plan, request

PER_ITEM = ExportTarget.per_item("out/run")


def python(code: str, **environment: str) -> str:
    """What a fresh interpreter prints."""
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=CHECKOUT,
        env=os.environ | environment,
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout.strip()


def ids(made: Plan) -> dict[str, list[str]]:
    return {
        "roi": list(made.roi_ids),
        "source": [s.id for s in made.sources],
        "unit": [u.id for u in made.units],
    }


def differences(a: Plan, b: Plan) -> set[str]:
    """The kinds of identities in which two plans differ."""
    return {kind for kind, value in ids(a).items() if value != ids(b)[kind]}


def short_id(value: object) -> str | None:
    """A short test id, the same in every process."""
    return " ".join(value) or "default" if isinstance(value, dict) else None


def model(name: str = "alpha", **changes) -> list[ExportModelRequest]:
    return [ExportModelRequest(name, **changes)]


def changed_keys(a: Plan, b: Plan) -> set[str]:
    """Receipts that one of two plans has with another key, or alone, and merge.json."""
    one, two = (p.receipts() | {"merge.json": p.merge_key} for p in (a, b))
    return {path for path in one.keys() | two.keys() if one.get(path) != two.get(path)}


# identities -------------------------------------------------------------------------------------


def test_identities_are_the_same_in_every_process():
    code = "from tests.support.factories import identities; print(identities())"
    printed = {python(code, PYTHONHASHSEED=seed) for seed in ("0", "1", "4242")}
    assert len(printed) == 1
    rois, sources, units, receipts, merge = json.loads(printed.pop())
    assert len(set(rois)) == 300 and len(sources) == 1 and len(units) == 2
    assert all(re.fullmatch(r"[0-9a-f]{32}", word) for word in [*rois, *receipts.values(), merge])


def test_a_digest_is_the_sha256_of_canonical_json():
    assert canonical({"b": 1, "a": [0.1, "ä", None]}) == b'{"a":[0.1,"\\u00e4",null],"b":1}'
    assert digest({"b": 1, "a": 2}) == digest({"a": 2, "b": 1}) == hashlib.sha256(b'{"a":2,"b":1}').hexdigest()[:32]
    assert len({digest(v) for v in (1, 1.0, True, "1", [1], None)}) == 6
    for value, error in ((float("nan"), ValueError), ({1, 2}, TypeError)):  # nothing without one exact spelling
        with pytest.raises(error):
            digest(value)


@pytest.mark.parametrize(
    "changes",
    [
        {"target": ExportTarget.combined("elsewhere/other")},
        {"target": PER_ITEM},
        {"names": ["x", "y", "z"]},
        {"models": model(label="other")},
        {"models": ["al"]},
        {"models": model(modality="sentinel-2")},
        {"models": model(model_config={"depth": 4, "gain": 1})},
        {"modality": "S2"},
        {"sensor": S2},
        {"sensor": replace(S2, modality=None)},
        {"fetch": FetchSpec(scale_m=10)},
        {"temporal": TemporalSpec.range("2022-06-01", "2022-09-01")},
        {"device": "cpu"},
        {"output": OutputSpec("pooled", "mean", "native")},
        {"input_prep": "tile"},  # for a model that accepts any size
        {"chunk_size": 2, "infer_batch_size": 3},
        {"num_workers": 1, "writer_workers": 7, "async_write": False, "cores": 3},
        {"max_retries": 9, "retry_backoff_s": 0.5, "continue_on_error": True},
        {"save_inputs": False, "save_manifest": False},
        {"fail_on_bad_input": True, "show_progress": False},
        {"work_dir": "w", "store_dir": "s"},
    ],
    ids=short_id,
)
def test_what_does_not_change_the_numbers_changes_no_identity(changes):
    assert differences(plan(), plan(**changes)) == set()


S2_OPTIONS = {"collection": "S2_L1C", "scale_m": 20, "cloudy_pct": 50, "fill_value": -1, "composite": "mosaic"}


@pytest.mark.parametrize(
    ("changes", "kinds"),
    [
        ({"temporal": TemporalSpec.range("2022-06-01", "2022-09-02")}, {"roi"}),
        ({"spatials": [replace(p, buffer_m=321) for p in make_points(3)]}, {"roi"}),
        ({"models": model(model_config={"depth": 5})}, {"unit"}),
        ({"models": model(model_config={"gain": 1.5})}, {"unit"}),
        ({"models": model(model_config={"preset": "rs-embed"})}, {"unit"}),
        ({"models": model(model_config={"frames": 3})}, {"unit", "source"}),
        ({"models": model(modality="s1")}, {"unit", "source"}),
        ({"output": OutputSpec.pooled("max")}, {"unit"}),
        ({"output": OutputSpec.grid()}, {"unit"}),
        ({"sensor": replace(S2, bands=("B2", "B3"))}, {"unit"}),
        ({"sensor": replace(S2, bands=("B4", "B3", "B2"))}, {"unit"}),  # the order the model receives
        ({"projection": "web_mercator"}, {"unit", "source"}),
        *(({"sensor": replace(S2, **{key: value})}, {"unit", "source"}) for key, value in S2_OPTIONS.items()),
        *(({"fetch": FetchSpec(**{k: S2_OPTIONS[k]})}, {"unit", "source"}) for k in [*S2_OPTIONS][1:]),
        ({"provider": PROVIDER | {"version": 2}}, {"unit", "source"}),
        ({"known": MODELS | {"alpha": replace(ALPHA, version=2)}}, {"unit"}),
        ({"known": MODELS | {"alpha": replace(ALPHA, square=True)}}, {"unit"}),  # points are squares
        ({"known": MODELS | {"alpha": replace(ALPHA, size=lambda options: 64)}}, {"unit"}),
        ({"resume": False, "generation": Generation("g1")}, {"unit"}),
        ({"resume": False, "refetch": True, "generation": Generation("g1", "g1")}, {"unit", "source"}),
    ],
    ids=short_id,
)
def test_what_changes_the_numbers_changes_exactly_these_identities(changes, kinds):
    assert differences(plan(), plan(**changes)) == kinds


@pytest.mark.parametrize("key", ["orbit", "use_float_linear", "s1_require_iw", "s1_relax_iw_on_empty"])
def test_the_settings_of_sentinel_1_count_for_sentinel_1(key):
    other = replace(S1, **{key: "DESCENDING" if key == "orbit" else False})
    assert differences(plan(sensor=S1), plan(sensor=other)) == {"unit", "source"}


def test_the_frames_of_a_source_follow_the_window():
    asked = {"models": model(model_config={"frames": 3})}
    short = plan(temporal=TemporalSpec.range("2022-06-01", "2022-07-05"), **asked)
    assert short.sources[0].frames.count == 1 and plan(**asked).sources[0].frames.count == 3
    assert "source" in differences(short, plan(**asked))


@PROPERTY
@given(st.integers(-170, 170), st.integers(-80, 80), st.integers(1, 5000), st.integers(1, 9998))
def test_a_roi_id_depends_on_geometry_and_window_and_not_on_their_spelling(lon, lat, buffer, year):
    window = TemporalSpec.year(year)
    same = TemporalSpec.range(f"{year:04d}-01-01", f"{year + 1:04d}-01-01")
    place = PointBuffer(float(lon), float(lat), float(buffer))
    assert roi_id(PointBuffer(lon, lat, buffer), window) == roi_id(place, same)
    others = {roi_id(place, None), roi_id(replace(place, buffer_m=buffer + 0.5), same)}
    others |= {roi_id(replace(place, lon=lon + 1e-12), same), roi_id(BBox(lon, lat, lon + 1, lat + 1), same)}
    assert roi_id(place, same) not in others and len(others) == 4


def test_a_roi_does_not_depend_on_its_place_in_the_table():
    there, back = plan(), plan(spatials=make_points(3)[::-1])
    assert back.roi_ids == there.roi_ids[::-1]


def test_another_model_changes_no_other_unit_but_widens_the_shared_source():
    alone, both, reverse = plan(), plan(models=["alpha", "beta"]), plan(models=["beta", "alpha"])
    assert both.units[0] == alone.units[0] == reverse.units[1]
    assert [s.id for s in both.sources] == [s.id for s in alone.sources]
    assert alone.sources[0].bands == ("B2", "B3", "B4") and both.sources[0].bands == ("B2", "B3", "B4", "B8")
    assert both.units[1].sensor.bands == ("B8", "B4")  # its bands, in its order
    apart = plan(models=["alpha", *model(label="radar", modality="s1")])
    assert len(apart.sources) == 2 and apart.sources[0] == alone.sources[0]


# resolution -------------------------------------------------------------------------------------


def test_an_imagery_override_of_a_model_replaces_one_of_the_other_kind_for_the_run():
    of_model, of_run = replace(S2, scale_m=60), SensorSpec("OTHER", ("B1",), scale_m=30)
    made = plan(models=[*model(fetch=FetchSpec(scale_m=20)), "beta"], sensor=of_run)
    assert made.units[0].sensor == replace(S2, scale_m=20.0)  # the default of the model, changed
    assert made.units[1].sensor == of_run
    made = plan(models=[*model(sensor=of_model), "beta"], fetch=FetchSpec(scale_m=20, composite="mosaic"))
    assert made.units[0].sensor == of_model
    assert (made.units[1].sensor.scale_m, made.units[1].sensor.composite) == (20, "mosaic")
    made = plan(models=model(fetch=FetchSpec(scale_m=20)), fetch=FetchSpec(composite="mosaic"))
    assert made.units[0].sensor == replace(S2, scale_m=20.0)  # of the same kind: it replaces the whole spec


def test_the_modality_is_the_models_then_the_runs_then_the_sensors_then_the_default():
    assert plan().units[0].modality == "s2"
    assert plan(sensor=S1).units[0].modality == "s1"
    assert plan(sensor=replace(S1, modality="Sentinel-1")).units[0].modality == "s1"
    assert plan(modality="s1").units[0].sensor == S1
    assert plan(models=model(modality="s2"), modality="s1").units[0].sensor == S2


@pytest.mark.parametrize(
    ("changes", "error", "words"),
    [
        ({"models": ["beta"], "modality": "s1"}, ModelError, ["models.beta.modality", "'s1'", "'s2'"]),
        ({"models": model(modality="s2"), "sensor": S1}, ModelError, ["models.alpha.sensor.modality", "'s1'", "'s2'"]),
        ({"models": ["fixed"], "output": OutputSpec.grid()}, ModelError, ["output.mode", "'grid'", "fixed", "pooled"]),
        ({"temporal": None}, SpecError, ["temporal", "None", "alpha"]),
        (
            {"models": model("strict", sensor=replace(S2, bands=("B2", "B3")))},
            ModelError,
            ["strict.sensor.bands", "3 bands"],
        ),
        ({"models": ["strict"], "sensor": replace(S2, bands=("B4", "B3", "B2"))}, ModelError, ["bands", "B2, B3, B4"]),
        ({"models": ["exact"], "precision": "bf16"}, ModelError, ["config.precision", "'bf16'", "exact", "'fp32'"]),
        ({"models": model(model_config={"dept": 5})}, ModelError, ["models.alpha", "'dept'", "did you mean 'depth'"]),
        ({"models": model(model_config={"depth": "5"})}, ModelError, ["model_config.depth", "'5'", "an integer >= 1"]),
        ({"models": model(model_config={"depth": 0})}, ModelError, ["model_config.depth", "0", ">= 1"]),
        ({"models": model(model_config={"preset": "best"})}, ModelError, ["preset", "'best'", "'official'"]),
        ({"models": ["alpha", "alpha"]}, ModelError, ["'alpha'", "label"]),
        ({"models": ["alpha", "al"]}, ModelError, ["'al'", "label"]),
        ({"models": ["beta", *model(label="beta")]}, ModelError, ["'beta'", "label"]),
        ({"models": model(label="a-b") + model(label="a_b")}, ModelError, ["'a_b'", "label"]),
        ({"models": model(label="a+") + model(label="a")}, ModelError, ["'a'", "label"]),
    ],
    ids=short_id,
)
def test_what_a_model_cannot_do_is_refused_before_anything_runs(changes, error, words):
    with pytest.raises(error) as refused:
        plan(**changes)
    assert_refusal(refused.value, *words)


def test_bands_of_other_names_are_taken_by_their_places():
    made = plan(models=model("strict", sensor=SensorSpec("OTHER", ("blue", "green", "red"))))
    assert made.units[0].sensor.bands == ("blue", "green", "red")


def units(**changes) -> list[str]:
    return [u.id for u in plan(**changes).units]


def test_which_weights_is_part_of_a_units_identity_and_where_they_lie_is_not():
    def of(**options) -> dict:
        return plan(models=model("strict", model_config=options)).units[0].identity

    assert of()["weights"] == {"repository": "a/b", "revision": "main", "file": "c.pt"}
    assert of(weights="x.pt")["weights"] == {"sha256": "digest of x.pt"}
    assert of(weights="random", seed=3)["weights"] == {"random": 3}
    assert not {"weights", "seed"} & set(of(weights="x.pt", seed=3)["options"])
    assert "weights" not in plan().units[0].identity
    assert units(models=model("strict", model_config={"seed": 3})) == units(models=["strict"])


def test_the_large_image_policy_is_in_an_identity_as_far_as_it_changes_numbers():
    grid = {"models": ["tiled"], "output": OutputSpec.grid()}

    def policies(**given) -> dict:
        policies = ["resize", "tile", "auto", InputPrepSpec(tile_size=64), InputPrepSpec(tile_size=224)]
        policies += [InputPrepSpec(max_tiles=9), InputPrepSpec("auto", max_tiles=9), InputPrepSpec(tile_snap_frac=0)]
        return {str(p): units(input_prep=p, **given)[0] for p in policies}

    pooled, cells = policies(models=["tiled"]), policies(**grid)
    assert pooled["auto"] == pooled[str(InputPrepSpec("auto", max_tiles=9))], "auto tiles grids only"
    assert pooled[str(InputPrepSpec(tile_size=224))] == pooled["tile"] == pooled[str(InputPrepSpec(max_tiles=9))]
    assert len(set(pooled.values())) == 5  # resize, tile, auto, tiles of 64, no snapping
    assert len(set(cells.values())) == 6  # and auto up to 9 tiles
    assert plan(input_prep="tile", **grid).units[0].prep.tile_size == 224
    assert plan(input_prep=InputPrepSpec(max_tiles=2000), **grid).units[0].prep.max_tiles_hard == 2000


@pytest.mark.parametrize("name", sorted(REAL_MODELS))
def test_a_misspelt_option_of_a_real_model_is_refused_with_the_nearest(name):
    asked = request(models=[ExportModelRequest(name, model_config={"prset": "official"})])
    with pytest.raises(ModelError) as refused:
        make_plan(asked, ["0"] * 3, describe=get_model_info, provider=PROVIDER, target="/x.npz")
    assert_refusal(refused.value, f"models.{name}", "'prset'", "did you mean 'preset'")


def test_a_window_is_needed_only_by_models_that_say_so_and_one_model_may_run_twice():
    assert plan(models=["timeless"], temporal=None).units[0].model == "timeless"
    twice = plan(models=["alpha", *model(label="deep.2", model_config={"depth": 9})])
    assert [u.key for u in twice.units] == ["alpha", "deep_2"] and twice.units[0].id != twice.units[1].id


@PROPERTY
@given(st.text())
def test_an_array_key_is_letters_and_digits_with_single_underscores(label):
    assert re.fullmatch(r"([A-Za-z0-9]+(_[A-Za-z0-9]+)*)?", array_key(label))
    assert array_key(array_key(label)) == array_key(label)


# speed ------------------------------------------------------------------------------------------


def test_a_plan_of_ten_thousand_rois_and_all_its_keys_is_made_in_no_time():
    asked = request(10_000, models=["alpha", "beta"])
    ready = [f"{i:032x}" for i in range(10_000)]
    start = time.perf_counter()
    made = make_plan(asked, ready, describe=MODELS.__getitem__, provider=PROVIDER, target="/x.npz")
    assert made.receipts() and made.merge_key
    assert time.perf_counter() - start < 1  # every job computes the plan; this takes about 20 ms


def test_importing_the_package_and_describing_its_models_loads_nothing_heavy():
    code = (
        "import sys, rs_embed\n"
        "heavy = {'torch', 'numpy', 'snakemake', 'ee', 'pyproj', 'yaml'}\n"
        "print(sorted(heavy & set(sys.modules)))\n"
        "from rs_embed.models import MODELS, get_model_info\n"
        "for name in MODELS: get_model_info(name)\n"
        "print('torch' in sys.modules)"
    )
    assert python(code) == "[]\nFalse"
