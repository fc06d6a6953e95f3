"""rs_embed: embeddings of many ROIs with remote-sensing foundation models, as a Snakemake
workflow.

``export_batch`` runs a request, ``plan_batch`` estimates what it costs, and ``load_export`` opens
the result. The same request can be a config file (``config/config.yaml``). Importing this package
imports neither torch, numpy nor Snakemake.
"""

from typing import TYPE_CHECKING

from .api import export_batch, plan_batch
from .errors import ExportError, ModelError, ProviderError, RSEmbedError, RunLockedError, SpecError, StoreError
from .reading import ExportResult, ModelResult, load_export
from .reading.result import Failure
from .request.config import ExportConfig, ExportModelRequest, ExportTarget
from .request.gee_settings import GeeSettings
from .request.mask_spec import MaskSpec
from .request.specs import (
    BBox,
    FetchSpec,
    InputPrepSpec,
    OutputSpec,
    PointBuffer,
    SensorSpec,
    SpatialSpec,
    TemporalSpec,
)

if TYPE_CHECKING:
    from .estimate import Estimate, ModelCost, SourceCost

    __version__: str

__all__ = [
    "BBox",
    "Estimate",
    "ExportConfig",
    "ExportError",
    "ExportModelRequest",
    "ExportResult",
    "ExportTarget",
    "Failure",
    "FetchSpec",
    "GeeSettings",
    "InputPrepSpec",
    "MaskSpec",
    "ModelCost",
    "ModelError",
    "ModelResult",
    "OutputSpec",
    "PointBuffer",
    "ProviderError",
    "RSEmbedError",
    "RunLockedError",
    "SensorSpec",
    "SourceCost",
    "SpatialSpec",
    "SpecError",
    "StoreError",
    "TemporalSpec",
    "__version__",
    "export_batch",
    "load_export",
    "plan_batch",
]

#: Names that are imported when they are used: their module imports most of the package.
_LAZY = ("Estimate", "ModelCost", "SourceCost")


def __getattr__(name: str) -> object:
    if name == "__version__":
        from .version import package_version

        return package_version()
    if name in _LAZY:
        from . import estimate

        return getattr(estimate, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
