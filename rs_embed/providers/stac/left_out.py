"""Items that a catalogue has and that cannot be used. An odd item far away, of another time or too
cloudy concerns nobody, so an item is judged for a ROI that may need it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from ...errors import ProviderError
from ...request.specs import TemporalSpec
from . import items, outlines
from .mappings import CollectionMapping
from .outlines import Box, Ring

#: Names of items in one sentence.
_NAMES = 3


@dataclass(frozen=True)
class LeftOut:
    """An item that is not used, as far as it is known.

    Attributes:
        collection: of the request. name: id or link. reason: sentence with the name.
        date: ISO date, or "" where unknown. box, rings: outline, or None and ().
        cloud_cover: percent, or None.
    """

    collection: str
    name: str
    reason: str
    date: str = ""
    box: Box | None = None
    rings: tuple[Ring, ...] = ()
    cloud_cover: float | None = None

    @property
    def is_certain(self) -> bool:
        """Time and place are known, so that a ROI surely needs the item or surely does not."""
        return bool(self.date) and self.box is not None

    def may_concern(self, box: Sequence[float], window: TemporalSpec | None, cloudy_pct: float) -> bool:
        """Whether a ROI may need the item.

        Args:
            box: of the ROI, west, south, east, north; west > east across the antimeridian.
        """
        if window is not None and self.date and not window.start <= self.date < window.end:
            return False
        if self.cloud_cover is not None and self.cloud_cover > cloudy_pct:
            return False
        if self.box is None:
            return True
        rings = self.rings or (outlines.box_ring(self.box),)
        return any(outlines.ring_overlaps(ring, box) for ring in rings)


def describe_item(feature: Any, collection: str, mapping: CollectionMapping, reason: str) -> LeftOut | None:
    """An item that is not used; None where it belongs to another collection."""
    if not isinstance(feature, Mapping):
        return LeftOut(collection, "?", reason)
    try:
        if not items.belongs_to(feature, mapping):
            return None
    except items.PARSE_ERRORS:
        return LeftOut(collection, str(feature.get("id"))[:100], reason)
    date, cloud = "", None
    rings: tuple[Ring, ...] = ()
    box: Box | None = None
    try:
        date = items.parse_time(feature, "")[:10]
    except (ProviderError, *items.PARSE_ERRORS):
        date = ""
    try:
        rings, box = outlines.parse_outline(feature)
        box = box or outlines.located_by_projection(feature)
    except items.PARSE_ERRORS:
        rings, box = (), None
    try:
        cloud = items.parse_number((feature.get("properties") or {}).get("eo:cloud_cover"))
    except items.PARSE_ERRORS:
        cloud = None
    return LeftOut(collection, str(feature.get("id"))[:100], reason, date, box, rings, cloud)


def sentence(found: Iterable[LeftOut]) -> str:
    """One sentence about items that are left out; "" without any."""
    members = sorted({f.name: f for f in found}.values(), key=lambda f: f.name)
    if not members:
        return ""
    names = ", ".join(f.name for f in members[:_NAMES]) + (", ..." if len(members) > _NAMES else "")
    verb = "item is" if len(members) == 1 else "items are"
    return f"{len(members)} {verb} left out ({names}): {members[0].reason}"


def to_json(found: LeftOut) -> dict:
    """As JSON values."""
    return asdict(found)


def from_json(fields: Mapping[str, Any]) -> LeftOut:
    """The item of :func:`to_json`."""
    box = fields["box"]
    rings = tuple(tuple((p[0], p[1]) for p in ring) for ring in fields["rings"])
    return LeftOut(**(dict(fields) | {"box": tuple(box) if box else None, "rings": rings}))
