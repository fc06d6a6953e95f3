"""Forms of one product: the same measurement in other units, converted where a request and an archive differ.

Sentinel-1 backscatter is delivered in decibel (``COPERNICUS/S1_GRD``) and as linear power (``COPERNICUS/S1_GRD_FLOAT``):
dB = 10 log10(power) (Earth Engine's description of both collections).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ...planning.model_info import DECIBEL, UNITS

if TYPE_CHECKING:
    import numpy as np

_OTHER = {"COPERNICUS/S1_GRD": "COPERNICUS/S1_GRD_FLOAT", "COPERNICUS/S1_GRD_FLOAT": "COPERNICUS/S1_GRD"}


def other_form(collection: str) -> str | None:
    """The collection that holds the same product in other units, or None."""
    return _OTHER.get(collection)


def convert(values: np.ndarray, want: str) -> tuple[np.ndarray, np.ndarray]:
    """Numbers of the other form in the units of ``want``, float32 (float64 stays), and where they have one: a power of 0 has no dB."""
    import numpy as np

    kind = values.dtype if values.dtype == np.float64 else np.dtype(np.float32)
    numbers = values.astype(kind)
    if UNITS[want] == DECIBEL:
        defined = numbers > 0
        return (10 * np.log10(np.where(defined, numbers, 1))).astype(kind), defined
    with np.errstate(over="ignore"):  # not a decibel then: infinity, which the quality record reports
        return np.power(kind.type(10), numbers / kind.type(10)).astype(kind), np.isfinite(numbers)
