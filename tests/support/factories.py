"""Model descriptions without an adapter, requests and plans for tests, and what an error message
must contain."""

from __future__ import annotations

import datetime as dt
import json
import re
from dataclasses import dataclass, replace

from hypothesis import settings

from rs_embed import ExportConfig, ExportTarget, ModelError, PointBuffer, SensorSpec, TemporalSpec
from rs_embed.planning.model_info import Frames, Modality, ModelInfo, Weights
from rs_embed.planning.plan import Plan, make_plan
from rs_embed.planning.units import Generation
from rs_embed.request.fields import check_fields, option
from rs_embed.request.request import Request
from rs_embed.request.rois import read_rois, roi_id

#: No deadline: machines can be slow. No database: tests leave no files.
PROPERTY = settings(deadline=None, database=None, max_examples=100)

WINDOW = TemporalSpec.range("2022-06-01", "2022-09-01")
PROVIDER = {"name": "fake", "version": 1}


def assert_refusal(error: BaseException, *words: str) -> None:
    """An error message is one line and one sentence that names the value and lists what is
    allowed."""
    text = str(error)
    assert "\n" not in text and not re.search(r"[.!?]\s+[A-Z]", text), f"not one sentence: {text!r}"
    assert re.search(r"allowed: \S|leave it at \S|required are \S|must be \S", text), f"what is allowed? {text!r}"
    for word in words:
        assert word in text, f"{word!r} is not in {text!r}"


@dataclass(frozen=True)
class Options:
    """Options of the fake models."""

    preset: str = option("official", choices=("official", "rs-embed"))
    depth: int = option(4, minimum=1)
    gain: float = option(1.0)
    frames: int = option(1, minimum=1)

    def __post_init__(self) -> None:
        check_fields(self, "model_config", ModelError)


@dataclass(frozen=True)
class Weighted(Options):
    """Options of a fake model with weights."""

    weights: str | None = option(None)
    seed: int = option(0)


def _frames(options: Options, window: TemporalSpec | None) -> Frames:
    """One frame per month of the window, at most ``frames``: like a model whose frames depend on
    the window."""
    if options.frames == 1 or window is None:
        return Frames()
    start, end = (dt.date.fromisoformat(d) for d in (window.start, window.end))
    return Frames("equal", min(options.frames, max(1, (end - start).days // 30)))


S2 = SensorSpec("S2", ("B2", "B3", "B4"), modality="s2")
S1 = SensorSpec("S1", ("VV", "VH"), modality="s1")

ALPHA = ModelInfo(
    id="alpha",
    version=1,
    summary="",
    citation="",
    licence="",
    modalities={"s2": Modality(S2, "DN"), "s1": Modality(S1, "dB")},
    options=Options,
    dim=lambda options: 8,
    aliases=("al",),
    frames=_frames,
    any_bands=True,
)
#: The same collection and semantics as alpha with other bands: both read one source.
BETA = replace(ALPHA, id="beta", aliases=(), modalities={"s2": Modality(replace(S2, bands=("B8", "B4")), "DN")})
#: A model of a fixed, square input size, with vectors only.
FIXED = replace(BETA, id="fixed", size=lambda options: 224, square=True, outputs=("pooled",))
#: A model with published weights, whose network requires its bands in order.
STRICT = replace(
    ALPHA,
    id="strict",
    aliases=(),
    options=Weighted,
    any_bands=False,
    weights=lambda options: Weights("a/b", "main", "c.pt"),
)
#: The same model with grids.
TILED = replace(FIXED, id="tiled", outputs=("pooled", "grid"))
#: A model that runs in float32 only.
EXACT = replace(BETA, id="exact", precisions=("fp32",))
#: A model that needs no window.
TIMELESS = replace(BETA, id="timeless", needs_window=False)

MODELS = {info.id: info for info in (ALPHA, BETA, FIXED, TILED, EXACT, STRICT, TIMELESS)} | {"al": ALPHA}


def make_points(n: int) -> list[PointBuffer]:
    """Squares around ``n`` different points."""
    return [PointBuffer(-170 + 340 * i / n, 60 * i / n, 320) for i in range(n)]


def request(n: int = 3, **changes) -> Request:
    """A valid request; ``changes`` are arguments of ``Request.build``, or options of
    ``ExportConfig``."""
    options = {k: changes.pop(k) for k in list(changes) if k in ExportConfig.keywords()}
    given = {
        "spatials": make_points(n),
        "temporal": WINDOW,
        "models": ["alpha"],
        "target": ExportTarget.combined("out/run"),
        "config": ExportConfig(**options),
    }
    return Request.build(**given | changes)


def plan(given: Request | None = None, *, known=MODELS, provider=PROVIDER, generation=Generation(), **changes) -> Plan:
    """The plan of a request (by default ``request(**changes)``)."""
    given = given or request(**changes)
    ids = [roi_id(s, given.temporal) for s in given.spatials]
    return make_plan(
        given,
        ids,
        describe=lambda name: known[name],
        provider=provider,
        target=f"/{given.target.path}.npz",
        generation=generation,
        digest_of=lambda path: f"digest of {path}",
    )


def read_config(config, base: str = ".") -> Request:
    """A parsed config file as a request, as a run reads it."""
    from rs_embed.request.request import check_keys

    check_keys(config)
    return Request.from_config(config, read_rois(config["rois"], base))


def identities() -> str:
    """Every identity and key of a plan with two models, as JSON: compared between processes."""
    made = plan(request(300, models=["alpha", "beta"]))
    return json.dumps([made.roi_ids, list(made.source), list(made.unit), made.receipts(), made.merge_key])
