"""The form of a product's description."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

#: Units of measure of radar backscatter.
LINEAR, DECIBEL = "linear power", "dB"


@dataclass(frozen=True)
class Band:
    """One band of a collection, and how delivered files contain it.

    Attributes:
        name: in Earth Engine's collection.
        file: its name in the files of the product, for example ``B02``; "" where it is ``name``.
        aliases: common names, upper case.
        scale, offset: value of the collection = number of the file * scale + offset.
        nodata: nodata value of the files, also where they do not declare it; None where the file
            decides.
        quality: a band of classes or bits: never scaled, never an input of a model by default.
    """

    name: str
    file: str = ""
    aliases: tuple[str, ...] = ()
    scale: float = 1.0
    offset: float = 0.0
    nodata: float | None = None
    quality: bool = False


@dataclass(frozen=True)
class BitTest:
    """A class of a quality band: pixel ``v`` belongs to it where ``(v >> shift) & (2**width - 1)``
    is one of ``values``."""

    shift: int
    width: int
    values: tuple[int, ...]

    def as_list(self) -> list:
        """As JSON values, for identities."""
        return [self.shift, self.width, list(self.values)]


def padded_name(band: str) -> str:
    """The name of a band of Sentinel-2 or HLS in files: B2 is ``B02``, B8A is the same."""
    return band if band == "B8A" else f"B{band[1:]:0>2}"


def bit(number: int) -> BitTest:
    """The class of the pixels whose bit ``number`` is set."""
    return BitTest(number, 1, (1,))


def value(*numbers: int) -> BitTest:
    """The class of the pixels whose whole value, 8 bits, is one of ``numbers``."""
    return BitTest(0, 8, numbers)


@dataclass(frozen=True)
class QualityBand:
    """The band of a product that marks clouds.

    Attributes:
        band: its name in the collection.
        classes: by name.
        default: names of the classes that the mask ``"clouds"`` removes.
        nodata: value of pixels that were not observed.
    """

    band: str
    classes: Mapping[str, BitTest]
    default: tuple[str, ...]
    nodata: int | None = None


@dataclass(frozen=True)
class Product:
    """One collection of a product.

    Attributes:
        collection: id in Earth Engine.
        bands: in the order of the collection; thumbnails and angles are left out.
        cloud_property: property of an Earth Engine image with its cloud cover, percent; None where
            it has none.
        quality: the band that marks clouds; None where the product has none.
        units: units of measure of the values.
        saturated: value of saturated pixels, or None.
        cloud_score: images have a Cloud Score+ image in Earth Engine.
    """

    collection: str
    bands: tuple[Band, ...]
    cloud_property: str | None = None
    quality: QualityBand | None = None
    units: str = ""
    saturated: float | None = None
    cloud_score: bool = False

    @cached_property
    def band(self) -> Mapping[str, Band]:
        """Bands by name."""
        return {band.name: band for band in self.bands}

    def resolve_alias(self, name: str) -> str:
        """The band of the collection that a name means, which may be a common name (``RED``)."""
        wanted = name.upper()
        return next((b.name for b in self.bands if wanted in b.aliases), name)

    def is_quality(self, name: str) -> bool:
        """Whether a band contains classes or bits, which are never scaled."""
        band = self.band.get(name)
        return band is not None and band.quality
