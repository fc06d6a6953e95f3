"""Catalogues of product folders by the real command, and chips of whole products."""

from __future__ import annotations

import numpy as np

from rs_embed import TemporalSpec
from rs_embed.cli import main
from rs_embed.providers.rasters.catalogue import read_catalogue

from . import product_folders as made
from .rasters import at, chip


def rows_of(folder, *options: str) -> list:
    assert main(["catalogue", str(folder), *options]) == 0
    return read_catalogue(str(folder / "catalogue.csv"))


def whole(folder, collection: str, bands, metres: int, **changes):
    """The chip of the whole product on its own grid, without its edge."""
    size = made.SIDE // metres
    window = changes.pop("temporal", TemporalSpec.range("2022-01-01", "2023-01-01"))
    got, _ = chip(
        folder,
        at(size / 2, size / 2, made.SIDE / 2, scale=metres),
        collection=collection,
        bands=tuple(bands),
        scale_m=float(metres),
        temporal=window,
        cloudy_pct=100,
        **changes,
    )
    return got


def expected_of(numbers: np.ndarray, subtract=0, nodata=0) -> np.ndarray:
    valid = numbers != nodata
    return np.where(valid, np.maximum(numbers, subtract) - subtract, 0)


def enlarged(numbers: np.ndarray, metres: int) -> np.ndarray:
    """The numbers on a grid of smaller pixels."""
    factor = made.SIDE // metres // len(numbers)
    return numbers.repeat(factor, 0).repeat(factor, 1)
