"""Settings of an export: target, run options and model requests, as frozen, validated
dataclasses."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

from ..errors import ModelError, SpecError
from .fields import check_fields, is_usable_text, option
from .specs import FetchSpec, InputPrepSpec, SensorSpec

#: Pattern of ROI names, which become file names.
NAME = re.compile(r"(?!\.)[A-Za-z0-9._-]{1,128}")
#: The index of a per_item export is ``manifest.json``, so this name is not allowed for a ROI.
RESERVED_NAMES = ("manifest",)
LAYOUTS = ("combined", "per_item")
#: File formats, each a module of ``formats``, and the suffix of their files.
SUFFIX = {"npz": ".npz", "netcdf": ".nc"}


def check_names(names: Sequence[str]) -> tuple[str, ...]:
    """ROI names as a tuple; raises :class:`SpecError` with the first name that is not unique, safe
    and short."""
    seen: dict[str, str] = {}
    for name in names:
        if not isinstance(name, str) or not NAME.fullmatch(name):
            raise SpecError(
                f"name: {name!r} is not valid; allowed: 1 to 128 characters of A-Z a-z 0-9 . _ -, not starting with '.'"
            )
        if name.lower() in RESERVED_NAMES:
            raise SpecError(f"name: {name!r} is reserved for the index of the export; allowed: any other name")
        if name.lower() in seen:
            other = seen[name.lower()]
            case = f"and {other!r} differ only in case, which some file systems do not keep apart"
            raise SpecError(f"name: {name!r} {'is given twice' if other == name else case}; allowed: unique names")
        seen[name.lower()] = name
    return tuple(names)


@dataclass(frozen=True)
class ExportTarget:
    """Path and layout of an export; created with :meth:`per_item` or :meth:`combined`.

    Attributes:
        layout: ``"combined"`` (one file) or ``"per_item"`` (one file per ROI).
        path: combined: the file, with or without its suffix; per_item: the folder.
        names: one name per ROI, in ROI order; None: p00000, p00001, ...

    Raises:
        ModelError: an unknown layout or an empty path. SpecError: a name is not unique and safe.
    """

    layout: str
    path: str
    names: tuple[str, ...] | None = None

    def __post_init__(self) -> None:
        if self.layout not in LAYOUTS:
            raise ModelError(f"target.layout: {self.layout!r} is not valid; allowed: one of 'combined', 'per_item'")
        try:
            path = self.path if isinstance(self.path, str) else self.path.__fspath__()
        except AttributeError:
            path = ""
        if not isinstance(path, str) or not path.strip() or not is_usable_text(path):
            raise ModelError(f"target.path: {self.path!r} is not valid; allowed: a path")
        object.__setattr__(self, "path", path)
        if self.names is not None:
            if isinstance(self.names, (str, bytes)) or not isinstance(self.names, Iterable):
                raise SpecError(f"target.names: {self.names!r} is not valid; allowed: a list of names, one per ROI")
            object.__setattr__(self, "names", check_names(tuple(self.names)))

    @classmethod
    def per_item(cls, out_dir: str, *, names: Sequence[str] | None = None) -> ExportTarget:
        """One file per ROI in the folder ``out_dir``, named after the ROI."""
        return cls("per_item", out_dir, names)  # type: ignore[arg-type]

    @classmethod
    def combined(cls, path: str, *, names: Sequence[str] | None = None) -> ExportTarget:
        """One file for the whole run; the suffix of the format is appended if it is missing."""
        return cls("combined", path, names)  # type: ignore[arg-type]


@dataclass(frozen=True)
class ExportConfig:
    """Run options of an export, all with defaults; docs/configuration.md has the table.

    Raises:
        ModelError: a value is not allowed, or not supported by this version.
    """

    format: str = option("npz", "file format", choices=tuple(SUFFIX))
    save_inputs: bool | str = option(
        True,
        "save the provider's pixels, in their original dtype and units of measure; model: also the tensors that enter the networks",
        choices=(True, False, "model"),
    )
    save_embeddings: bool = option(True, "run the models and save the embeddings")
    save_manifest: bool = option(True, "write the JSON manifest beside the arrays")
    fail_on_bad_input: bool = option(
        False, "treat suspicious input as an error, before inference and also without embeddings"
    )
    chunk_size: int | None = option(
        None, "ROIs per embed job; null: chosen automatically; does not change the results", minimum=1
    )
    infer_batch_size: int | None = option(
        None, "images per forward pass; null: the default of the model for the device", minimum=1, maximum=65536
    )
    num_workers: int = option(
        8, "concurrent requests to the imagery provider in one fetch job", minimum=1, maximum=1024
    )
    continue_on_error: bool = option(False, "record a failed ROI or model and continue, instead of stopping the run")
    max_retries: int = option(3, "retries of a request that failed with a temporary error", minimum=0, maximum=1000)
    retry_backoff_s: float = option(
        1.0, "pause before the first retry, seconds; doubles, with jitter, up to a minute", minimum=0, maximum=3600
    )
    async_write: bool = option(True, "per_item: write files with several threads")
    writer_workers: int = option(2, "per_item: number of writing threads", minimum=1, maximum=1024)
    resume: bool = option(True, "reuse existing results; false: compute embeddings and outputs again")
    show_progress: bool = option(True, "progress bars on stderr")
    input_prep: str | InputPrepSpec = option(
        "resize",
        "large-ROI policy: one pass, tiles, or tiles for grids; or an InputPrepSpec",
        choices=("resize", "tile", "auto"),
    )
    projection: str = option(
        "utm",
        "pixel grid: ground metres (utm), or the lattice of the reference library (web_mercator)",
        choices=("utm", "web_mercator"),
    )
    precision: str = option("fp32", "arithmetic of the models", choices=("fp32", "bf16"))
    cores: int | None = option(None, "export_batch: CPU cores for Snakemake; null: all", minimum=1, maximum=1e6)
    profile: str | None = option(None, "export_batch: Snakemake workflow profile, a name (slurm) or a folder")
    work_dir: str | None = option(None, "work folder; null: .rs_embed beside the target")
    store_dir: str | None = option(
        None, "folder of fetched pixels and embeddings; null: the folder store in the work folder"
    )
    keep_work: str = option(
        "embeddings",
        "what remains in the store after success; freed pixels are read back from the export",
        choices=("all", "embeddings", "none"),
    )
    store_limit_gb: float | None = option(
        None,
        "size of the store after success, GB of 1e9 bytes; the oldest objects of finished exports are deleted",
        minimum=0,
    )
    pack: bool = option(False, "each fetch and embed job packs its objects into one file at its end, for file quotas")
    refetch: bool = option(False, "with resume=false: also fetch the pixels again")

    def __post_init__(self) -> None:
        prep = self.input_prep
        # equal values have one spelling
        if isinstance(prep, InputPrepSpec) and prep == InputPrepSpec(prep.mode):
            object.__setattr__(self, "input_prep", prep.mode)
        check_fields(self, "config", ModelError)
        if not self.save_inputs and not self.save_embeddings:
            raise ModelError(
                "config.save_embeddings: False with save_inputs=False leaves nothing to export; allowed: at least one of them true"
            )
        if self.refetch and self.resume:
            raise ModelError(
                "config.refetch: True with resume=True contradict each other; allowed: refetch with resume=False"
            )
        for key in ("work_dir", "store_dir", "profile"):
            value = getattr(self, key)
            if value is not None and not value.strip():
                raise ModelError(f"config.{key}: {value!r} is not valid; allowed: a path or null")

    @classmethod
    def keywords(cls) -> tuple[str, ...]:
        """Names of all options."""
        return tuple(f.name for f in fields(cls))


#: Options that change what is computed or written. The other options are in no key.
OUTPUT_OPTIONS = ("format", "save_inputs", "save_embeddings", "save_manifest")

#: Pattern of labels.
LABEL = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]{0,63}")


@dataclass(frozen=True)
class ExportModelRequest:
    """One model of the run, with its settings.

    Attributes:
        name: model id or alias, any case.
        sensor, fetch: imagery request of this model, at most one of them; replaces ``sensor`` or
            ``fetch`` of the run.
        modality: input modality of the model; replaces that of the run.
        model_config: options of the model, validated against its declared options; ``{}`` means
            None.
        label: name of the arrays; default the model id. With labels one model can be exported
            twice, with different settings.

    Raises:
        ModelError: both ``sensor`` and ``fetch`` are given, or a field has the wrong type.
    """

    name: str
    sensor: SensorSpec | None = None
    fetch: FetchSpec | None = None
    modality: str | None = None
    model_config: Mapping[str, Any] | None = None
    label: str | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.name, str) or not self.name.strip():
            raise ModelError(f"models: {self.name!r} is not a model id; allowed: a text such as 'mosaiks'")
        object.__setattr__(self, "name", self.name.strip())
        refuse_both(self.sensor, self.fetch, f"models.{self.name}")
        for key, kind in (("modality", str), ("label", str), ("model_config", Mapping)):
            value = getattr(self, key)
            if value is not None and not isinstance(value, kind):
                raise ModelError(
                    f"models.{self.name}.{key}: {value!r} is not valid; allowed: {'a mapping' if kind is Mapping else 'a text'} or null"
                )
        if self.label is not None and not LABEL.fullmatch(self.label):
            raise ModelError(
                f"models.{self.name}.label: {self.label!r} is not valid; "
                "allowed: 1 to 64 characters of A-Z a-z 0-9 . _ + -, starting with a letter or digit"
            )
        object.__setattr__(self, "model_config", _plain_options(self.model_config, self.name))
        object.__setattr__(self, "modality", canonical_modality(self.modality))

    def __hash__(self) -> int:
        return hash((self.name, self.label))


def _plain_options(options: Mapping[str, Any] | None, model: str) -> dict[str, Any] | None:
    """Options as a new dict of plain values, or None for no options."""
    for key, value in (options or {}).items():
        plain = (
            value is None or isinstance(value, (bool, int)) or (isinstance(value, float) and math.isfinite(value))
        ) or (isinstance(value, str) and is_usable_text(value))
        if not isinstance(key, str) or not plain:
            raise ModelError(
                f"models.{model}.model_config.{key}: {value!r} is not valid; allowed: a text, a finite number, true, false or null"
            )
    return dict(options) if options else None


def canonical_modality(word: str | None) -> str | None:
    """``sentinel-2`` -> ``s2``, ``sentinel-1`` -> ``s1``, other words in lower case with ``_`` for
    ``-``."""
    if word is None:
        return None
    if not isinstance(word, str) or not word.strip():
        raise ModelError(f"modality: {word!r} is not valid; allowed: a text such as 's2', or null")
    word = word.strip().lower().replace("-", "_")
    return {"sentinel_2": "s2", "sentinel2": "s2", "sentinel_1": "s1", "sentinel1": "s1"}.get(word, word)


def refuse_both(sensor: object, fetch: object, where: str) -> None:
    """Raise :class:`ModelError` if both ``sensor`` and ``fetch`` are given, or if one of them is
    not a spec."""
    for key, value, kind in (("sensor", sensor, SensorSpec), ("fetch", fetch, FetchSpec)):
        if value is not None and not isinstance(value, kind):
            raise ModelError(f"{where}.{key}: {value!r} is not valid; allowed: a {kind.__name__} or null")
    if sensor is not None and fetch is not None:
        raise ModelError(
            f"{where}.fetch: FetchSpec and SensorSpec cannot be given together; allowed: fetch to change the default request, or sensor to replace it"
        )
