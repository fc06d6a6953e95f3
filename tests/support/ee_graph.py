"""Earth Engine's expressions, evaluated on local GeoTIFFs: the few functions that the provider
uses.

An image is computed on the grid of the request: every file is warped onto it (nearest), then
combined, as the service does.
"""

from __future__ import annotations

import datetime as dt
import functools
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


@dataclass(frozen=True)
class Scene:
    """A file as an image of a collection; ``convert`` changes its numbers (dB to linear power)."""

    id: str
    path: Path
    time: str
    bands: tuple[str, ...]
    properties: dict = field(default_factory=dict)
    convert: Callable[[np.ndarray], np.ndarray] | None = None

    def list_properties(self) -> dict:
        when = dt.datetime.fromisoformat(self.time).replace(tzinfo=dt.UTC)
        return {"system:index": self.id, "system:time_start": int(when.timestamp() * 1000)} | self.properties


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
    """The image of a file."""
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
            values = np.zeros((file.count, grid.height, grid.width), file.dtypes[0])
            reproject(rasterio.band(file, file.indexes), values, src_nodata=None, **to)
            inside = np.zeros((grid.height, grid.width), np.uint8)
            whole = np.full((file.height, file.width), 255, np.uint8)
            reproject(whole, inside, src_transform=file.transform, src_crs=file.crs, **to)
            masks = [inside > 0 if n is None else (inside > 0) & (v != n) for n, v in zip(file.nodatavals, values)]
        if scene.convert:
            values = scene.convert(values)
        return [(v, m & ~np.isnan(v)) for v, m in zip(values, masks)]

    def touches(box: list, other: str) -> bool:
        left, bottom, right, top = transform_bounds(crs, other, *bounds, densify_pts=21)
        return left <= box[2] and right >= box[0] and bottom <= box[3] and top >= box[1]

    return Image(list(scene.bands), [kind] * len(scene.bands), pixels, scene.list_properties(), touches)


@dataclass(frozen=True)
class Graph:
    """Evaluates a posted expression."""

    collections: dict[str, list[Scene]]
    values: dict

    def node(self, node: dict, names: dict | None = None):
        names = names or {}
        ((kind, value),) = node.items()
        if kind == "constantValue":
            return value
        if kind == "valueReference":
            return self.node(self.values[value], names)
        if kind == "argumentReference":
            return names[value]
        if kind == "arrayValue":
            return [self.node(v, names) for v in value.get("values", [])]
        if kind == "functionDefinitionValue":
            (argument,) = value["argumentNames"]
            return lambda item: self.node(self.values[value["body"]], {argument: item})
        assert kind == "functionInvocationValue", kind
        arguments = {k: self.node(v, names) for k, v in value.get("arguments", {}).items()}
        name = value["functionName"]
        if name == "ImageCollection.load":
            if arguments["id"] not in self.collections:
                raise RequestRefused(
                    f"ImageCollection.load: ImageCollection asset '{arguments['id']}' not found (does not exist or "
                    "caller does not have access)."
                )
            return [open_image(s) for s in self.collections[arguments["id"]]]
        return FUNCTIONS[name](**arguments)


# filters: of the properties of an image, true, false, or None where a property is missing --------


def _property(name: str, test: Callable) -> Callable[[Image], bool | None]:
    return lambda image: None if image.properties.get(name) is None else test(image.properties[name])


def _contains(leftField=None, leftValue=None, rightField=None, rightValue=None):
    if leftField:
        return _property(leftField, lambda v: rightValue in v)
    return _property(rightField, lambda v: v in leftValue)


def _dates(leftValue, rightField):
    return _property(rightField, lambda v: leftValue[0] <= v < leftValue[1])


def _not(filter):
    return lambda image: None if filter(image) is None else not filter(image)


def _milliseconds(date: str) -> int:
    return int(dt.datetime.fromisoformat(date).replace(tzinfo=dt.UTC).timestamp() * 1000)


# images ------------------------------------------------------------------------------------------


def _select(input: Image, bandSelectors, newNames=None) -> Image:
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
    if any(image.names != collection[0].names for image in collection):
        raise RequestRefused(f"{what}: Expected a homogeneous image collection.")
    return collection[0]


def _median(collection: list[Image]) -> Image:
    first = _require_same_bands(collection, "reduce.median")

    def pixels(grid: Grid) -> Planes:
        made = []
        for stack in zip(*(image.pixels(grid) for image in collection)):
            masked = np.ma.masked_array([v.astype(float) for v, _ in stack], mask=[~m for _, m in stack])
            made.append((np.ma.median(masked, axis=0).filled(0), ~masked.mask.all(axis=0)))
        return made

    return first.derive(pixels, dtypes=[np.dtype(float)] * len(first.names))


def _mosaic(collection: list[Image]) -> Image:
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


def _add_bands(dstImg: Image, srcImg: Image) -> Image:
    both = dstImg.names + srcImg.names
    return dstImg.derive(lambda g: dstImg.pixels(g) + srcImg.pixels(g), both, dstImg.dtypes + srcImg.dtypes)


def _constant(value) -> Image:
    numbers = value if isinstance(value, list) else [value]

    def pixels(grid: Grid) -> Planes:
        shape = grid.height, grid.width
        return [(np.full(shape, n), np.ones(shape, bool)) for n in numbers]

    return Image([f"constant_{i}" for i in range(len(numbers))], [np.dtype(int)] * len(numbers), pixels)


def _binary(function: Callable) -> Callable[..., Image]:
    def made(image1: Image, image2: Image) -> Image:
        def pixels(grid: Grid) -> Planes:
            left, right = image1.pixels(grid), image2.pixels(grid)
            right = right * len(left) if len(right) == 1 else right
            return [(function(a, b), m & n) for (a, m), (b, n) in zip(left, right, strict=True)]

        return image1.derive(pixels)

    return made


def _reduce_sum(image: Image, reducer: str) -> Image:
    def pixels(grid: Grid) -> Planes:
        planes = image.pixels(grid)
        total = sum(np.where(m, v, 0).astype(float) for v, m in planes)
        return [(total, np.logical_or.reduce([m for _, m in planes]))]

    assert reducer == "sum"
    return image.derive(pixels, ["sum"], [np.dtype(float)])


def _unmask(input: Image, value: Image, sameFootprint: bool = True) -> Image:
    assert not sameFootprint

    def pixels(grid: Grid) -> Planes:
        ((filler, _),) = value.pixels(grid)
        return [(np.where(m, v, filler.astype(v.dtype)), np.ones_like(m)) for v, m in input.pixels(grid)]

    return input.derive(pixels)


def _first(collection: list[Image]) -> Image | None:
    return collection[0] if collection else None


def _types(image: Image | None) -> dict:
    if image is None:
        raise RequestRefused("Image.bandTypes: Parameter 'image' is required and may not be null.")
    made = {}
    for name, kind in zip(image.names, image.dtypes):
        if kind.kind == "f":
            made[name] = {"type": "PixelType", "precision": "float" if kind.itemsize == 4 else "double"}
        else:
            limits = np.iinfo(kind)
            made[name] = {"type": "PixelType", "precision": "int", "min": int(limits.min), "max": int(limits.max)}
    return made


def _rectangle(coordinates, crs=None, geodesic=None, evenOdd=None):
    return coordinates, crs or "EPSG:4326"


def _reproject(image: Image, crs: str, crsTransform: list) -> Image:
    """An image on a lattice of its own, which ``sampleRectangle`` then reads."""
    return Image(image.names, image.dtypes, image.pixels, {"lattice": (crs, crsTransform)}, image.touches)


def _sample(image: Image, region: tuple, defaultValue: float = 0.0) -> dict:
    """Numbers as lists: the pixels of the image's lattice in a rectangle of its own projection."""
    (crs, (a, _, _, _, e, _)), ((left, bottom, right, top), _) = image.properties["lattice"], region
    grid = Grid(crs, (a, 0.0, left, 0.0, e, top), round((right - left) / a), round((top - bottom) / -e))
    lists = {n: np.where(m, v, defaultValue).tolist() for n, (v, m) in zip(image.names, image.pixels(grid))}
    return {"type": "Feature", "geometry": None, "properties": lists}


FUNCTIONS: dict[str, Callable] = {
    "Projection": lambda crs: crs,
    "GeometryConstructors.Rectangle": _rectangle,
    "Feature": lambda geometry, metadata=None: geometry,
    "DateRange": lambda start, end: (_milliseconds(start), _milliseconds(end)),
    "Filter.intersects": lambda leftField, rightValue: lambda image: image.touches(*rightValue),
    "Filter.dateRangeContains": _dates,
    "Filter.greaterThan": lambda leftField, rightValue: _property(leftField, lambda v: v > rightValue),
    "Filter.equals": lambda leftField, rightValue: _property(leftField, lambda v: v == rightValue),
    "Filter.not": lambda filter: _not(filter),
    "Filter.listContains": _contains,
    "Collection.filter": lambda collection, filter: [i for i in collection if filter(i)],
    "Collection.map": lambda collection, baseAlgorithm: [baseAlgorithm(i) for i in collection],
    "Collection.limit": lambda collection, key: sorted(collection, key=lambda i: i.properties[key]),
    "Collection.size": lambda collection: len(collection),
    "Collection.first": _first,
    "AggregateFeatureCollection.array": lambda collection, property: [
        i.properties[property] for i in collection if i.properties.get(property) is not None
    ],
    "Image.bandTypes": _types,
    "Image.select": _select,
    "Image.rename": lambda input, names: input.derive(input.pixels, list(names)),
    "Image.addBands": _add_bands,
    "Image.constant": _constant,
    "Image.mask": lambda image: image.each(lambda v, m: (m.astype("f4"), np.ones_like(m)), "f4"),
    "Image.gt": _binary(lambda a, b: (a > b).astype(np.uint8)),
    "Image.multiply": _binary(lambda a, b: a * b),
    "Image.reduce": _reduce_sum,
    "Reducer.sum": lambda: "sum",
    "Image.unmask": _unmask,
    "reduce.median": _median,
    "ImageCollection.mosaic": _mosaic,
    "Image.reproject": _reproject,
    "Image.sampleRectangle": _sample,
}
for _name, _kind in {"Uint8": "u1", "Int8": "i1", "Uint16": "u2", "Int16": "i2", "Uint32": "u4", "Int32": "i4", "Int64": "i8",
                     "Float": "f4", "Double": "f8"}.items():  # fmt: skip
    FUNCTIONS[f"Image.to{_name}"] = lambda value, kind=_kind: value.each(lambda v, m: (v.astype(kind), m), kind)
