"""Declared fields: one declaration of type, limits and meaning serves the check, the JSON schema and the docs.

A dataclass declares its fields with :func:`option`; :func:`check` validates and normalises an instance, and
:func:`json_schema` writes the same rules as JSON schema. A refusal is one sentence: key, value, what is allowed.
"""

from __future__ import annotations

import dataclasses
import difflib
import functools
import math
import numbers
import os
import re
import types
import typing
from collections.abc import Callable, Iterable, Mapping
from typing import Any


def option(
    default: Any = dataclasses.MISSING,
    doc: str = "",
    *,
    choices: tuple = (),
    minimum: float | None = None,
    above: float | None = None,
    maximum: float | None = None,
    not_yet: Callable[[Any], bool] | None = None,
) -> Any:
    """A dataclass field with its rules.

    Args:
        default: the default value; without one the field is required.
        doc: what it means, with its unit.
        choices: the allowed values (strings are compared without case).
        minimum, above, maximum: bounds of a number: ``>= minimum``, ``> above``, ``<= maximum``.
        not_yet: true for a value that is part of the API but that nothing honours yet; such a value raises.
    """
    rules = {"doc": doc, "choices": choices, "minimum": minimum, "above": above, "maximum": maximum, "not_yet": not_yet}
    return dataclasses.field(default=default, metadata=rules)


class Refused(ValueError):
    """A value does not fit its declaration. The text says what is allowed; callers prefix key and value."""


@functools.cache
def hints(cls: type) -> dict[str, Any]:
    """Resolved annotations of a dataclass."""
    return typing.get_type_hints(cls)


def members(hint: Any) -> tuple:
    """The alternatives of a union, or the type alone."""
    return (
        typing.get_args(hint)
        if isinstance(hint, types.UnionType) or typing.get_origin(hint) is typing.Union
        else (hint,)
    )


def allowed(hint: Any, rules: Mapping) -> str:
    """What a field accepts, in words."""
    if rules.get("choices"):
        words = [repr(c) for c in rules["choices"]]
        if type(None) in members(hint):
            words.append("null")
        return "one of " + ", ".join(words) if len(words) > 1 else words[0]
    kinds = []
    for kind in members(hint):
        if kind is type(None):
            kinds.append("null")
        elif kind in (bool, int, float, str):
            name = {bool: "true or false", int: "an integer", float: "a number", str: "a text"}[kind]
            if kind in (int, float):
                bounds = [
                    f"{sign} {rules[key]:g}"
                    for key, sign in (("minimum", ">="), ("above", ">"), ("maximum", "<="))
                    if rules.get(key) is not None
                ]
                name += " " + " and ".join(bounds) if bounds else ""
            kinds.append(name)
        elif dataclasses.is_dataclass(kind):
            kinds.append(kind.__name__)
        else:
            kinds.append("a list of texts")
    return " or ".join(kinds)


def normalise(value: Any, hint: Any, rules: Mapping) -> Any:
    """The value in its declared type, or :class:`Refused`."""
    for kind in members(hint):
        if kind is type(None) and value is None:
            return None
        if kind is bool and isinstance(value, bool):
            return _bounded(value, hint, rules)
        if kind is int and isinstance(value, numbers.Integral) and not isinstance(value, bool):
            return _bounded(int(value), hint, rules)
        if kind is float and isinstance(value, numbers.Real) and not isinstance(value, bool):
            try:
                number = float(value)
            except OverflowError:  # an integer beyond any float
                continue
            if math.isfinite(number):
                return _bounded(number, hint, rules)
        if kind is str and isinstance(value, str) and usable(value):
            return _bounded(value, hint, rules)
        if dataclasses.is_dataclass(kind) and isinstance(value, kind):
            return value
        if (
            typing.get_origin(kind) is tuple
            and isinstance(value, (list, tuple))
            and all(isinstance(v, str) and v and usable(v) for v in value)
        ):
            return tuple(value)
    raise Refused(f"allowed: {allowed(hint, rules)}")


#: Longest text that anything in a request can mean, and longest name and path that files can have (bytes, of Linux; the
#: work folder's own files need some of a path).
LONGEST_TEXT, LONGEST_NAME, LONGEST_PATH = 10_000, 255, 3_500


def usable(text: str) -> bool:
    """A text can be written down and can be part of a path: no NUL, nothing that no encoding has, no novel."""
    try:
        os.fsencode(text)
    except UnicodeEncodeError:
        return False
    return "\0" not in text and len(text) <= LONGEST_TEXT


def too_long(path: str) -> bool:
    """No file system here takes a file of this absolute path."""
    said = os.fsencode(path)
    return len(said) > LONGEST_PATH or any(len(part) > LONGEST_NAME for part in said.split(b"/"))


#: How deep a config file is nested, and how many values it has, at most: aliases of YAML make a few lines into billions.
DEEPEST, MOST = 12, 2_000_000


def refuse_bombs(given: Any, where: str, error: type[Exception]) -> None:
    """Refuse values that are nested too deep, are too many (an alias counts where it is used), or texts that nothing can
    use, before anything repeats them."""
    left, todo = MOST, [(given, 1)]
    while todo:
        value, depth = todo.pop()
        inner: list = []
        if isinstance(value, Mapping):
            inner = [*value.keys(), *value.values()]
        elif isinstance(value, (list, tuple, set, frozenset)):
            inner = list(value)
        elif isinstance(value, str) and not usable(value):
            raise error(
                f"{where}: {value[:40]!r} ({len(value)} characters) is not valid; "
                f"allowed: texts of at most {LONGEST_TEXT} characters, without NUL, that UTF-8 can encode"
            )
        elif isinstance(value, int) and value.bit_length() > 1024:
            raise error(f"{where}: an integer of {value.bit_length()} bits is not valid; allowed: numbers below 1e308")
        left -= len(inner)
        if inner and (depth > DEEPEST or left < 0):
            raise error(
                f"{where}: it is nested deeper than {DEEPEST} levels or has more than {MOST} values; allowed: less of both"
            )
        todo += [(v, depth + 1) for v in inner]


def _bounded(value: Any, hint: Any, rules: Mapping) -> Any:
    if rules.get("choices"):
        for choice in rules["choices"]:
            same = (
                value.strip().lower() == choice.lower()
                if isinstance(value, str) and isinstance(choice, str)
                else value == choice
            )
            if same and isinstance(value, bool) == isinstance(choice, bool):
                return choice
        raise Refused(f"allowed: {allowed(hint, rules)}")
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        low, above, high = rules.get("minimum"), rules.get("above"), rules.get("maximum")
        outside = (
            low is not None and value < low,
            above is not None and value <= above,
            high is not None and value > high,
        )
        if any(outside):
            raise Refused(f"allowed: {allowed(hint, rules)}")
    return value + 0.0 if isinstance(value, float) else value  # -0.0 becomes 0.0: one value, one identity


def check(obj: Any, where: str, error: type[Exception]) -> None:
    """Validate a frozen dataclass in place and put normalised values into it.

    Raises:
        error: one sentence with key, value and what is allowed.
    """
    for f in dataclasses.fields(obj):
        value = getattr(obj, f.name)
        try:
            value = normalise(value, hints(type(obj))[f.name], f.metadata)
        except Refused as refused:
            raise error(f"{where}.{f.name}: {value!r} is not valid; {refused}") from None
        if f.metadata.get("not_yet") and f.metadata["not_yet"](value):
            raise error(f"{where}.{f.name}: {value!r} is not supported by this version; leave it at {f.default!r}")
        object.__setattr__(obj, f.name, value)


def nearest(word: str, known: Iterable[str]) -> str:
    """`` (did you mean 'x'?)`` or nothing."""
    found = difflib.get_close_matches(str(word), [str(k) for k in known], n=1)
    return f" (did you mean {found[0]!r}?)" if found else ""


def mistaken(word: str, known: Iterable[str]) -> str | None:
    """The known word that another one misspells: in other letter case, with letters swapped, one too many or too few, or
    with something put before or after it (``strat``, ``START``, ``start_date``, ``buffer``); not ``state`` for ``start``."""
    known = list(known)
    low = str(word).lower()
    if word in known:
        return None
    for right in known:
        swapped = len(low) > 3 and sorted(low) == sorted(right)  # "alt" is no misspelt "lat"
        part = right != "name" and right.split("_")[0] in re.split(r"[^a-z0-9]+", low)  # "name_en" is a name, too
        if low == right or swapped or part:
            return right
    return next(iter(difflib.get_close_matches(low, known, n=1, cutoff=0.81)), None)


def refuse_unknown(given: Mapping, known: Iterable[str], where: str, error: type[Exception]) -> None:
    """Raise for the first key of ``given`` that is not known, naming the nearest one."""
    known = list(known)
    for key in given:
        if key not in known:
            raise error(f"{where}: unknown key {key!r}{nearest(key, known)}; allowed: {', '.join(known)}")


def from_mapping(cls: type, given: Any, where: str, error: type[Exception]) -> Any:
    """Build a dataclass from a mapping of a config file, refusing unknown and missing keys."""
    if not isinstance(given, Mapping):
        raise error(f"{where}: {given!r} is not valid; allowed: a mapping with the keys {', '.join(hints(cls))}")
    fields = dataclasses.fields(cls)
    refuse_unknown(given, [f.name for f in fields], where, error)
    for f in fields:
        if f.default is dataclasses.MISSING and f.name not in given:
            raise error(f"{where}: the key {f.name!r} is missing; allowed: {allowed(hints(cls)[f.name], f.metadata)}")
        if f.name in given:
            value, hint = given[f.name], hints(cls)[f.name]
            try:
                same = normalise(value, hint, f.metadata) == value
            except Refused:
                same = False
            if not same and not isinstance(value, list):  # a config file spells a choice exactly as the schema has it
                raise error(f"{where}.{f.name}: {value!r} is not valid; allowed: {allowed(hint, f.metadata)}")
    return cls(**given)


def to_mapping(obj: Any, *, defaults: bool = False) -> dict:
    """The fields of a flat dataclass as plain values; without ``defaults`` only those that differ from them."""
    out = {}
    for f in dataclasses.fields(obj):
        value = getattr(obj, f.name)
        if defaults or f.default is dataclasses.MISSING or value != f.default:
            if dataclasses.is_dataclass(value):
                value = to_mapping(value)
            out[f.name] = list(value) if isinstance(value, tuple) else value
    return out


def value_schema(hint: Any, rules: Mapping) -> dict:
    """JSON schema (2020-12) of one declared value."""
    kinds = {bool: "boolean", int: "integer", float: "number", str: "string", type(None): "null"}
    schema: dict[str, Any] = {}
    if rules.get("doc"):
        schema["description"] = rules["doc"]
    choices = list(rules.get("choices") or ()) or ([False, True] if hint is bool and rules.get("not_yet") else [])
    if choices or rules.get("not_yet"):
        nullable = [None] if type(None) in members(hint) else []
        return schema | {"enum": [c for c in choices + nullable if not (rules.get("not_yet") and rules["not_yet"](c))]}
    names = [kinds[k] for k in members(hint) if k in kinds]
    lists = [k for k in members(hint) if typing.get_origin(k) is tuple]
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


def json_schema(cls: type, overrides: Mapping[str, dict] | None = None) -> dict:
    """JSON schema of a flat dataclass; ``overrides`` replaces the schema of fields that hold other dataclasses."""
    properties, required = {}, []
    for f in dataclasses.fields(cls):
        if overrides and f.name in overrides:
            properties[f.name] = overrides[f.name]
        else:
            properties[f.name] = value_schema(hints(cls)[f.name], f.metadata)
        if f.default is dataclasses.MISSING:
            required.append(f.name)
        elif f.default is None or isinstance(f.default, (bool, int, float, str)):
            properties[f.name] = properties[f.name] | {"default": f.default}
    schema = {"type": "object", "additionalProperties": False, "properties": properties}
    return schema | ({"required": required} if required else {})
