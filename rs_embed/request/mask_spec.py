"""The mask of a request: which pixels of an image do not enter its composite."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ..errors import SpecError
from .fields import check_fields, from_mapping, option

#: The product's own classes of clouds; Google's Cloud Score+ for Sentinel-2 (Earth Engine only).
CLOUDS, CLOUD_SCORE = "clouds", "cloud_score_plus"
#: Pixels of Cloud Score+ (band ``cs_cdf``) below this are masked (Earth Engine's description of
#: GOOGLE/CLOUD_SCORE_PLUS/V1/S2_HARMONIZED: values between 0.50 and 0.65 work well).
DEFAULT_THRESHOLD = 0.6


@dataclass(frozen=True)
class MaskSpec:
    """Which pixels of each image are masked before the composite.

    Attributes:
        kind: ``"clouds"``: classes of the product's quality band (SCL of Sentinel-2 L2A, QA_PIXEL
            of Landsat, Fmask of HLS, the state band of MODIS). ``"cloud_score_plus"``: Cloud
            Score+ of Sentinel-2, on Earth Engine only.
        classes: names of the classes that are masked, instead of the product's default
            (docs/masks.md lists both).
        threshold: of Cloud Score+, 0 (occluded) to 1 (clear): pixels below it are masked; None:
            0.6.

    Raises:
        SpecError: a value is not allowed, or belongs to the other kind.

    Example:
        >>> MaskSpec(classes=("cloud_shadow", "cloud_high_probability")).kind
        'clouds'
    """

    kind: str = option(CLOUDS, doc="which mask", choices=(CLOUDS, CLOUD_SCORE))
    classes: tuple[str, ...] | None = option(None, doc="classes that are masked; null: the product's default")
    threshold: float | None = option(
        None, doc="pixels with a lower Cloud Score+ are masked; null: 0.6", minimum=0, maximum=1
    )

    def __post_init__(self) -> None:
        check_fields(self, "mask", SpecError)
        for key, kind in (("classes", CLOUDS), ("threshold", CLOUD_SCORE)):
            if getattr(self, key) is not None and self.kind != kind:
                raise SpecError(f"mask.{key}: it is not valid for {self.kind!r}; allowed: kind {kind!r}")
        if self.classes is not None:
            # case and order have no meaning, so equal masks have equal identities
            names = sorted({c.lower() for c in self.classes})
            if not names or len(names) != len(self.classes):
                raise SpecError(
                    f"mask.classes: {list(self.classes)!r} is not valid; allowed: one or more different names, or null"
                )
            object.__setattr__(self, "classes", tuple(names))
        if self.kind == CLOUD_SCORE and self.threshold is None:
            object.__setattr__(self, "threshold", DEFAULT_THRESHOLD)


def normalise_mask(given: Any, where: str) -> Any:
    """A mask as users write it (None, a word, a mapping or a :class:`MaskSpec`) in its shortest
    form: None, the word of a mask with defaults, or a :class:`MaskSpec`. Other values are returned
    as they are, for the check of the fields.

    Raises:
        SpecError: a mapping is not valid; the message has ``where``.
    """
    if isinstance(given, Mapping):
        given = from_mapping(MaskSpec, given, where, SpecError)
    if isinstance(given, str) and given.strip().lower() in (CLOUDS, CLOUD_SCORE):
        given = MaskSpec(given)
    if isinstance(given, MaskSpec) and given == MaskSpec(given.kind):
        return given.kind
    return given
