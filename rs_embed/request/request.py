"""The whole request as one value, built from the arguments of ``export_batch`` or from a config
mapping.

``Request.build`` normalises arguments; ``to_config`` and ``from_config`` write and read the same
request as plain values (for YAML) and a ROI table. This module reads and writes no files, and does
not depend on models or providers.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from ..errors import ModelError, SpecError
from .config import ExportConfig, ExportModelRequest, ExportTarget, canonical_modality, check_names, refuse_both
from .fields import from_mapping, is_usable_text, refuse_oversized, refuse_unknown, to_mapping
from .gee_settings import GeeSettings
from .rois import RoiTable
from .specs import BBox, FetchSpec, InputPrepSpec, OutputSpec, PointBuffer, SensorSpec, SpatialSpec, TemporalSpec
from .stac_settings import read_stac_settings

#: Keys of a config file, in the order in which they are written.
KEYS = (
    "rois",
    "temporal",
    "models",
    "target",
    "backend",
    "gee",
    "device",
    "output",
    "sensor",
    "fetch",
    "modality",
    "stac",
    "export",
)
REQUIRED = ("rois", "models", "target")
DEVICES = ("auto", "cpu", "cuda", "mps")


@dataclass(frozen=True)
class Request:
    """A normalised export request; :meth:`build` validates every field."""

    spatials: tuple[SpatialSpec, ...]
    names: tuple[str, ...]
    temporal: TemporalSpec | None
    models: tuple[ExportModelRequest, ...]
    target: ExportTarget
    config: ExportConfig = ExportConfig()
    backend: str = "auto"
    device: str = "auto"
    output: OutputSpec = OutputSpec.pooled()
    sensor: SensorSpec | None = None
    fetch: FetchSpec | None = None
    modality: str | None = None
    windows: tuple[TemporalSpec | None, ...] | None = None
    gee: GeeSettings | None = None
    stac: Mapping[str, Any] | None = None

    def window(self, index: int) -> TemporalSpec | None:
        """The window of a ROI: its own window, or that of the run."""
        return (self.windows and self.windows[index]) or self.temporal

    @property
    def used_windows(self) -> list[TemporalSpec | None]:
        """The distinct windows of the ROIs of this run."""
        return list(dict.fromkeys(w or self.temporal for w in self.windows)) if self.windows else [self.temporal]

    @staticmethod
    def build(
        *,
        spatials: Sequence[SpatialSpec],
        temporal: TemporalSpec | None,
        models: Sequence[str | ExportModelRequest],
        target: ExportTarget,
        names: Sequence[str] | None = None,
        config: ExportConfig | None = None,
        backend: str = "auto",
        device: str | None = "auto",
        output: OutputSpec = OutputSpec.pooled(),
        sensor: SensorSpec | None = None,
        fetch: FetchSpec | None = None,
        modality: str | None = None,
        windows: Sequence[TemporalSpec | None] | None = None,
        gee: GeeSettings | Mapping[str, Any] | None = None,
        stac: Mapping[str, Any] | None = None,
    ) -> Request:
        """Normalise and validate the arguments of ``export_batch``.

        Raises:
            SpecError: invalid ROIs, names or window. ModelError: any other invalid argument.
        """
        spatials = _check_spatials(spatials)
        if temporal is not None and not isinstance(temporal, TemporalSpec):
            raise SpecError(f"temporal: {temporal!r} is not valid; allowed: a TemporalSpec or None")
        requests = _to_model_requests(models)
        _check_settings(target, config, output)
        refuse_both(sensor, fetch, "export")
        target, names = _choose_names(target, names, len(spatials))
        return Request(
            # in this order, because the first error is reported
            device=_normalise_device(device),
            backend=_normalise_backend(backend),
            spatials=tuple(spatials),
            names=check_names(names),
            temporal=temporal,
            models=tuple(requests),
            target=target,
            config=config or ExportConfig(),
            output=output,
            sensor=sensor,
            fetch=fetch,
            modality=canonical_modality(modality),
            windows=tuple(windows) if windows and any(windows) else None,
            gee=gee if isinstance(gee, GeeSettings | None) else from_mapping(GeeSettings, gee, "gee", ModelError),
            stac=read_stac_settings(stac) or None,
        )

    def to_config(self, rois: Any) -> dict[str, Any]:
        """The request as a config mapping of plain values; ``rois`` is the path of the table, or
        inline rows."""
        return {
            "rois": rois,
            "temporal": None if self.temporal is None else _window_mapping(self.temporal),
            "models": [_model_mapping(m) for m in self.models],
            "target": {"layout": self.target.layout, "path": self.target.path},
            "backend": self.backend,
            "gee": self.gee and to_mapping(self.gee),
            "device": self.device,
            "output": to_mapping(self.output, defaults=True),
            "sensor": self.sensor and to_mapping(self.sensor),
            "fetch": self.fetch and to_mapping(self.fetch),
            "modality": self.modality,
            "stac": self.stac,
            "export": to_mapping(self.config, defaults=True),
        }

    @staticmethod
    def from_config(config: Mapping[str, Any], rois: RoiTable) -> Request:
        """The request of a config mapping; inverse of :meth:`to_config`.

        Raises:
            SpecError, ModelError: an invalid value; the message has the key, the value and what is
                allowed.
        """
        check_keys(config)
        output, temporal = config.get("output"), config.get("temporal")
        return Request.build(
            spatials=rois.spatials,
            names=rois.names,
            windows=rois.windows,
            temporal=None if temporal is None else TemporalSpec.from_dict(temporal),
            models=[_read_model(m) for m in _to_list(config["models"], "models", "a non-empty list of models")],
            target=_read_target(config["target"]),
            config=_read_options(config.get("export")),
            backend="auto" if config.get("backend") is None else config["backend"],
            gee=config.get("gee"),
            device=config.get("device"),
            output=OutputSpec() if output is None else from_mapping(OutputSpec, output, "output", SpecError),
            **_read_source(config, ""),
            modality=config.get("modality"),
            stac=config.get("stac"),
        )


def check_keys(config: object) -> None:
    """Raise :class:`ModelError` if a config is not a mapping, has unknown keys, or lacks required
    keys."""
    refuse_oversized(config, "config", ModelError)
    if not isinstance(config, Mapping):
        raise ModelError(f"config: {config!r} is not valid; allowed: a mapping with the keys {', '.join(KEYS)}")
    refuse_unknown(config, KEYS, "config", ModelError)
    for key in REQUIRED:
        if config.get(key) is None:
            raise ModelError(f"config: the key {key!r} is missing; required are {', '.join(REQUIRED)}")


def _check_spatials(spatials: Any) -> list[SpatialSpec]:
    items = _to_list(spatials, "spatials", "a non-empty list of PointBuffer or BBox")
    for i, spatial in enumerate(items):
        if not isinstance(spatial, (PointBuffer, BBox)):
            raise ModelError(f"spatials[{i}]: {spatial!r} is not valid; allowed: PointBuffer or BBox")
    return items


def _to_model_requests(models: Any) -> list[ExportModelRequest]:
    requests = []
    for item in _to_list(models, "models", "a non-empty list of model ids or ExportModelRequest"):
        if not isinstance(item, (str, ExportModelRequest)):
            raise ModelError(f"models: {item!r} is not valid; allowed: a model id or an ExportModelRequest")
        requests.append(ExportModelRequest(item) if isinstance(item, str) else item)
    return requests


def _check_settings(target: object, config: object, output: object) -> None:
    if not isinstance(target, ExportTarget):
        raise ModelError(
            f"target: {target!r} is not valid; allowed: ExportTarget.combined(path) or ExportTarget.per_item(dir)"
        )
    if config is not None and not isinstance(config, ExportConfig):
        raise ModelError(f"config: {config!r} is not valid; allowed: an ExportConfig or None")
    if not isinstance(output, OutputSpec):
        raise ModelError(f"output: {output!r} is not valid; allowed: OutputSpec.pooled() or OutputSpec.grid()")


def _choose_names(target: ExportTarget, names: Sequence[str] | None, n: int) -> tuple[ExportTarget, Sequence[str]]:
    """The target without its names, and the names of ``n`` ROIs: of the target, of the table, or
    the default names."""
    if target.names is not None:
        if names is not None:
            raise ModelError(
                "target.names: given together with the column name of the ROI table; allowed: one or the other"
            )
        names, target = target.names, replace(target, names=None)
    if names is not None and len(names) != n:
        raise ModelError(f"target.names: {len(names)} names for {n} ROIs; allowed: one name per ROI")
    return target, [f"p{i:05d}" for i in range(n)] if names is None else names


def _normalise_device(device: Any) -> str:
    device = (device or "auto").strip().lower() if isinstance(device, str) or device is None else device
    if device not in DEVICES:
        raise ModelError(f"device: {device!r} is not valid; allowed: one of {', '.join(map(repr, DEVICES))}")
    return str(device)


def _normalise_backend(backend: Any) -> str:
    if not isinstance(backend, str) or not backend.strip() or not is_usable_text(backend):
        raise ModelError(f"backend: {backend!r} is not valid; allowed: a text such as 'auto' or 'sample'")
    kind, separator, argument = backend.strip().partition(":")
    return kind.lower() + separator + argument


def _to_list(value: Any, where: str, allowed: str) -> list[Any]:
    if not isinstance(value, Iterable) or isinstance(value, (str, bytes, Mapping)):
        raise ModelError(f"{where}: {value!r} is not valid; allowed: {allowed}")
    items = list(value)
    if not items:
        raise ModelError(f"{where}: [] is empty; allowed: {allowed}")
    return items


def _window_mapping(window: TemporalSpec) -> dict[str, Any]:
    return {"year": int(window.start[:4])} if window.mode == "year" else {"start": window.start, "end": window.end}


def _model_mapping(model: ExportModelRequest) -> str | dict[str, Any]:
    plain = {k: getattr(model, k) for k in ("label", "modality", "model_config")}
    specs = {"sensor": model.sensor and to_mapping(model.sensor), "fetch": model.fetch and to_mapping(model.fetch)}
    given = {k: v for k, v in (plain | specs).items() if v is not None}
    return {"name": model.name, **given} if given else model.name


def _read_model(item: Any) -> ExportModelRequest:
    if isinstance(item, str):
        return ExportModelRequest(item)
    if not isinstance(item, Mapping) or "name" not in item:
        raise ModelError(f"models: {item!r} is not valid; allowed: a model id, or a mapping with the key 'name'")
    where = f"models.{item['name']}"
    refuse_unknown(item, ("name", "label", "modality", "sensor", "fetch", "model_config"), where, ModelError)
    return ExportModelRequest(**(dict(item) | _read_source(item, where + ".")))


def _read_source(given: Mapping[str, Any], where: str) -> dict[str, Any]:
    return {
        key: None if given.get(key) is None else from_mapping(cls, given[key], where + key, SpecError)
        for key, cls in (("sensor", SensorSpec), ("fetch", FetchSpec))
    }


def _read_options(given: Any) -> ExportConfig:
    if isinstance(given, Mapping) and isinstance(given.get("input_prep"), Mapping):
        prep = from_mapping(InputPrepSpec, {"mode": "tile"} | dict(given["input_prep"]), "export.input_prep", SpecError)
        given = dict(given) | {"input_prep": prep}
    return from_mapping(ExportConfig, {} if given is None else given, "export", ModelError)


def _read_target(given: Any) -> ExportTarget:
    if not isinstance(given, Mapping):
        raise ModelError(f"target: {given!r} is not valid; allowed: a mapping with the keys layout, path")
    refuse_unknown(given, ("layout", "path"), "target", ModelError)
    for key, allowed in (("layout", "one of 'combined', 'per_item'"), ("path", "a path")):
        if key not in given:
            raise ModelError(f"target: the key {key!r} is missing; allowed: {allowed}")
    return ExportTarget(given["layout"], given["path"])
