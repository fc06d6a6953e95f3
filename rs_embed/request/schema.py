"""The JSON schema of the config file, generated from the dataclasses of a request.

``rs-embed schema > workflow/schemas/config.schema.yaml`` (``make schema``); a test fails when the
file is out of date. The keys of a config are ``KEYS`` in ``request.py``, and the run options the
fields of ``ExportConfig`` in ``config.py``.
"""

from __future__ import annotations

from typing import Any

from .config import LABEL, LAYOUTS, NAME, ExportConfig
from .fields import json_schema
from .gee_settings import GeeSettings
from .mask_spec import MaskSpec
from .request import DEVICES, REQUIRED
from .specs import BBox, FetchSpec, InputPrepSpec, OutputSpec, PointBuffer, SensorSpec
from .stac_settings import stac_schema

#: Keys of the imagery request.
_IMAGERY = {"sensor": SensorSpec, "fetch": FetchSpec}
_TEXT = {"type": "string", "minLength": 1}
_TEXT_OR_NULL = {"type": ["string", "null"], "minLength": 1}
_LABEL_OR_NULL = {"type": ["string", "null"], "pattern": f"^{LABEL.pattern}$"}
#: At most one of sensor and fetch, in the config and in each model.
_NOT_BOTH = {
    "not": {"required": ["sensor", "fetch"], "properties": {"sensor": {"type": "object"}, "fetch": {"type": "object"}}}
}
_DATE = {"description": "ISO date", "type": "string", "pattern": r"^\d{4}-\d{2}-\d{2}$"}


def _object(required: list[str], properties: dict[str, Any]) -> dict[str, Any]:
    return {"type": "object", "additionalProperties": False, "required": required, "properties": properties}


def _nullable(schema: dict[str, Any]) -> dict[str, Any]:
    return {"oneOf": [{"type": "null"}, schema]}


def _row_schema(cls: type) -> dict[str, Any]:
    schema = json_schema(cls)
    del schema["properties"]["crs"]
    name = {"type": ["string", "integer"], "pattern": f"^{NAME.pattern}$"}
    schema["properties"] = {"name": name} | schema["properties"] | {"start": _DATE, "end": _DATE}
    return schema | {"dependentRequired": {"start": ["end"], "end": ["start"]}}


def config_schema() -> dict[str, Any]:
    """JSON schema (2020-12) of a config file."""
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "rs_embed export request",
        "type": "object",
        "additionalProperties": False,
        "required": list(REQUIRED),
        "properties": {
            "rois": _rois_schema(),
            "temporal": _temporal_schema(),
            "models": {
                "description": "model ids, or mappings with the settings of one model",
                "type": "array",
                "minItems": 1,
                "items": {"oneOf": [_TEXT, _model_schema()]},
            },
            "target": {
                "description": "combined: one file; per_item: one file per ROI in a folder",
                **_object(["layout", "path"], {"layout": {"enum": list(LAYOUTS)}, "path": _TEXT}),
            },
            "backend": {"description": "source of the pixels", **_TEXT_OR_NULL, "default": "auto"},
            "gee": _nullable(json_schema(GeeSettings)),
            "device": {"description": "device on which models run", "enum": [*DEVICES, None], "default": "auto"},
            "output": _nullable(json_schema(OutputSpec)),
            **_imagery_schemas(),
            "modality": _TEXT_OR_NULL,
            "stac": stac_schema(),
            "export": _nullable(_export_schema()),
        },
        **_NOT_BOTH,
    }


def _imagery_schemas() -> dict[str, Any]:
    return {key: _nullable(json_schema(cls, {"mask": _mask_schema()})) for key, cls in _IMAGERY.items()}


def _mask_schema() -> dict[str, Any]:
    """The schema of a mask: null, a word, or the mapping of a :class:`MaskSpec`."""
    return _word_or_mapping(json_schema(FetchSpec)["properties"]["mask"], json_schema(MaskSpec))


def _word_or_mapping(plain: dict[str, Any], mapping: dict[str, Any]) -> dict[str, Any]:
    shared = {key: plain.pop(key) for key in ("description", "default") if key in plain}
    return shared | {"oneOf": [plain, mapping]}


def _rois_schema() -> dict[str, Any]:
    return {
        "description": "ROI table (.csv, .geojson, .json or .gpkg), or a few rows inline",
        "oneOf": [
            _TEXT,
            {"type": "array", "minItems": 1, "items": {"oneOf": [_row_schema(PointBuffer), _row_schema(BBox)]}},
        ],
    }


def _temporal_schema() -> dict[str, Any]:
    year = _object(["year"], {"year": {"type": "integer", "minimum": 1, "maximum": 9998}})
    window = _object(["start", "end"], {"start": _DATE, "end": _DATE})
    return {"description": "window, half-open: the end is excluded", "oneOf": [{"type": "null"}, year, window]}


def _model_schema() -> dict[str, Any]:
    options = {
        "description": "options of the model; see `rs-embed models <id>`",
        "type": ["object", "null"],
        "additionalProperties": {"type": ["string", "number", "boolean", "null"]},
    }
    properties = {
        "name": {"description": "model id or alias", **_TEXT},
        "label": {"description": "name of the arrays; default the model id", **_LABEL_OR_NULL},
        "modality": _TEXT_OR_NULL,
        "model_config": options,
        **_imagery_schemas(),
    }
    return _object(["name"], properties) | _NOT_BOTH


def _export_schema() -> dict[str, Any]:
    """The run options, with the combinations that are not allowed."""
    nothing = {"save_inputs": {"const": False}, "save_embeddings": {"const": False}}
    refetch = {"required": ["refetch"], "properties": {"refetch": {"const": True}}}
    again = {"required": ["resume"], "properties": {"resume": {"const": False}}}
    prep = _word_or_mapping(json_schema(ExportConfig)["properties"]["input_prep"], json_schema(InputPrepSpec))
    return json_schema(ExportConfig, {"input_prep": prep}) | {
        "not": {"required": list(nothing), "properties": nothing},
        "if": refetch,
        "then": again,
    }


def format_schema() -> str:
    """The text of the schema file."""
    import yaml

    class Plain(yaml.SafeDumper):
        def ignore_aliases(self, data: object) -> bool:
            return True

    head = "# Generated by `make schema` from rs_embed/request/schema.py; do not edit.\n"
    return head + yaml.dump(config_schema(), Dumper=Plain, sort_keys=False, width=120)
