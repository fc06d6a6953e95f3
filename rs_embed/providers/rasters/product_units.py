"""Collections with the same product in different units of measure, converted where a request and
an archive differ.

Sentinel-1 backscatter is delivered in decibel (``COPERNICUS/S1_GRD``) and as linear power
(``COPERNICUS/S1_GRD_FLOAT``): dB = 10 log10(power) (Earth Engine's description of both
collections).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ...products import COLLECTION_UNITS, DECIBEL

if TYPE_CHECKING:
    import numpy as np

_OTHER = {"COPERNICUS/S1_GRD": "COPERNICUS/S1_GRD_FLOAT", "COPERNICUS/S1_GRD_FLOAT": "COPERNICUS/S1_GRD"}


def other_form(collection: str) -> str | None:
    """The collection with the same product in other units of measure, or None."""
    return _OTHER.get(collection)


def convert_units(values: np.ndarray, collection: str) -> tuple[np.ndarray, np.ndarray]:
    """Values of the other form in the units of measure of ``collection``, float32 (float64 stays),
    and where they are defined: a power of 0 has no value in dB."""
    import numpy as np

    kind = values.dtype if values.dtype == np.float64 else np.dtype(np.float32)
    numbers = values.astype(kind)
    if COLLECTION_UNITS[collection] == DECIBEL:
        defined = numbers > 0
        return (10 * np.log10(np.where(defined, numbers, 1))).astype(kind), defined
    with np.errstate(over="ignore"):  # the result is infinity, which the quality record reports
        return np.power(kind.type(10), numbers / kind.type(10)).astype(kind), np.isfinite(numbers)
