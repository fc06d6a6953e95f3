"""Units (model requests with all defaults filled in) and their sources, with their identities.

An identity contains everything that changes the results, and nothing else. Standard library only.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from ..errors import ModelError, SpecError
from ..products import COLLECTION_UNITS, DECIBEL, LINEAR
from ..request.config import ExportModelRequest, canonical_modality
from ..request.fields import from_mapping, to_mapping
from ..request.identity import digest
from ..request.request import Request
from ..request.specs import FetchSpec, InputPrepSpec, SensorSpec, TemporalSpec
from .model_info import RANDOM, Frames, ModelInfo, Prep, Weights
from .source_mask import resolve_mask

#: Increased by hand when the meaning of a stored chip changes (grid rule, resampling, units of
#: measure).
CHIP_VERSION = 3


@dataclass(frozen=True)
class Generation:
    """Tokens that ``resume=False`` adds to identities so that results are computed again; later
    runs of the target keep them.

    Attributes:
        embeddings: token of the last ``resume=False``, or None.
        chips: token of the last ``refetch=True``, or None.
    """

    embeddings: str | None = None
    chips: str | None = None


@dataclass(frozen=True)
class Source:
    """One imagery request of the run; ``identity`` contains all that changes its pixels except
    bands, geometry and window."""

    id: str
    identity: dict[str, Any]
    bands: tuple[str, ...]
    frames: Frames

    @property
    def scale_m(self) -> float:
        """Pixel size, metres."""
        scale_m: float = self.identity["scale_m"]
        return scale_m


@dataclass(frozen=True)
class Unit:
    """One model request of the run with all defaults filled in.

    Attributes:
        key: in the names of its arrays (requirements B2).
        source: id of the source that it reads; in a run with points and boxes, that of the boxes.
        point_source: that of the points; see :func:`make_unit`.
        identity: of its embeddings; ``identity["source"]`` is that of boxes in every run.
    """

    id: str
    label: str
    key: str
    model: str
    options: Any
    modality: str
    sensor: SensorSpec
    source: str
    point_source: str
    prep: Prep
    identity: dict[str, Any]


@dataclass(frozen=True)
class ModelSettings:
    """One checked model request with all defaults filled in.

    :func:`make_unit` turns it into a unit, which requires the digest of a local weights file.

    Attributes:
        where: its key in the request, for messages.
        published: the published weights file of the model, or None.
        mask: the mask in the identity of its source, or None
            (:func:`~rs_embed.planning.source_mask.resolve_mask`).
    """

    where: str
    label: str
    info: ModelInfo
    options: Any
    modality: str
    sensor: SensorSpec
    frames: Frames
    prep: Prep
    published: Weights | None
    mask: dict[str, Any] | None

    @property
    def weights_file(self) -> str | None:
        """Path of the local weights file in the request, or None."""
        given = getattr(self.options, "weights", None)
        return None if given == RANDOM else given


def check_model(model: ExportModelRequest, request: Request, info: ModelInfo) -> ModelSettings:
    """Fill in every default of a model request and validate it. Opens no files.

    Raises:
        ModelError: an unsupported modality, option, band list, output or precision. SpecError: a
            required window is missing.
    """
    where = f"models.{model.name}"
    # those of the run, if the model has neither
    overrides: Request | ExportModelRequest = request if model.sensor is None and model.fetch is None else model
    modality = _choose_modality(model, request, info, overrides.sensor)
    if request.output.mode not in info.outputs:
        raise ModelError(
            f"output.mode: {request.output.mode!r} is not supported by {info.id}; allowed: one of {', '.join(map(repr, info.outputs))}"
        )
    _check_window(request, info)
    options: Any = from_mapping(info.options, model.model_config or {}, f"{where}.model_config", ModelError)
    sensor = _change_sensor(overrides.sensor or info.modalities[modality].sensor, overrides.fetch)
    _check_sentinel_1_fields(sensor, info, modality, where)
    prefix = f"{where}." if overrides is model else ""
    mask = resolve_mask(sensor, f"{prefix}{'sensor' if overrides.sensor else 'fetch'}.mask")
    prep = resolve_prep(request.config.input_prep, info.size(options))
    if (reason := info.refuse(options, modality, sensor.scale_m, prep)) is not None:
        raise ModelError(f"{where}: {reason}")
    if not info.any_bands:
        _check_bands(sensor, info, modality, where)
    if request.config.precision not in info.precisions:
        raise ModelError(
            f"config.precision: {request.config.precision!r} is not supported by {info.id}; "
            f"allowed: one of {', '.join(map(repr, info.precisions))} (run this model and the others separately)"
        )
    frames = _resolve_frames(info, options, request.used_windows)
    if prep.mode in ("tile", "auto") and prep.tile_size < (smallest := info.smallest(options)):
        raise ModelError(
            f"config.input_prep.tile_size: {prep.tile_size!r} is not valid for {info.id}; allowed: at least {smallest} pixels"
        )
    try:
        published = info.weights(options)
    except ModelError as error:
        raise ModelError(f"{where}.{error}") from None
    return ModelSettings(where, model.label or info.id, info, options, modality, sensor, frames, prep, published, mask)


def make_unit(
    settings: ModelSettings,
    request: Request,
    provider: dict[str, Any],
    generation: Generation,
    digest_of: Callable[[str], str],
) -> tuple[Unit, tuple[Source, Source]]:
    """The unit of a checked model request, and its sources: of boxes and of points.

    A model with ``ModelInfo.square`` gets a box as its enclosing square; the footprint of a point
    is a square for every model. All models therefore read the points of the square source, which
    has their chips once.

    Args:
        digest_of: sha256 of a local weights file, from its path in the request.

    Raises:
        ModelError: the local weights file cannot be read.
    """
    source, of_points = (
        _make_source(settings, request, provider, generation, square=square) for square in (settings.info.square, True)
    )
    identity = _unit_identity(settings, request, source)
    options = settings.options
    chosen = getattr(options, "weights", None), getattr(options, "seed", 0)
    try:
        weights = weights_identity(settings.published, *chosen, digest_of)
    except ModelError as error:
        raise ModelError(f"{settings.where}.{error}") from None
    if weights is not None:
        identity["weights"] = weights
    if generation.embeddings:
        identity["generation"] = generation.embeddings
    unit = Unit(
        id=f"{settings.info.id}-{digest(identity, 16)}",
        label=settings.label,
        key=array_key(settings.label),
        model=settings.info.id,
        options=options,
        modality=settings.modality,
        sensor=settings.sensor,
        source=source.id,
        point_source=of_points.id,
        prep=settings.prep,
        identity=identity,
    )
    return unit, (source, of_points)


def _choose_modality(model: ExportModelRequest, request: Request, info: ModelInfo, sensor: SensorSpec | None) -> str:
    """The modality of the model request, of the run, of the sensor, or the default of the model,
    in this order."""
    where = f"models.{model.name}"
    of_sensor = canonical_modality(sensor.modality) if sensor else None
    modality = model.modality or request.modality or of_sensor or next(iter(info.modalities))
    if modality not in info.modalities:
        raise ModelError(
            f"{where}.modality: {modality!r} is not supported; allowed: one of {', '.join(map(repr, info.modalities))}"
        )
    if sensor is not None and of_sensor not in (None, modality):
        raise ModelError(
            f"{where}.sensor.modality: {sensor.modality!r} contradicts the modality {modality!r}; allowed: {modality!r} or null"
        )
    return modality


def _check_window(request: Request, info: ModelInfo) -> None:
    """Raise :class:`SpecError` if the model needs a window and a ROI has none."""
    if info.needs_window and None in request.used_windows:
        which = f" (ROI {request.names[request.windows.index(None)]!r} has no window)" if request.windows else ""
        raise SpecError(
            f"temporal: None is not valid for the model {info.id}, which needs a window{which}; "
            "allowed: TemporalSpec.range(start, end) or .year(year), or start and end for every ROI"
        )


def _change_sensor(sensor: SensorSpec, fetch: FetchSpec | None) -> SensorSpec:
    """The sensor with the changes of a :class:`FetchSpec`."""
    if fetch is None:
        return sensor
    changes = {k: v for k, v in to_mapping(fetch).items() if v is not None}
    return SensorSpec(**(to_mapping(sensor, defaults=True) | changes))


def _unit_identity(settings: ModelSettings, request: Request, source: Source) -> dict[str, Any]:
    """Everything that determines the embeddings of a unit, except weights and generation."""
    info = settings.info
    options = to_mapping(info.canonical(settings.options, settings.modality), defaults=True)
    # weights and their seed have their own entry; for a model without weights the seed is an
    # option like the others
    apart = ("weights", "seed") if hasattr(settings.options, "weights") else ()
    return {
        "model": info.id,
        "adapter": info.version,
        "options": {k: v for k, v in options.items() if k not in apart},
        "modality": settings.modality,
        "source": source.identity,
        "bands": list(settings.sensor.bands),
        "output": {"mode": request.output.mode, "pooling": request.output.pooling},
        "input_prep": prep_identity(settings.prep, request.output.mode),
        "precision": request.config.precision,
    }


def _resolve_frames(info: ModelInfo, options: Any, windows: list[TemporalSpec | None]) -> Frames:
    """The frames of all windows of the run, which must be equal, because all ROIs have the same
    imagery request."""
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


def resolve_prep(policy: str | InputPrepSpec, size: int | None) -> Prep:
    """The large-ROI policy for a model whose input has ``size`` pixels a side (None: any size)."""
    spec = policy if isinstance(policy, InputPrepSpec) else InputPrepSpec(policy)
    if size is None:
        return Prep("native")
    hard = max(spec.max_tiles, spec.max_tiles_hard)
    return Prep(spec.mode, spec.tile_size or size, spec.max_tiles, hard, spec.tile_snap_frac)


def prep_identity(prep: Prep, output: str) -> str | dict[str, Any]:
    """The part of a policy that changes the results of an output mode."""
    if prep.mode not in ("tile", "auto"):
        return prep.mode
    limits = {"max_tiles": prep.max_tiles} if prep.mode == "auto" and output == "grid" else {}
    return {"mode": prep.mode, "tile_size": prep.tile_size, "snap": prep.snap, **limits}


def weights_identity(
    published: Weights | None, given: str | None, seed: int, digest_of: Callable[[str], str]
) -> dict[str, Any] | None:
    """The weights in the identity of an embedding: the published file, the digest of a local file
    (independent of its path), or the seed of random weights; None for a model without weights."""
    if given is not None:
        return {"random": seed} if given == RANDOM else {"sha256": digest_of(given)}
    if published is None:
        return None
    return {"repository": published.repository, "revision": published.revision, "file": published.file}


def _check_bands(sensor: SensorSpec, info: ModelInfo, modality: str, where: str) -> None:
    """Raise :class:`ModelError` unless the number of bands is that of the network, and known bands
    are in its order."""
    wanted = info.modalities[modality].sensor.bands
    moved = set(sensor.bands) & set(wanted) and any(b in wanted and b != w for b, w in zip(sensor.bands, wanted))
    if len(sensor.bands) != len(wanted) or moved:
        raise ModelError(
            f"{where}.sensor.bands: {list(sensor.bands)!r} is not valid for {info.id} ({modality}); "
            f"allowed: {len(wanted)} bands in the order of {', '.join(wanted)}"
        )


def array_key(label: str) -> str:
    """The label in array names: each sequence of other characters becomes one underscore
    (requirements B2)."""
    return "_".join(p for p in "".join(c if c.isascii() and c.isalnum() else "_" for c in label).split("_") if p)


_S1_FIELDS = ("orbit", "use_float_linear", "s1_require_iw", "s1_relax_iw_on_empty")


def _check_sentinel_1_fields(sensor: SensorSpec, info: ModelInfo, modality: str, where: str) -> None:
    """Raise :class:`ModelError` for Sentinel-1 fields in another modality, and for units of
    measure that contradict the collection or that the model does not accept."""
    for key in _S1_FIELDS:
        default = SensorSpec.__dataclass_fields__[key].default
        if modality != "s1" and getattr(sensor, key) != default:
            raise ModelError(
                f"{where}.sensor.{key}: {getattr(sensor, key)!r} is not valid for modality {modality!r}; allowed: {default!r}"
            )
    if modality != "s1":
        return
    collection_units, model_units = COLLECTION_UNITS.get(sensor.collection), info.modalities[modality].units
    if collection_units == LINEAR and not sensor.use_float_linear:
        raise ModelError(
            f"{where}.sensor.use_float_linear: False contradicts the collection {sensor.collection!r}, which is {collection_units}; "
            "allowed: True, or the collection 'COPERNICUS/S1_GRD'"
        )
    if collection_units is not None and model_units in (LINEAR, DECIBEL) and collection_units != model_units:
        other = next(c for c, units in COLLECTION_UNITS.items() if units == model_units)
        raise ModelError(
            f"{where}.sensor.collection: {sensor.collection!r} is {collection_units}, and {info.id} takes {model_units}; "
            f"allowed: {other!r} (an archive in the other unit of measure is converted)"
        )


def _make_source(
    settings: ModelSettings, request: Request, provider: dict[str, Any], generation: Generation, *, square: bool
) -> Source:
    sensor = settings.sensor
    identity: dict[str, Any] = {
        "version": CHIP_VERSION,
        "provider": provider,
        "collection": sensor.collection,
        "scale_m": sensor.scale_m,
        "cloudy_pct": sensor.cloudy_pct,
        "fill_value": sensor.fill_value,
        "composite": sensor.composite,
        "temporal": settings.frames.identity(),
        "projection": request.config.projection,
        "resampling": "nearest",
        "square": square,
    }
    if settings.modality == "s1":
        identity["s1"] = {k: getattr(sensor, k) for k in _S1_FIELDS}
    if settings.mask is not None:
        identity["mask"] = settings.mask
    if generation.chips:
        identity["generation"] = generation.chips
    return Source(f"{provider['name']}-{digest(identity, 16)}", identity, sensor.bands, settings.frames)
