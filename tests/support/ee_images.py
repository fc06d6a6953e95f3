"""Images of the loopback Earth Engine: GeoTIFFs on the grid of a request, and the functions of
images that the provider uses."""

from __future__ import annotations

import dataclasses
import datetime as dt
import functools
import itertools
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import rasterio
from rasterio.warp import Resampling, reproject, transform_bounds

from rs_embed.request.geometry import Grid

#: GDAL's datasets in memory support one thread at a time.
_warp_lock = threading.Lock()


class RequestRefused(Exception):
    """The service's message about a request that it refuses."""


def milliseconds(date: str) -> int:
    return int(dt.datetime.fromisoformat(date).replace(tzinfo=dt.UTC).timestamp() * 1000)


@dataclass(frozen=True)
class Scene:
    """A file as an image of a collection; ``convert`` changes its numbers (dB to linear power).

    ``time`` is None for an image without one. ``more`` are further files of the image, with bands
    of another type.
    """

    id: str
    path: Path
    time: str | None
    bands: tuple[str, ...]
    properties: dict = field(default_factory=dict)
    convert: Callable[[np.ndarray], np.ndarray] | None = None
    more: tuple[tuple[Path, tuple[str, ...]], ...] = ()

    def list_properties(self) -> dict:
        times = {} if self.time is None else {"system:time_start": milliseconds(self.time)}
        bands = [*self.bands, *(band for _, names in self.more for band in names)]
        return {"system:index": self.id, "system:band_names": bands} | times | self.properties


Planes = list[tuple[np.ndarray, np.ndarray]]  # values and mask of each band


@dataclass
class Image:
    """A lazy image: names and types of its bands, its properties, its footprint, its pixels on a
    grid."""

    names: list[str]
    dtypes: list[np.dtype]
    pixels: Callable[[Grid], Planes]
    properties: dict = field(default_factory=dict)
    touches: Callable[[list, str], bool] = lambda box, crs: True

    def derive(self, pixels: Callable[[Grid], Planes], names=None, dtypes=None) -> Image:
        return Image(names or self.names, dtypes or self.dtypes, pixels, self.properties, self.touches)

    def each(self, function: Callable, dtype=None) -> Image:
        """A function of values and mask of every band."""
        dtypes = [np.dtype(dtype)] * len(self.names) if dtype else self.dtypes
        return self.derive(lambda g: [function(v, m) for v, m in self.pixels(g)], dtypes=dtypes)


def open_image(scene: Scene) -> Image:
    """The image of a scene."""
    image = _open_file(scene)
    for path, bands in scene.more:
        image = add_bands(image, _open_file(dataclasses.replace(scene, path=path, bands=bands)))
    return image


def _open_file(scene: Scene) -> Image:
    """The image of the first file of a scene."""
    with rasterio.open(scene.path) as file:
        kind = np.dtype(file.dtypes[0])
        crs, bounds = file.crs, file.bounds
    kind = scene.convert(np.zeros(1, kind)).dtype if scene.convert else kind

    @functools.cache  # the bits of validity use the same pixels
    def pixels(grid: Grid) -> Planes:
        with _warp_lock, rasterio.open(scene.path) as file:
            to = {
                "dst_transform": rasterio.Affine(*grid.affine),
                "dst_crs": grid.crs,
                "resampling": Resampling.nearest,
            }
            # without nodata values: GDAL changes valid numbers that are equal to one
            source = {"src_transform": file.transform, "src_crs": file.crs}
            numbers = file.read()
            values = np.zeros((file.count, grid.height, grid.width), numbers.dtype)
            reproject(numbers, values, **source, **to)
            known = [np.full(v.shape, 255, np.uint8) if n is None else np.where(v != n, 255, 0).astype(np.uint8)
                     for v, n in zip(numbers, file.nodatavals)]  # fmt: skip
            masks = np.zeros(values.shape, np.uint8)
            reproject(np.array(known), masks, **source, **to)
            masks = masks > 0
        if scene.convert:
            values = scene.convert(values)
        return [(v, m & ~np.isnan(v)) for v, m in zip(values, masks)]

    def touches(box: list, other: str) -> bool:
        left, bottom, right, top = transform_bounds(crs, other, *bounds, densify_pts=21)
        return left <= box[2] and right >= box[0] and bottom <= box[3] and top >= box[1]

    return Image(list(scene.bands), [kind] * len(scene.bands), pixels, scene.list_properties(), touches)


def select(input: Image, bandSelectors, newNames=None) -> Image:
    for band in bandSelectors:
        if band not in input.names:
            raise RequestRefused(
                f"Image.select: Band pattern '{band}' did not match any bands. Available bands: {input.names}"
            )
    at = [input.names.index(b) for b in bandSelectors]
    return input.derive(
        lambda g: _pick_planes(input.pixels(g), at),
        list(newNames or bandSelectors),
        [input.dtypes[i] for i in at],
    )


def _pick_planes(planes: Planes, at: list[int]) -> Planes:
    return [planes[i] for i in at]


def _require_same_bands(collection: list[Image], what: str) -> Image:
    if not collection:
        raise RequestRefused(f"{what}: Parameter 'collection' has no images, so the result has no bands.")
    if any((image.names, image.dtypes) != (collection[0].names, collection[0].dtypes) for image in collection):
        raise RequestRefused(
            f"{what}: Expected a homogeneous image collection, but an image with incompatible bands was encountered."
        )
    return collection[0]


def median(collection: list[Image]) -> Image:
    first = _require_same_bands(collection, "reduce.median")

    def pixels(grid: Grid) -> Planes:
        made = []
        for stack in zip(*(image.pixels(grid) for image in collection)):
            masked = np.ma.masked_array([v.astype(float) for v, _ in stack], mask=[~m for _, m in stack])
            made.append((np.ma.median(masked, axis=0).filled(0), ~masked.mask.all(axis=0)))
        return made

    return first.derive(pixels, dtypes=[np.dtype(float)] * len(first.names))


def sum_images(collection: list[Image]) -> Image:
    first = _require_same_bands(collection, "reduce.sum")

    def pixels(grid: Grid) -> Planes:
        made = []
        for stack in zip(*(image.pixels(grid) for image in collection)):
            total = np.sum([np.where(m, v, 0).astype(float) for v, m in stack], axis=0)
            made.append((total, np.logical_or.reduce([m for _, m in stack])))
        return made

    return first.derive(pixels, dtypes=[np.dtype(float)] * len(first.names))


def mosaic(collection: list[Image]) -> Image:
    first = _require_same_bands(collection, "ImageCollection.mosaic")

    def pixels(grid: Grid) -> Planes:
        made = []
        for stack in zip(*(image.pixels(grid) for image in collection)):
            values, mask = (a.copy() for a in stack[0])
            for v, m in stack[1:]:
                values[m], mask = v[m], mask | m
            made.append((values, mask))
        return made

    return first.derive(pixels)


def add_bands(dstImg: Image, srcImg: Image) -> Image:
    """Bands of both; a name that exists gets a number."""
    both = list(dstImg.names)
    for name in srcImg.names:
        numbered = (f"{name}_{i}" for i in itertools.count(1))
        both.append(name if name not in both else next(n for n in numbered if n not in both))
    return dstImg.derive(lambda g: dstImg.pixels(g) + srcImg.pixels(g), both, dstImg.dtypes + srcImg.dtypes)


def constant(value) -> Image:
    numbers = value if isinstance(value, list) else [value]

    def pixels(grid: Grid) -> Planes:
        shape = grid.height, grid.width
        return [(np.full(shape, n), np.ones(shape, bool)) for n in numbers]

    return Image([f"constant_{i}" for i in range(len(numbers))], [np.dtype(int)] * len(numbers), pixels)


def binary(function: Callable, dtype=None) -> Callable[..., Image]:
    """A function of two images, band by band; ``dtype`` of the result, or that of the first
    image."""

    def made(image1: Image, image2: Image) -> Image:
        def pixels(grid: Grid) -> Planes:
            left, right = image1.pixels(grid), image2.pixels(grid)
            right = right * len(left) if len(right) == 1 else right
            return [(function(a, b), m & n) for (a, m), (b, n) in zip(left, right, strict=True)]

        return image1.derive(pixels, dtypes=[np.dtype(dtype)] * len(image1.names) if dtype else None)

    return made


def bitwise(function: Callable) -> Callable[..., Image]:
    """A function of the bits of two images of integers."""
    combine = binary(function)

    def made(image1: Image, image2: Image) -> Image:
        if any(kind.kind == "f" for kind in image1.dtypes):
            raise RequestRefused("Bitwise operands must be integer only.")
        return combine(image1, image2)

    return made


def remap(image: Image, to: list, defaultValue=None, **sources) -> Image:
    """Numbers for numbers of the first band; others become the default."""
    assert defaultValue is not None and len(image.names) == 1
    table = dict(zip(sources["from"], to, strict=True))

    def change(values: np.ndarray, mask: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return np.array([table.get(v, defaultValue) for v in values.ravel().tolist()]).reshape(values.shape), mask

    return image.each(change, int)


def update_mask(image: Image, mask: Image) -> Image:
    def pixels(grid: Grid) -> Planes:
        planes, masks = image.pixels(grid), mask.pixels(grid)
        masks = masks * len(planes) if len(masks) == 1 else masks
        return [(v, m & known & (keep != 0)) for (v, m), (keep, known) in zip(planes, masks, strict=True)]

    return image.derive(pixels)


def link(input: Image, imageCollection: list[Image], linkedBands: list[str]) -> Image:
    """An image with bands of the image that has the same ``system:index``; masked where there is
    none."""
    index = input.properties["system:index"]
    found = [image for image in imageCollection if image.properties["system:index"] == index]
    linked = select(found[0] if found else imageCollection[0], linkedBands)
    if not found:
        linked = linked.each(lambda v, m: (v, np.zeros_like(m)))
    kept = [i for i, name in enumerate(input.names) if name not in linkedBands]
    rest = input.derive(
        lambda g: _pick_planes(input.pixels(g), kept),
        [input.names[i] for i in kept],
        [input.dtypes[i] for i in kept],
    )
    return add_bands(rest, linked)


def reduce_sum(image: Image, reducer: str) -> Image:
    def pixels(grid: Grid) -> Planes:
        planes = image.pixels(grid)
        total = sum(np.where(m, v, 0).astype(float) for v, m in planes)
        return [(total, np.logical_or.reduce([m for _, m in planes]))]

    assert reducer == "sum"
    return image.derive(pixels, ["sum"], [np.dtype(float)])


def unmask(input: Image, value: Image, sameFootprint: bool = True) -> Image:
    assert not sameFootprint

    def pixels(grid: Grid) -> Planes:
        ((filler, _),) = value.pixels(grid)
        return [(np.where(m, v, filler.astype(v.dtype)), np.ones_like(m)) for v, m in input.pixels(grid)]

    return input.derive(pixels)


def band_types(image: Image) -> dict:
    made = {}
    for name, kind in zip(image.names, image.dtypes):
        if kind.kind == "f":
            made[name] = {"type": "PixelType", "precision": "float" if kind.itemsize == 4 else "double"}
        else:
            limits = np.iinfo(kind)
            made[name] = {"type": "PixelType", "precision": "int", "min": int(limits.min), "max": int(limits.max)}
    return made


def put_on_lattice(image: Image, crs: str, crsTransform: list) -> Image:
    """An image on a lattice of its own, which ``sampleRectangle`` then reads."""
    return Image(image.names, image.dtypes, image.pixels, {"lattice": (crs, crsTransform)}, image.touches)


def sample(image: Image, region: tuple, defaultValue: float = 0.0) -> dict:
    """Numbers as lists: the pixels of the image's lattice in a rectangle of its own projection."""
    (crs, (a, _, _, _, e, _)), ((left, bottom, right, top), _) = image.properties["lattice"], region
    grid = Grid(crs, (a, 0.0, left, 0.0, e, top), round((right - left) / a), round((top - bottom) / -e))
    lists = {n: np.where(m, v, defaultValue).tolist() for n, (v, m) in zip(image.names, image.pixels(grid))}
    return {"type": "Feature", "geometry": None, "properties": lists}
