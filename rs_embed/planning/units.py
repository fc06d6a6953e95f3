"""What a run needs of the world: its units (model requests with every default filled in) and the sources they read.

Identities are made here: everything that changes the numbers is in them, and nothing else. Standard library only.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from ..errors import ModelError, SpecError
from ..request.config import ExportModelRequest, canonical_modality
from ..request.fields import from_mapping, to_mapping
from ..request.identity import digest
from ..request.request import Request
from ..request.specs import InputPrepSpec, SensorSpec, TemporalSpec
from .model_info import DECIBEL, LINEAR, RANDOM, UNITS, Frames, ModelInfo, Prep, Weights

#: Raised by hand when the meaning of a stored chip changes (grid rule, resampling, units).
CHIP_VERSION = 3


@dataclass(frozen=True)
class Generation:
    """Tokens that ``resume=False`` puts into identities so that things are made anew; kept by later runs of the target.

    Attributes:
        embeddings: of the last ``resume=False``, or None.
        chips: of the last ``refetch=True``, or None.
    """

    embeddings: str | None = None
    chips: str | None = None


@dataclass(frozen=True)
class Source:
    """One imagery request of the run; ``identity`` is everything that changes its pixels except bands, place and window."""

    id: str
    identity: dict
    bands: tuple[str, ...]
    frames: Frames

    @property
    def scale_m(self) -> float:
        """Pixel size, metres."""
        return self.identity["scale_m"]


@dataclass(frozen=True)
class Unit:
    """One model request of the run; ``key`` names its arrays (requirements B2)."""

    id: str
    label: str
    key: str
    model: str
    options: Any
    modality: str
    sensor: SensorSpec
    source: str
    prep: Prep
    identity: dict


def resolve_unit(
    model: ExportModelRequest,
    request: Request,
    info: ModelInfo,
    provider: dict,
    generation: Generation,
    digest_of: Callable[[str], str],
) -> tuple[Unit, Source]:
    """One model request with every default filled in, and the source it reads.

    Args:
        digest_of: sha256 of a local weights file, from its path in the request.

    Raises:
        ModelError: unsupported modality, option, bands, output or precision. SpecError: a window is needed and missing.
    """
    where = f"models.{model.name}"
    sensor_override, fetch_override = model.sensor, model.fetch
    if sensor_override is None and fetch_override is None:
        sensor_override, fetch_override = request.sensor, request.fetch
    of_sensor = canonical_modality(sensor_override.modality) if sensor_override else None
    modality = model.modality or request.modality or of_sensor or next(iter(info.modalities))
    if modality not in info.modalities:
        raise ModelError(
            f"{where}.modality: {modality!r} is not supported; allowed: one of {', '.join(map(repr, info.modalities))}"
        )
    if of_sensor not in (None, modality):
        raise ModelError(
            f"{where}.sensor.modality: {sensor_override.modality!r} contradicts the modality {modality!r}; allowed: {modality!r} or null"
        )
    if request.output.mode not in info.outputs:
        raise ModelError(
            f"output.mode: {request.output.mode!r} is not supported by {info.id}; allowed: one of {', '.join(map(repr, info.outputs))}"
        )
    if info.needs_window and None in request.used_windows:
        which = f" (ROI {request.names[request.windows.index(None)]!r} has none of its own)" if request.windows else ""
        raise SpecError(
            f"temporal: None is not valid for the model {info.id}, which needs a window{which}; "
            "allowed: TemporalSpec.range(start, end) or .year(year), or start and end for every ROI"
        )
    options = from_mapping(info.options, model.model_config or {}, f"{where}.model_config", ModelError)
    sensor = sensor_override or info.modalities[modality].sensor
    if fetch_override is not None:
        sensor = SensorSpec(
            **(
                to_mapping(sensor, defaults=True)
                | {k: v for k, v in to_mapping(fetch_override).items() if v is not None}
            )
        )
    _refuse_sentinel_1_fields(sensor, info, modality, where)
    prep = resolved_prep(request.config.input_prep, info.size(options))
    if (reason := info.refuse(options, modality, sensor.scale_m, prep)) is not None:
        raise ModelError(f"{where}: {reason}")
    if not info.any_bands:
        _check_bands(sensor, info, modality, where)
    if request.config.precision not in info.precisions:
        raise ModelError(
            f"config.precision: {request.config.precision!r} is not supported by {info.id}; "
            f"allowed: one of {', '.join(map(repr, info.precisions))} (other models of the run can have a run of their own)"
        )
    frames = _frames(info, options, request.used_windows)
    source = _source(sensor, modality, frames, info.square, request, provider, generation.chips)
    output = {"mode": request.output.mode, "pooling": request.output.pooling}
    if prep.mode in ("tile", "auto") and prep.tile_size < (smallest := info.smallest(options)):
        raise ModelError(
            f"config.input_prep.tile_size: {prep.tile_size!r} is not valid for {info.id}; allowed: at least {smallest} pixels"
        )
    # weights and the seed of random ones are in the identity by themselves; another model's seed is an option like any other
    apart = ("weights", "seed") if hasattr(options, "weights") else ()
    identity = {
        "model": info.id,
        "adapter": info.version,
        "options": {
            k: v for k, v in to_mapping(info.canonical(options, modality), defaults=True).items() if k not in apart
        },
        "modality": modality,
        "source": source.identity,
        "bands": list(sensor.bands),
        "output": output,
        "input_prep": prep_identity(prep, request.output.mode),
        "precision": request.config.precision,
    }
    chosen = getattr(options, "weights", None), getattr(options, "seed", 0)
    try:
        weights = weights_identity(info.weights(options), *chosen, digest_of)
    except ModelError as error:
        raise ModelError(f"{where}.{error}") from None
    if weights is not None:
        identity["weights"] = weights
    if generation.embeddings:
        identity["generation"] = generation.embeddings
    label = model.label or info.id
    unit = Unit(
        f"{info.id}-{digest(identity, 16)}",
        label,
        array_key(label),
        info.id,
        options,
        modality,
        sensor,
        source.id,
        prep,
        identity,
    )
    return unit, source


def _frames(info: ModelInfo, options: Any, windows: list[TemporalSpec | None]) -> Frames:
    """How every window of the run becomes frames: in one way, because one imagery request serves all ROIs."""
    first, *others = windows
    frames = info.frames(options, first)
    for other in others:
        if info.frames(options, other) != frames:
            one, two = (f"{w.start}..{w.end}" if w else "none" for w in (first, other))
            raise SpecError(
                f"temporal: the windows {one} and {two} of this run give {info.id} different frames; "
                "allowed: windows of one length in a run"
            )
    return frames


def resolved_prep(policy: str | InputPrepSpec, size: int | None) -> Prep:
    """The large-ROI policy as it applies to a model whose input has ``size`` pixels a side (None: any size)."""
    spec = policy if isinstance(policy, InputPrepSpec) else InputPrepSpec(policy)
    if size is None:
        return Prep("native")
    hard = max(spec.max_tiles, spec.max_tiles_hard)
    return Prep(spec.mode, spec.tile_size or size, spec.max_tiles, hard, spec.tile_snap_frac)


def prep_identity(prep: Prep, output: str) -> str | dict:
    """What of a policy changes the numbers of an output mode."""
    if prep.mode not in ("tile", "auto"):
        return prep.mode
    limits = {"max_tiles": prep.max_tiles} if prep.mode == "auto" and output == "grid" else {}
    return {"mode": prep.mode, "tile_size": prep.tile_size, "snap": prep.snap, **limits}


def weights_identity(
    published: Weights | None, given: str | None, seed: int, digest_of: Callable[[str], str]
) -> dict | None:
    """What of the weights is in an embedding's identity: the published file, the content of another one (moved or renamed,
    it is the same), or the seed of random ones; None for a model without weights."""
    if given is None:
        return published and {
            "repository": published.repository,
            "revision": published.revision,
            "file": published.file,
        }
    return {"random": seed} if given == RANDOM else {"sha256": digest_of(given)}


def _check_bands(sensor: SensorSpec, info: ModelInfo, modality: str, where: str) -> None:
    """As many bands as the model's network takes; of known names, in its order: it cannot tell one from another."""
    wanted = info.modalities[modality].sensor.bands
    moved = set(sensor.bands) & set(wanted) and any(b in wanted and b != w for b, w in zip(sensor.bands, wanted))
    if len(sensor.bands) != len(wanted) or moved:
        raise ModelError(
            f"{where}.sensor.bands: {list(sensor.bands)!r} is not valid for {info.id} ({modality}); "
            f"allowed: {len(wanted)} bands in the order of {', '.join(wanted)}"
        )


def array_key(label: str) -> str:
    """The label as it appears in array names: runs of other characters become one underscore (requirements B2)."""
    return "_".join(p for p in "".join(c if c.isascii() and c.isalnum() else "_" for c in label).split("_") if p)


_S1_FIELDS = ("orbit", "use_float_linear", "s1_require_iw", "s1_relax_iw_on_empty")


def _refuse_sentinel_1_fields(sensor: SensorSpec, info: ModelInfo, modality: str, where: str) -> None:
    """Fields that nothing would honour: those of Sentinel-1 in another modality, and units that contradict the collection
    or that the model does not take."""
    for key in _S1_FIELDS:
        default = SensorSpec.__dataclass_fields__[key].default
        if modality != "s1" and getattr(sensor, key) != default:
            raise ModelError(
                f"{where}.sensor.{key}: {getattr(sensor, key)!r} is not valid for modality {modality!r}; allowed: {default!r}"
            )
    if modality != "s1":
        return
    held, taken = UNITS.get(sensor.collection), info.modalities[modality].units
    if held == LINEAR and not sensor.use_float_linear:
        raise ModelError(
            f"{where}.sensor.use_float_linear: False contradicts the collection {sensor.collection!r}, which is {held}; "
            "allowed: True, or the collection 'COPERNICUS/S1_GRD'"
        )
    if held is not None and taken in (LINEAR, DECIBEL) and held != taken:
        other = next(c for c, units in UNITS.items() if units == taken)
        raise ModelError(
            f"{where}.sensor.collection: {sensor.collection!r} is {held}, and {info.id} takes {taken}; "
            f"allowed: {other!r} (an archive in the other unit is converted)"
        )


def _source(
    sensor: SensorSpec,
    modality: str,
    frames: Frames,
    square: bool,
    request: Request,
    provider: dict,
    generation: str | None,
) -> Source:
    identity: dict[str, Any] = {
        "version": CHIP_VERSION,
        "provider": provider,
        "collection": sensor.collection,
        "scale_m": sensor.scale_m,
        "cloudy_pct": sensor.cloudy_pct,
        "fill_value": sensor.fill_value,
        "composite": sensor.composite,
        "temporal": frames.identity(),
        "projection": request.config.projection,
        "resampling": "nearest",
        "square": square,
    }
    if modality == "s1":
        identity["s1"] = {k: getattr(sensor, k) for k in _S1_FIELDS}
    if generation:
        identity["generation"] = generation
    return Source(f"{provider['name']}-{digest(identity, 16)}", identity, sensor.bands, frames)
