"""What a mask removed from the images of a chip: the counts, the entry of the chip's provenance,
and the sentences of the quality record. For all providers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass
class MaskCount:
    """What a mask removed from the images of a chip: numbers of pixels, over all images.

    Attributes:
        observed: pixels whose quality band has data. masked: those of them that were removed.
        without: ids of images without the quality band; none of their pixels is used.
    """

    observed: int = 0
    masked: int = 0
    without: list[str] = field(default_factory=list)

    def record(self, mask: Mapping[str, Any]) -> dict[str, Any]:
        """The entry ``mask`` of a chip's provenance.

        Args:
            mask: of the source's identity.

        Returns:
            the mask's kind, band and classes or threshold, ``masked`` (share of the observed
            pixels, 0..1; None if nothing was observed) and, where there are any, ``without``.
        """
        share = round(self.masked / self.observed, 6) if self.observed else None
        what = {k: mask[k] for k in ("kind", "band", "classes", "threshold") if k in mask}
        return what | {"masked": share} | ({"without": sorted(self.without)} if self.without else {})


def mask_warnings(record: Mapping[str, Any], covered: bool) -> tuple[str, ...]:
    """Sentences about a mask for the quality record: images without the quality band, and a chip
    of which nothing is left.

    Args:
        record: of :meth:`MaskCount.record`. covered: the chip has pixels.
    """
    sentences = []
    if count := len(record.get("without", ())):
        verb = "image has" if count == 1 else "images have"
        sentences.append(f"{count} {verb} no band {record['band']}, so the mask {record['kind']!r} leaves them out")
    if not covered and record["masked"]:
        sentences.append(f"the mask {record['kind']!r} removes {100 * record['masked']:.1f} % of the observed pixels")
    return tuple(sentences)
