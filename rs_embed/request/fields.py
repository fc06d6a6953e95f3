"""Declared fields: one declaration of type, limits and meaning for validation, the JSON schema and
the docs.

A dataclass declares its fields with :func:`option`; :func:`check_fields` validates and normalises
an instance, and :func:`json_schema` writes the same rules as JSON schema. An error message is one
sentence: key, value, what is allowed.
"""

from __future__ import annotations

import dataclasses
import difflib
import functools
import math
import numbers
import operator
import os
import re
import types
import typing
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

T = TypeVar("T", bound="DataclassInstance")


def option(
    default: Any = dataclasses.MISSING,
    doc: str = "",
    *,
    choices: tuple[Any, ...] = (),
    minimum: float | None = None,
    above: float | None = None,
    maximum: float | None = None,
    not_yet: Callable[[Any], bool] | None = None,
) -> Any:
    """A dataclass field with its rules.

    Args:
        default: the default value; without one the field is required.
        doc: its meaning, with the unit of measure.
        choices: the allowed values (strings are compared without case).
        minimum, above, maximum: bounds of a number: ``>= minimum``, ``> above``, ``<= maximum``.
        not_yet: returns true for a value that is part of the API but not implemented; such a value
            raises.
    """
    rules = {"doc": doc, "choices": choices, "minimum": minimum, "above": above, "maximum": maximum, "not_yet": not_yet}
    return dataclasses.field(default=default, metadata=rules)


class Refused(ValueError):
    """A value does not fit its declaration. The message lists what is allowed; callers put key and
    value before it."""


@functools.cache
def resolve_hints(cls: type) -> dict[str, Any]:
    """The annotations of a dataclass, resolved to types."""
    return typing.get_type_hints(cls)


def union_members(hint: Any) -> tuple[Any, ...]:
    """The members of a union, or the type alone."""
    is_union = isinstance(hint, types.UnionType) or typing.get_origin(hint) is typing.Union
    return typing.get_args(hint) if is_union else (hint,)


def describe_allowed(hint: Any, rules: Mapping[str, Any]) -> str:
    """The allowed values of a field, in words."""
    if rules.get("choices"):
        words = [repr(c) for c in rules["choices"]]
        if type(None) in union_members(hint):
            words.append("null")
        members = [kind for kind in union_members(hint) if isinstance(kind, type)]
        words += [f"a mapping ({kind.__name__})" for kind in members if dataclasses.is_dataclass(kind)]
        return "one of " + ", ".join(words) if len(words) > 1 else words[0]
    kinds = []
    for kind in union_members(hint):
        if kind is type(None):
            kinds.append("null")
        elif kind in (bool, int, float, str):
            name = {bool: "true or false", int: "an integer", float: "a number", str: "a text"}[kind]
            if kind in (int, float):
                signs = {"minimum": ">=", "above": ">", "maximum": "<="}
                bounds = [f"{sign} {rules[key]:g}" for key, sign in signs.items() if rules.get(key) is not None]
                name += " " + " and ".join(bounds) if bounds else ""
            kinds.append(name)
        elif isinstance(kind, type) and dataclasses.is_dataclass(kind):
            kinds.append(kind.__name__)
        else:
            kinds.append("a list of texts")
    return " or ".join(kinds)


def normalise_value(value: Any, hint: Any, rules: Mapping[str, Any]) -> Any:
    """The value in its declared type.

    Raises:
        Refused: the value does not fit.
    """
    for kind in union_members(hint):
        if kind is type(None) and value is None:
            return None
        if kind is bool and isinstance(value, bool):
            return _check_bounds(value, hint, rules)
        if kind is int and isinstance(value, numbers.Integral) and not isinstance(value, bool):
            return _check_bounds(int(value), hint, rules)
        if kind is float and isinstance(value, numbers.Real) and not isinstance(value, bool):
            try:
                number = float(value)
            except OverflowError:  # an integer beyond any float
                continue
            if math.isfinite(number):
                return _check_bounds(number, hint, rules)
        if kind is str and isinstance(value, str) and is_usable_text(value):
            return _check_bounds(value, hint, rules)
        if isinstance(kind, type) and dataclasses.is_dataclass(kind) and isinstance(value, kind):
            return value
        is_list = typing.get_origin(kind) is tuple and isinstance(value, (list, tuple))
        if is_list and all(isinstance(v, str) and v and is_usable_text(v) for v in value):
            return tuple(value)
    raise Refused(f"allowed: {describe_allowed(hint, rules)}")


#: Most characters of a text in a request, and most bytes of the name and the path of a file (on
#: Linux; the files of the work folder need a part of the path).
LONGEST_TEXT, LONGEST_NAME, LONGEST_PATH = 10_000, 255, 3_500


def is_usable_text(text: str) -> bool:
    """Whether a text can be encoded and be part of a path: no NUL, no lone surrogates, at most
    LONGEST_TEXT characters."""
    try:
        os.fsencode(text)
    except UnicodeEncodeError:
        return False
    return "\0" not in text and len(text) <= LONGEST_TEXT


def is_path_too_long(path: str) -> bool:
    """Whether an absolute path is too long for the file systems of Linux."""
    encoded = os.fsencode(path)
    return len(encoded) > LONGEST_PATH or any(len(part) > LONGEST_NAME for part in encoded.split(b"/"))


#: Most levels and most values of a config file: YAML aliases can expand a few lines to billions of
#: values.
MAX_DEPTH, MAX_VALUES = 12, 2_000_000


def refuse_oversized(given: Any, where: str, error: type[Exception]) -> None:
    """Refuse values that are nested too deep or too many (an alias counts at each use), and texts
    that cannot be encoded.

    To be called before the values are copied or printed.
    """
    left, todo = MAX_VALUES, [(given, 1)]
    while todo:
        value, depth = todo.pop()
        inner: list[Any] = []
        if isinstance(value, Mapping):
            inner = [*value.keys(), *value.values()]
        elif isinstance(value, (list, tuple, set, frozenset)):
            inner = list(value)
        elif isinstance(value, str) and not is_usable_text(value):
            raise error(
                f"{where}: {value[:40]!r} ({len(value)} characters) is not valid; "
                f"allowed: texts of at most {LONGEST_TEXT} characters, without NUL, that UTF-8 can encode"
            )
        elif isinstance(value, int) and value.bit_length() > 1024:
            raise error(f"{where}: an integer of {value.bit_length()} bits is not valid; allowed: numbers below 1e308")
        left -= len(inner)
        if inner and (depth > MAX_DEPTH or left < 0):
            raise error(
                f"{where}: it is nested deeper than {MAX_DEPTH} levels or has more than {MAX_VALUES} values; allowed: less of both"
            )
        todo += [(v, depth + 1) for v in inner]


def _check_bounds(value: Any, hint: Any, rules: Mapping[str, Any]) -> Any:
    """The value, or the choice that it equals; :class:`Refused` if it is neither a choice nor
    within the bounds."""
    if rules.get("choices"):
        for choice in rules["choices"]:
            are_texts = isinstance(value, str) and isinstance(choice, str)
            same = value.strip().lower() == choice.lower() if are_texts else value == choice
            if same and isinstance(value, bool) == isinstance(choice, bool):
                return choice
        raise Refused(f"allowed: {describe_allowed(hint, rules)}")
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        for key, is_outside in (("minimum", operator.lt), ("above", operator.le), ("maximum", operator.gt)):
            if rules.get(key) is not None and is_outside(value, rules[key]):
                raise Refused(f"allowed: {describe_allowed(hint, rules)}")
    # -0.0 becomes 0.0, so that equal values have equal identities
    return value + 0.0 if isinstance(value, float) else value


def check_fields(obj: Any, where: str, error: type[Exception]) -> None:
    """Validate a frozen dataclass and replace its values by the normalised ones, in place.

    Raises:
        error: one sentence with key, value and what is allowed.
    """
    cls: type = type(obj)
    for f in dataclasses.fields(obj):
        value = getattr(obj, f.name)
        try:
            value = normalise_value(value, resolve_hints(cls)[f.name], f.metadata)
        except Refused as refused:
            raise error(f"{where}.{f.name}: {value!r} is not valid; {refused}") from None
        if f.metadata.get("not_yet") and f.metadata["not_yet"](value):
            raise error(f"{where}.{f.name}: {value!r} is not supported by this version; leave it at {f.default!r}")
        object.__setattr__(obj, f.name, value)


def suggest_nearest(word: str, known: Iterable[str]) -> str:
    """`` (did you mean 'x'?)`` with the most similar known word, or an empty text."""
    found = difflib.get_close_matches(str(word), [str(k) for k in known], n=1)
    return f" (did you mean {found[0]!r}?)" if found else ""


def find_misspelled(word: str, known: Iterable[str]) -> str | None:
    """The known word that ``word`` misspells, or None.

    Misspelled are words in other letter case, with swapped letters, with one letter too many or
    too few, or with a prefix or suffix (``strat``, ``START``, ``start_date``, ``buffer``); but not
    ``state`` for ``start``.
    """
    known = list(known)
    lower = str(word).lower()
    if word in known:
        return None
    for candidate in known:
        swapped = len(lower) > 3 and sorted(lower) == sorted(candidate)  # "alt" is not a misspelled "lat"
        # "name_en" is another column
        part = candidate != "name" and candidate.split("_")[0] in re.split(r"[^a-z0-9]+", lower)
        if lower == candidate or swapped or part:
            return candidate
    return next(iter(difflib.get_close_matches(lower, known, n=1, cutoff=0.81)), None)


def refuse_unknown(given: Mapping[str, Any], known: Iterable[str], where: str, error: type[Exception]) -> None:
    """Raise ``error`` for the first unknown key of ``given``; the message suggests the most
    similar known key."""
    known = list(known)
    for key in given:
        if key not in known:
            raise error(f"{where}: unknown key {key!r}{suggest_nearest(key, known)}; allowed: {', '.join(known)}")


def describe_bad_column(header: Sequence[str], known: Sequence[str], *, suggest: bool = False) -> str:
    """The first unknown or repeated column of a table, in words; an empty text if there is
    none."""
    for column in header:
        if column not in known:
            return f"unknown column {column!r}{suggest_nearest(column, known) if suggest else ''}"
    return next((f"the column {c!r} occurs twice" for c in header if header.count(c) > 1), "")


def from_mapping(cls: type[T], given: Any, where: str, error: type[Exception]) -> T:
    """Build a dataclass from a mapping of a config file; unknown and missing keys raise
    ``error``."""
    if not isinstance(given, Mapping):
        raise error(
            f"{where}: {given!r} is not valid; allowed: a mapping with the keys {', '.join(resolve_hints(cls))}"
        )
    fields = dataclasses.fields(cls)
    refuse_unknown(given, [f.name for f in fields], where, error)
    values = dict(given)
    for f in fields:
        if f.default is dataclasses.MISSING and f.name not in given:
            raise error(
                f"{where}: the key {f.name!r} is missing; allowed: {describe_allowed(resolve_hints(cls)[f.name], f.metadata)}"
            )
        if f.name in given:
            value, hint = given[f.name], resolve_hints(cls)[f.name]
            nested = next((kind for kind in union_members(hint) if dataclasses.is_dataclass(kind)), None)
            if isinstance(value, Mapping) and isinstance(nested, type):
                values[f.name] = from_mapping(nested, value, f"{where}.{f.name}", error)
                continue
            try:
                same = normalise_value(value, hint, f.metadata) == value
            except Refused:
                same = False
            # in a config file a choice is spelled exactly as in the schema
            if not same and not isinstance(value, list):
                raise error(f"{where}.{f.name}: {value!r} is not valid; allowed: {describe_allowed(hint, f.metadata)}")
    return cls(**values)


def to_mapping(obj: Any, *, defaults: bool = False) -> dict[str, Any]:
    """The fields of a flat dataclass as plain values; without ``defaults`` only values that differ
    from the default."""
    out = {}
    for f in dataclasses.fields(obj):
        value = getattr(obj, f.name)
        if defaults or f.default is dataclasses.MISSING or value != f.default:
            if dataclasses.is_dataclass(value):
                value = to_mapping(value)
            out[f.name] = list(value) if isinstance(value, tuple) else value
    return out


def value_schema(hint: Any, rules: Mapping[str, Any]) -> dict[str, Any]:
    """JSON schema (2020-12) of one declared value."""
    kinds = {bool: "boolean", int: "integer", float: "number", str: "string", type(None): "null"}
    schema: dict[str, Any] = {}
    if rules.get("doc"):
        schema["description"] = rules["doc"]
    choices = list(rules.get("choices") or ()) or ([False, True] if hint is bool and rules.get("not_yet") else [])
    if choices or rules.get("not_yet"):
        nullable = [None] if type(None) in union_members(hint) else []
        return schema | {"enum": [c for c in choices + nullable if not (rules.get("not_yet") and rules["not_yet"](c))]}
    names = [kinds[k] for k in union_members(hint) if k in kinds]
    lists = [k for k in union_members(hint) if typing.get_origin(k) is tuple]
    if lists:
        names.append("array")
        schema |= {"items": {"type": "string", "minLength": 1}, "minItems": 1, "uniqueItems": True}
    schema["type"] = names[0] if len(names) == 1 else names
    if "string" in names:
        schema["minLength"] = 1
    for key, word in (("minimum", "minimum"), ("above", "exclusiveMinimum"), ("maximum", "maximum")):
        if rules.get(key) is not None:
            schema[word] = rules[key]
    return schema


def json_schema(cls: type, overrides: Mapping[str, dict[str, Any]] | None = None) -> dict[str, Any]:
    """JSON schema of a flat dataclass; ``overrides`` replaces the schema of fields that contain
    other dataclasses."""
    properties, required = {}, []
    for f in dataclasses.fields(cls):
        override = (overrides or {}).get(f.name)
        properties[f.name] = override or value_schema(resolve_hints(cls)[f.name], f.metadata)
        if f.default is dataclasses.MISSING:
            required.append(f.name)
        elif f.default is None or isinstance(f.default, (bool, int, float, str)):
            properties[f.name] = properties[f.name] | {"default": f.default}
    schema = {"type": "object", "additionalProperties": False, "properties": properties}
    return schema | ({"required": required} if required else {})
