"""The whole request as one value, and its two faces: the arguments of ``export_batch`` and a config mapping.

``Request.build`` normalises arguments; ``to_config`` and ``from_config`` write and read the same request as plain
values (what YAML holds) plus a ROI table. Nothing here reads or writes a file, knows a model or a provider.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from ..errors import ModelError, SpecError
from . import stac_settings
from .config import (
    LAYOUTS,
    ExportConfig,
    ExportModelRequest,
    ExportTarget,
    canonical_modality,
    check_names,
    refuse_both,
)
from .fields import from_mapping, refuse_bombs, refuse_unknown, to_mapping, usable
from .gee_settings import GeeSettings
from .rois import RoiTable
from .specs import BBox, FetchSpec, InputPrepSpec, OutputSpec, PointBuffer, SensorSpec, SpatialSpec, TemporalSpec

#: Keys of a config file, in the order they are written.
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
    """A normalised export request; every field is validated when it is built by :meth:`build`."""

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
    stac: Mapping | None = None

    def window(self, index: int) -> TemporalSpec | None:
        """The window of a ROI: its own, or the run's."""
        return (self.windows and self.windows[index]) or self.temporal

    @property
    def used_windows(self) -> list[TemporalSpec | None]:
        """Every window that a ROI of this run has, each once."""
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
        gee: GeeSettings | Mapping | None = None,
        stac: Mapping | None = None,
    ) -> Request:
        """Normalise and validate the arguments of ``export_batch``.

        Raises:
            SpecError: ROIs, names or window. ModelError: everything else.
        """
        spatials = _items(spatials, "spatials", "a non-empty list of PointBuffer or BBox")
        for i, spatial in enumerate(spatials):
            if not isinstance(spatial, (PointBuffer, BBox)):
                raise ModelError(f"spatials[{i}]: {spatial!r} is not valid; allowed: PointBuffer or BBox")
        if temporal is not None and not isinstance(temporal, TemporalSpec):
            raise SpecError(f"temporal: {temporal!r} is not valid; allowed: a TemporalSpec or None")
        requests = []
        for item in _items(models, "models", "a non-empty list of model ids or ExportModelRequest"):
            if not isinstance(item, (str, ExportModelRequest)):
                raise ModelError(f"models: {item!r} is not valid; allowed: a model id or an ExportModelRequest")
            requests.append(ExportModelRequest(item) if isinstance(item, str) else item)
        if not isinstance(target, ExportTarget):
            raise ModelError(
                f"target: {target!r} is not valid; allowed: ExportTarget.combined(path) or ExportTarget.per_item(dir)"
            )
        if config is not None and not isinstance(config, ExportConfig):
            raise ModelError(f"config: {config!r} is not valid; allowed: an ExportConfig or None")
        if not isinstance(output, OutputSpec):
            raise ModelError(f"output: {output!r} is not valid; allowed: OutputSpec.pooled() or OutputSpec.grid()")
        refuse_both(sensor, fetch, "export")
        if target.names is not None:
            if names is not None:
                raise ModelError(
                    "target.names: given beside the column name of the ROI table; allowed: one or the other"
                )
            names, target = target.names, replace(target, names=None)
        if names is not None and len(names) != len(spatials):
            raise ModelError(f"target.names: {len(names)} names for {len(spatials)} ROIs; allowed: one name per ROI")
        names = [f"p{i:05d}" for i in range(len(spatials))] if names is None else names
        device = (device or "auto").strip().lower() if isinstance(device, str) or device is None else device
        if device not in DEVICES:
            raise ModelError(f"device: {device!r} is not valid; allowed: one of {', '.join(map(repr, DEVICES))}")
        if not isinstance(backend, str) or not backend.strip() or not usable(backend):
            raise ModelError(f"backend: {backend!r} is not valid; allowed: a text such as 'auto' or 'sample'")
        kind, sep, rest = backend.strip().partition(":")
        return Request(
            spatials=tuple(spatials),
            names=check_names(names),
            temporal=temporal,
            models=tuple(requests),
            target=target,
            config=config or ExportConfig(),
            backend=kind.lower() + sep + rest,
            device=device,
            output=output,
            sensor=sensor,
            fetch=fetch,
            modality=canonical_modality(modality),
            windows=tuple(windows) if windows and any(windows) else None,
            gee=gee
            if gee is None or isinstance(gee, GeeSettings)
            else from_mapping(GeeSettings, gee, "gee", ModelError),
            stac=stac_settings.read(stac) or None,
        )

    def to_config(self, rois: Any) -> dict:
        """The request as a config mapping of plain values; ``rois`` is the table's path (or inline rows)."""
        target = {"layout": self.target.layout, "path": self.target.path}
        return {
            "rois": rois,
            "temporal": None if self.temporal is None else _window(self.temporal),
            "models": [_model_mapping(m) for m in self.models],
            "target": target,
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
    def from_config(config: Mapping, rois: RoiTable) -> Request:
        """Read :meth:`to_config` back.

        Raises:
            SpecError, ModelError: one sentence with the key, the value and what is allowed.
        """
        check_keys(config)
        output = config.get("output")
        temporal = config.get("temporal")
        return Request.build(
            spatials=rois.spatials,
            names=rois.names,
            windows=rois.windows,
            temporal=None if temporal is None else TemporalSpec.from_dict(temporal),
            models=[_model_request(m) for m in _items(config["models"], "models", "a non-empty list of models")],
            target=_target(config["target"]),
            config=_options(config.get("export")),
            backend="auto" if config.get("backend") is None else config["backend"],
            gee=config.get("gee"),
            device=config.get("device"),
            output=OutputSpec() if output is None else from_mapping(OutputSpec, output, "output", SpecError),
            **_source_override(config, ""),
            modality=config.get("modality"),
            stac=config.get("stac"),
        )


def check_keys(config: object) -> None:
    """Refuse a config that is no mapping, has unknown keys or lacks required ones."""
    refuse_bombs(config, "config", ModelError)
    if not isinstance(config, Mapping):
        raise ModelError(f"config: {config!r} is not valid; allowed: a mapping with the keys {', '.join(KEYS)}")
    refuse_unknown(config, KEYS, "config", ModelError)
    for key in REQUIRED:
        if config.get(key) is None:
            raise ModelError(f"config: the key {key!r} is missing; required are {', '.join(REQUIRED)}")


def _items(value: Any, where: str, allowed: str) -> list:
    if not isinstance(value, Iterable) or isinstance(value, (str, bytes, Mapping)):
        raise ModelError(f"{where}: {value!r} is not valid; allowed: {allowed}")
    items = list(value)
    if not items:
        raise ModelError(f"{where}: [] is empty; allowed: {allowed}")
    return items


def _window(temporal: TemporalSpec) -> dict:
    return (
        {"year": int(temporal.start[:4])} if temporal.mode == "year" else {"start": temporal.start, "end": temporal.end}
    )


def _model_mapping(model: ExportModelRequest) -> str | dict:
    out: dict[str, Any] = {"name": model.name}
    for key in ("label", "modality", "model_config"):
        if getattr(model, key) is not None:
            out[key] = getattr(model, key)
    for key in ("sensor", "fetch"):
        if getattr(model, key) is not None:
            out[key] = to_mapping(getattr(model, key))
    return out if len(out) > 1 else model.name


def _model_request(item: Any) -> ExportModelRequest:
    if isinstance(item, str):
        return ExportModelRequest(item)
    if not isinstance(item, Mapping) or "name" not in item:
        raise ModelError(f"models: {item!r} is not valid; allowed: a model id, or a mapping with the key 'name'")
    where = f"models.{item['name']}"
    refuse_unknown(item, ("name", "label", "modality", "sensor", "fetch", "model_config"), where, ModelError)
    return ExportModelRequest(**(dict(item) | _source_override(item, where + ".")))


def _source_override(given: Mapping, where: str) -> dict:
    return {
        key: None if given.get(key) is None else from_mapping(cls, given[key], where + key, SpecError)
        for key, cls in (("sensor", SensorSpec), ("fetch", FetchSpec))
    }


def _options(given: Any) -> ExportConfig:
    if isinstance(given, Mapping) and isinstance(given.get("input_prep"), Mapping):
        prep = from_mapping(InputPrepSpec, {"mode": "tile"} | dict(given["input_prep"]), "export.input_prep", SpecError)
        given = dict(given) | {"input_prep": prep}
    return from_mapping(ExportConfig, {} if given is None else given, "export", ModelError)


def _target(given: Any) -> ExportTarget:
    if not isinstance(given, Mapping):
        raise ModelError(f"target: {given!r} is not valid; allowed: a mapping with the keys layout, path")
    refuse_unknown(given, ("layout", "path"), "target", ModelError)
    for key in ("layout", "path"):
        if key not in given:
            allowed = f"one of {', '.join(map(repr, LAYOUTS))}" if key == "layout" else "a path"
            raise ModelError(f"target: the key {key!r} is missing; allowed: {allowed}")
    return ExportTarget(given["layout"], given["path"])
