"""The quality record of an input: what is suspicious about its pixels, or about the weights that
its embedding is computed with.

A record has ``valid`` (share of pixels with data) and, where something is suspicious,
``constant_bands``, ``warnings`` (sentences) and ``kinds`` (their kinds, from :data:`KINDS`).
Statistics are those of pixels with data: the fill value of pixels without counts as no number.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from ...errors import ModelError
from ...models import get_model_info
from ...models.shared.inputs import DN_PER_REFLECTANCE, NEGATIVE_SHARE
from ...planning.model_info import RANDOM
from ...planning.units import Unit
from ...products import COLLECTION_UNITS, DECIBEL, LINEAR, find_product
from ...products.sentinel2 import BASELINE_OFFSET, SATURATED
from ...providers.composite import STANDS_IN
from ...request.geometry import crop_slices
from ...runs.run import Run

if TYPE_CHECKING:
    import numpy as np

#: The kinds of warnings, with the words of the summary at the end of a run (docs/outputs.md).
KINDS = {
    "partly_filled": "partly filled",
    "mostly_empty": "mostly without data",
    "substituted_frames": "substituted frames",
    "imagery_note": "notes about the imagery",
    "not_finite": "non-finite values",
    "constant_bands": "constant bands",
    "zeros": "zeros",
    "wrong_units": "unexpected units of measure",
    "saturated": "saturated values",
    "random_weights": "random weights",
}

#: Share of pixels with data below which a ROI is mostly empty: the embedding describes the fill
#: value more than the place.
_LEAST_FILLED = 0.5
#: Share of values that decides about all of them: one defective pixel of a hundred hides nothing.
_FEW = 0.01
#: Highest number that looks like reflectance where DN are expected. The adapters of ``rs-embed``
#: 0.3.1 refuse images whose values are in 0..2 as scaled already; 2 DN are a reflectance of
#: 0.0002, below the noise of Sentinel-2.
_REFLECTANCE = 2.0
#: Highest DN: Sentinel-2 products are uint16 (ESA, "Sentinel-2 Products Specification Document").
_HIGHEST_DN = 65535.0
#: Factors to DN by the first word of a modality's units of measure.
_FACTORS = {"DN": 1.0, "reflectance": DN_PER_REFLECTANCE}
#: Linear power (10 dB) that few pixels of a scene exceed: backscatter of land is -25 to 5 dB. The
#: DN of GRD products are amplitudes of 20 to 1000.
_BRIGHT_POWER = 10.0
#: Share of zeros in every band above which DN or linear power count as without data: 0 means no
#: data in Sentinel-2 (special value NODATA of the product metadata) and in Sentinel-1 GRD.
_MANY_ZEROS = 0.5


@dataclass
class _Findings:
    """Warnings with their kinds, in the order in which they were found."""

    sentences: list[str] = field(default_factory=list)
    kinds: list[str] = field(default_factory=list)

    def add(self, kind: str, sentence: str) -> None:
        self.sentences.append(sentence)
        self.kinds.append(kind)


@dataclass(frozen=True)
class _Expected:
    """What the numbers of an image should be.

    Attributes:
        reader: label of the model that reads them. units: its units of measure. collection: of the
            request.
        measured: units of measure of Sentinel-1, if the image should have them, else None.
        factor: from numbers of the image to DN (reflectance x 10000), or None where the model
            takes neither DN nor reflectance.
        adjustable: the model has an option for the factor. is_default: which has its default.
        saturated: value that marks saturated pixels, or None.
    """

    reader: str
    units: str
    collection: str
    measured: str | None
    factor: float | None
    adjustable: bool
    is_default: bool
    saturated: float | None


def find_bad_input(run: Run, quality: Mapping[str, Any]) -> ModelError | None:
    """The error of an image with warnings, with ``fail_on_bad_input``; also for an embedding that
    is stored already."""
    if quality.get("warnings") and run.request.config.fail_on_bad_input:
        return ModelError(f"bad input: {'; '.join(quality['warnings'])}")
    return None


def kinds_of(quality: Mapping[str, Any] | None) -> tuple[str, ...]:
    """The kinds of warnings of a record, without repetitions. Those of embeddings that an earlier
    version stored are ``imagery_note``."""
    if not quality or not quality.get("warnings"):
        return ()
    return tuple(dict.fromkeys(quality.get("kinds") or ("imagery_note",)))


def describe_missing_imagery(chip: Mapping[str, Any]) -> dict:
    """The quality record of a ROI without imagery, with the provider's reasons. They have no
    kinds, because the status of the ROI is ``no_data``."""
    return {"valid": 0.0} | ({"warnings": chip["warnings"]} if chip["warnings"] else {})


def assess_input(run: Run, unit: Unit, pixels: np.ndarray, chip: Mapping[str, Any], fill: float) -> dict:
    """The quality record of the image that a unit reads.

    Args:
        pixels: (C, H, W) or (T, C, H, W) as fetched, the bands of the unit.
        chip: metadata of :func:`~.stored_objects.read_chip`.
        fill: value of pixels without data.
    """
    planes = _split_bands(pixels, unit.sensor.bands, fill, chip["coverage"])
    found = _Findings()
    _add_coverage(found, chip, _coverage_of_roi(pixels, fill, chip))
    for sentence in chip["warnings"]:
        found.add("substituted_frames" if sentence.endswith(STANDS_IN) else "imagery_note", sentence)
    _add_not_finite(found, planes)
    flat = _add_constant_bands(found, planes, pixels.shape[-2] * pixels.shape[-1])
    _add_unusual_numbers(found, planes, _expect(unit), pixels.dtype)
    if unit in run.plan.embedded_units and getattr(unit.options, "weights", None) == RANDOM:
        found.add("random_weights", "random weights: the embedding is not that of a trained model")
    more = {"constant_bands": flat, "warnings": found.sentences, "kinds": list(dict.fromkeys(found.kinds))}
    return {"valid": chip["valid"]} | {k: v for k, v in more.items() if v}


# coverage ----------------------------------------------------------------------------------------


def _coverage_of_roi(pixels: np.ndarray, fill: float, chip: Mapping[str, Any]) -> float:
    """Share of pixels with data in the ROI of an image that was enlarged to a square. Pixels with
    the fill value count as without data, unless the image has more of them than it lacks."""
    if "roi" not in chip:
        return float(chip["valid"])
    if float((pixels == fill).mean()) > 1 - chip["valid"] + 1e-5:
        return float(chip["valid"])
    height, width = pixels.shape[-2:]
    rows, columns = crop_slices((height, width), tuple(chip["roi"]))
    return 1 - float((pixels[..., rows, columns] == fill).mean())


def _add_coverage(found: _Findings, chip: Mapping[str, Any], in_roi: float) -> None:
    """A warning about pixels without data."""
    if (least := min(chip["valid"], in_roi)) < _LEAST_FILLED:
        what = "the ROI" if in_roi == least else "the square around the ROI"
        masked = ", or the mask removes it" if (chip.get("provenance") or {}).get("mask") else ""
        found.add(
            "mostly_empty",
            f"only {100 * least:.1f} % of {what} has data: most of it lies outside the imagery{masked}; "
            "choose a longer window, other imagery or another place",
        )
    elif chip["valid"] < 1:
        found.add("partly_filled", f"{100 * (1 - chip['valid']):.1f} % of the pixels have no data")


# numbers -----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Plane:
    """One band of an image.

    Attributes:
        count: of its numbers with data. finite: those that are finite, 1-D. lowest, highest: of
            these; they save most passes over the numbers.
    """

    band: str
    count: int
    finite: np.ndarray
    lowest: float
    highest: float

    @classmethod
    def of(cls, band: str, values: np.ndarray) -> _Plane:
        """A band of numbers with data, 1-D."""
        import numpy as np

        finite = values
        if values.dtype.kind == "f" and not (is_finite := np.isfinite(values)).all():
            finite = values[is_finite]
        low, high = (float(finite.min()), float(finite.max())) if len(finite) else (math.nan, math.nan)
        return cls(band, len(values), finite, low, high)

    def above(self, limit: float) -> int:
        """How many finite numbers are above a limit."""
        if self.lowest > limit:
            return len(self.finite)
        return int((self.finite > limit).sum()) if self.highest > limit else 0

    def below(self, limit: float) -> int:
        """How many finite numbers are below a limit."""
        if self.highest < limit:
            return len(self.finite)
        return int((self.finite < limit).sum()) if self.lowest < limit else 0

    def equal(self, number: float) -> int:
        """How many finite numbers are equal to a number."""
        return int((self.finite == number).sum()) if self.lowest <= number <= self.highest else 0


def _split_bands(pixels: np.ndarray, bands: Sequence[str], fill: float, coverage: Mapping[str, float]) -> list[_Plane]:
    """The numbers with data of every band."""
    import numpy as np

    planes = zip(bands, np.moveaxis(pixels, -3, 0))
    return [_Plane.of(band, _select_data(plane.ravel(), fill, coverage[band])) for band, plane in planes]


def _select_data(values: np.ndarray, fill: float, coverage: float) -> np.ndarray:
    """The numbers of pixels with data, without their places. A number with data may equal the fill
    value (0 in linear power): as many stay as the coverage leaves."""
    import numpy as np

    lacking = round(len(values) * (1 - coverage))
    if not lacking:
        return values
    is_fill = values == fill
    # stored coverage is rounded to six digits
    with_data = max(0, int(is_fill.sum()) - lacking - math.ceil(len(values) * 1e-6))
    return np.concatenate([values[~is_fill], np.full(with_data, fill, values.dtype)])


def _share(planes: Sequence[_Plane], count: Callable[[_Plane], int]) -> float:
    """Share of the finite numbers of all bands that are counted; 0 without numbers."""
    total = sum(len(p.finite) for p in planes)
    return sum(map(count, planes)) / total if total else 0.0


def _add_not_finite(found: _Findings, planes: Sequence[_Plane]) -> None:
    total, finite = sum(p.count for p in planes), sum(len(p.finite) for p in planes)
    if finite < total:
        found.add("not_finite", f"{100 * (1 - finite / total):.1f} % of the values are not finite")


def _add_constant_bands(found: _Findings, planes: Sequence[_Plane], size: int) -> list[str]:
    """The bands with a single number, or with none. Not for an image, or data, of one pixel."""
    if size < 2:
        return []
    empty = [p.band for p in planes if not p.count]
    flat = [p.band for p in planes if p.count > 1 and (not len(p.finite) or p.lowest == p.highest)]
    if empty:
        found.add("partly_filled", f"bands without data: {', '.join(empty)}")
    if flat:
        found.add("constant_bands", f"constant bands: {', '.join(flat)}")
    return [p.band for p in planes if p.band in empty or p.band in flat]


def _expect(unit: Unit) -> _Expected:
    """What the numbers of a unit's images should be. A model of any bands has the units of measure
    of the requested collection; the others have those of their modality."""
    info, collection = get_model_info(unit.model), unit.sensor.collection
    modality = info.modalities[unit.modality]
    measured = COLLECTION_UNITS.get(collection) if info.any_bands else modality.units
    scale = getattr(unit.options, "input_scale", None)
    factor = next((f for word, f in _FACTORS.items() if modality.units.startswith(word)), None)
    if factor is not None and scale is not None:
        factor = scale * DN_PER_REFLECTANCE
    product = find_product(collection)
    if product is None and not info.any_bands:  # a name of the user's own
        product = find_product(modality.sensor.collection)
    return _Expected(
        reader=unit.label,
        units=modality.units,
        collection=collection,
        measured=measured if measured in (LINEAR, DECIBEL) else None,
        factor=factor,
        adjustable=scale is not None,
        is_default=scale is None or math.isclose(scale, 1 / DN_PER_REFLECTANCE),
        saturated=None if product is None else product.saturated,
    )


def _add_unusual_numbers(found: _Findings, planes: Sequence[_Plane], expected: _Expected, dtype: np.dtype) -> None:
    """Warnings about zeros, saturated numbers, and numbers that are far outside the scale of the
    model."""
    _add_saturated(found, planes, expected, dtype)
    planes = [p for p in planes if len(p.finite)]
    if not planes:
        return
    zeros = min(p.equal(0) / len(p.finite) for p in planes)
    if zeros == 1:
        found.add("zeros", "every value is 0, as in pixels without data")
        return
    if zeros > _MANY_ZEROS and expected.measured != DECIBEL:
        found.add("zeros", f"{100 * zeros:.1f} % of the values of every band are 0, as in pixels without data")
        planes = [_Plane.of(p.band, p.finite[p.finite != 0]) for p in planes]
    sentence = _check_backscatter(planes, expected) if expected.measured else None
    if sentence is None and expected.factor is not None:
        sentence = _check_digital_numbers(planes, expected, dtype)
    if sentence is not None:
        found.add("wrong_units", sentence)


def _add_saturated(found: _Findings, planes: Sequence[_Plane], expected: _Expected, dtype: np.dtype) -> None:
    """A warning about bands in which more than few numbers are the product's value of saturated
    pixels, or the highest of an integer dtype."""
    import numpy as np

    values = {float(np.iinfo(dtype).max)} if dtype.kind in "iu" else set()
    if expected.saturated is not None:
        values.add(expected.saturated)
    if SATURATED in values:  # without the constant of processing baseline 04.00
        values.add(SATURATED - BASELINE_OFFSET)
    shares = {p.band: sum(map(p.equal, values)) / len(p.finite) for p in planes if len(p.finite)}
    if bands := [f"{band} ({100 * share:.1f} %)" for band, share in shares.items() if share > _FEW]:
        found.add("saturated", f"saturated values: {', '.join(bands)}")


def _check_backscatter(planes: Sequence[_Plane], expected: _Expected) -> str | None:
    """What is wrong with backscatter of Sentinel-1, or None."""
    negative = _share(planes, lambda p: p.below(0))
    wanted = f"and {expected.reader} reads {expected.measured}"
    if expected.measured == LINEAR and negative > NEGATIVE_SHARE:
        return (
            f"more than {100 * NEGATIVE_SHARE:.0f} % of the values are negative, like decibel, {wanted}: "
            "local rasters in dB belong to the collection COPERNICUS/S1_GRD, and are converted"
        )
    if expected.measured == LINEAR and _share(planes, lambda p: p.above(_BRIGHT_POWER)) > 0.5:
        return f"most values are above {_BRIGHT_POWER:g}, like amplitudes or DN of GRD products, {wanted}: use calibrated backscatter"
    if expected.measured == DECIBEL and negative < _FEW:
        return (
            f"fewer than {100 * _FEW:.0f} % of the values are negative, like linear power, {wanted}: "
            "local rasters of linear power belong to the collection COPERNICUS/S1_GRD_FLOAT, and are converted"
        )
    return None


def _check_digital_numbers(planes: Sequence[_Plane], expected: _Expected, dtype: np.dtype) -> str | None:
    """What is wrong with numbers for a model that takes DN, or None."""
    assert expected.factor is not None
    low, high = _REFLECTANCE / expected.factor, _HIGHEST_DN / expected.factor
    wanted = f"and {expected.reader} takes {expected.units}"
    advice = "set scale of the catalogue" + (", or input_scale of the model" if expected.adjustable else "")
    if expected.is_default:
        if expected.measured or _share(planes, lambda p: p.below(0)) > NEGATIVE_SHARE:
            like = expected.measured or DECIBEL
            return f"the values are in {like}, or negative like it, {wanted}: {advice}"
        if dtype.itemsize == 1:
            return f"the values are 8-bit numbers, {wanted}: {advice}"
    if _share(planes, lambda p: p.above(low) + p.below(-low)) <= _FEW:
        like = "like reflectance" if low == _REFLECTANCE else "far below its scale"
        return f"the values are at most {low:g}, {like}, {wanted}: {advice}"
    if _share(planes, lambda p: p.above(high) + p.below(-high)) > _FEW:
        return f"values are above {high:g}, {wanted}: {advice}"
    return None
