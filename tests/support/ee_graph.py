"""Earth Engine's expressions, evaluated on local GeoTIFFs: the few functions that the provider
uses.

An image is computed on the grid of the request: every file is warped onto it (nearest), then
combined, as the service does.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from types import SimpleNamespace

import numpy as np

from . import ee_images
from .ee_images import Image, RequestRefused, Scene, milliseconds, open_image


@dataclass(frozen=True)
class Graph:
    """Evaluates a posted expression."""

    collections: dict[str, list[Scene]]
    values: dict
    known: dict = field(default_factory=dict)

    def node(self, node: dict, names: dict | None = None):
        names = names or {}
        ((kind, value),) = node.items()
        if kind == "constantValue":
            return value
        if kind == "valueReference":
            if self.free_arguments(value):
                return self.node(self.values[value], names)
            if value not in self.known:  # once, however often a mapped function refers to it
                self.known[value] = self.node(self.values[value])
            return self.known[value]
        if kind == "argumentReference":
            return names[value]
        if kind == "arrayValue":
            return [self.node(v, names) for v in value.get("values", [])]
        if kind == "functionDefinitionValue":
            (argument,) = value["argumentNames"]
            return lambda item: self.node(self.values[value["body"]], names | {argument: item})
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

    def free_arguments(self, value: str) -> frozenset[str]:
        """Arguments of functions around a value that it depends on."""

        def search(node) -> frozenset[str]:
            if isinstance(node, list):
                return frozenset().union(*map(search, node))
            if not isinstance(node, dict):
                return frozenset()
            if "argumentReference" in node:
                return frozenset([node["argumentReference"]])
            if "functionDefinitionValue" in node:
                function = node["functionDefinitionValue"]
                return self.free_arguments(function["body"]) - set(function["argumentNames"])
            if isinstance(node.get("valueReference"), str):
                return self.free_arguments(node["valueReference"])
            return search(list(node.values()))

        key = "arguments", value
        if key not in self.known:
            self.known[key] = search(self.values[value])
        return self.known[key]


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


def _or(filters: list):
    return lambda image: any(test(image) for test in filters)


def _not_null(properties: list):
    return lambda image: all(image.properties.get(name) is not None for name in properties)


def _limit(collection: list, limit: int | None = None, key: str | None = None) -> list:
    """Images in the order of a property, which every one of them needs here: the service does not
    document where it places the others."""
    if key is not None:
        missing = [image for image in collection if image.properties.get(key) is None]
        assert not missing, f"the order of {len(missing)} images without {key} is not defined"
        collection = sorted(collection, key=lambda i: i.properties[key])
    return collection[:limit]


def _to_list(collection: list, count: int) -> list:
    assert count > 0
    return collection[:count]


def _filter_list(list: list, filter) -> list:
    return [item for item in list if filter(SimpleNamespace(properties={"item": item}))]


def _distinct(list: list) -> list:
    return [item for i, item in enumerate(list) if item not in list[:i]]


def _index_of(list: list, element) -> int:
    return list.index(element) if element in list else -1


def _get_key(dictionary: dict, key: str):
    if key not in dictionary:
        raise RequestRefused(f"Dictionary.get: Dictionary does not contain key: '{key}'.")
    return dictionary[key]


def _rectangle(coordinates, crs=None, geodesic=None, evenOdd=None):
    return coordinates, crs or "EPSG:4326"


FUNCTIONS: dict[str, Callable] = {
    "Projection": lambda crs: crs,
    "GeometryConstructors.Rectangle": _rectangle,
    "Feature": lambda geometry, metadata=None: geometry,
    "DateRange": lambda start, end: (milliseconds(start), milliseconds(end)),
    "Filter.intersects": lambda leftField, rightValue: lambda image: image.touches(*rightValue),
    "Filter.dateRangeContains": _dates,
    "Filter.greaterThan": lambda leftField, rightValue: _property(leftField, lambda v: v > rightValue),
    "Filter.equals": lambda leftField, rightValue: _property(leftField, lambda v: v == rightValue),
    "Filter.not": lambda filter: _not(filter),
    "Filter.listContains": _contains,
    "Filter.notNull": _not_null,
    "Filter.or": _or,
    "Collection.filter": lambda collection, filter: [i for i in collection if filter(i)],
    "Collection.map": lambda collection, baseAlgorithm, dropNulls=False: [baseAlgorithm(i) for i in collection],
    "Collection.limit": _limit,
    "Collection.toList": _to_list,
    "ImageCollection.merge": lambda collection1, collection2: collection1 + collection2,
    "Collection.size": lambda collection: len(collection),
    "AggregateFeatureCollection.array": lambda collection, property: [
        i.properties[property] for i in collection if i.properties.get(property) is not None
    ],
    "Element.get": lambda object, property: object.properties.get(property),
    "String": lambda input: input,
    "List.map": lambda list, baseAlgorithm, dropNulls=False: [baseAlgorithm(item) for item in list],
    "List.filter": _filter_list,
    "List.distinct": _distinct,
    "List.indexOf": _index_of,
    "Dictionary.get": _get_key,
    "Number.max": lambda left, right: max(left, right),
    "PixelType.precision": lambda pixelType: pixelType["precision"],
    "PixelType.minValue": lambda pixelType: pixelType.get("min"),
    "PixelType.maxValue": lambda pixelType: pixelType.get("max"),
    "Image.bandTypes": ee_images.band_types,
    "Image.bandNames": lambda image: image.names,
    "Image.linkCollection": ee_images.link,
    "Image.updateMask": ee_images.update_mask,
    "Image.remap": ee_images.remap,
    "Image.bitwiseAnd": ee_images.bitwise(np.bitwise_and),
    "Image.rightShift": ee_images.bitwise(np.right_shift),
    "Image.select": ee_images.select,
    "Image.rename": lambda input, names: input.derive(input.pixels, list(names)),
    "Image.addBands": ee_images.add_bands,
    "Image.constant": ee_images.constant,
    "Image.mask": lambda image: image.each(lambda v, m: (m.astype("f4"), np.ones_like(m)), "f4"),
    "Image.gt": ee_images.binary(lambda a, b: (a > b).astype(np.uint8), "u1"),
    "Image.lt": ee_images.binary(lambda a, b: (a < b).astype(np.uint8), "u1"),
    "Image.neq": ee_images.binary(lambda a, b: (a != b).astype(np.uint8), "u1"),
    "Image.and": ee_images.binary(lambda a, b: ((a != 0) & (b != 0)).astype(np.uint8), "u1"),
    "Image.or": ee_images.binary(lambda a, b: ((a != 0) | (b != 0)).astype(np.uint8), "u1"),
    "Image.not": lambda value: value.each(lambda v, m: ((v == 0).astype(np.uint8), m), "u1"),
    "Image.multiply": ee_images.binary(lambda a, b: a * b),
    "Image.reduce": ee_images.reduce_sum,
    "Reducer.sum": lambda: "sum",
    "Image.unmask": ee_images.unmask,
    "reduce.median": ee_images.median,
    "reduce.sum": ee_images.sum_images,
    "ImageCollection.mosaic": ee_images.mosaic,
    "Image.reproject": ee_images.put_on_lattice,
    "Image.sampleRectangle": ee_images.sample,
}
for _name, _kind in {"Uint8": "u1", "Int8": "i1", "Uint16": "u2", "Int16": "i2", "Uint32": "u4", "Int32": "i4", "Int64": "i8",
                     "Float": "f4", "Double": "f8"}.items():  # fmt: skip
    FUNCTIONS[f"Image.to{_name}"] = lambda value, kind=_kind: value.each(lambda v, m: (v.astype(kind), m), kind)
