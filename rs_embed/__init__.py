"""rs_embed: embeddings of many places with remote-sensing foundation models, as a Snakemake workflow.

``export_batch`` is the request as a Python call, ``plan_batch`` says what it will cost; the same request lives in
``config/config.yaml``. Importing this package imports neither torch, nor numpy, nor Snakemake.
"""

from .api import export_batch, plan_batch
from .errors import ExportError, ModelError, ProviderError, RSEmbedError, RunLockedError, SpecError, StoreError
from .reading import load_export
from .request.config import ExportConfig, ExportModelRequest, ExportTarget
from .request.specs import BBox, FetchSpec, InputPrepSpec, OutputSpec, PointBuffer, SensorSpec, TemporalSpec

__all__ = [
    "BBox",
    "ExportConfig",
    "ExportError",
    "ExportModelRequest",
    "ExportTarget",
    "FetchSpec",
    "InputPrepSpec",
    "ModelError",
    "OutputSpec",
    "PointBuffer",
    "ProviderError",
    "RSEmbedError",
    "RunLockedError",
    "SensorSpec",
    "SpecError",
    "StoreError",
    "TemporalSpec",
    "export_batch",
    "load_export",
    "plan_batch",
]
