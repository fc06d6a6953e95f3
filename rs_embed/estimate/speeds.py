"""How fast devices compute: measured on CPUs, from data sheets on GPUs. All of it is an estimate on any other machine."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from ..engine.image_cost import CORE_GFLOPS
from ..errors import ModelError
from ..planning.chunk_sizes import GPU_START_S
from ..request.fields import nearest


@dataclass(frozen=True)
class Card:
    """Peak rates of a GPU with dense matrices, TFLOP/s, from its maker's data sheet; None where it has no such arithmetic.
    float32 means float32: TF32 is off, because embeddings would change."""

    fp32: float
    bf16: float | None


#: By what a card is called, as one word of the driver's name for it. NVIDIA's data sheets; where they give rates with sparsity, half.
CARDS = {
    "T4": Card(8.1, None),
    "V100": Card(15.7, None),
    "3090": Card(35.6, 71.0),
    "4090": Card(82.6, 165.2),
    "A10": Card(31.2, 125.0),
    "A30": Card(10.3, 165.0),
    "A40": Card(37.4, 149.7),
    "A6000": Card(38.7, 154.8),
    "A100": Card(19.5, 312.0),
    "L4": Card(30.3, 121.0),
    "L40S": Card(91.6, 362.0),
    "H100": Card(67.0, 989.0),
    "H200": Card(67.0, 989.0),
}
#: Whose hours are said where no card is named or found.
REFERENCE = "A100"
#: Share of a card's peak that these networks are taken to reach, in their batches. Not measured.
UTILISATION = {"fp32": 0.6, "bf16": 0.35}
#: GFLOP/s of a core: `make bench-rates` on an Intel Xeon with AVX-512 and AMX, 2 cores, the transformers of docs/scaling.md.
CORE = {"fp32": CORE_GFLOPS, "bf16": 600.0}
#: The same where a CPU lacks their instructions: half the width of AVX-512, and bfloat16 without AMX. Not measured.
CORE_WITHOUT = {"fp32": 75.0, "bf16": 75.0}
#: What a job takes before its first image (Python, torch, the device, the weights), seconds.
START_S = {"cpu": 4.0, "mps": 6.0, "cuda": GPU_START_S}


@dataclass(frozen=True)
class Speed:
    """How fast a device computes, and how that is known.

    Attributes:
        gflops: of one GPU, or one core, per second. how: a few words.
    """

    gflops: float
    how: str


def known(name: str) -> str | None:
    """The card of :data:`CARDS` that a name (of the driver, of a person) means."""
    words = {w.upper() for w in re.split(r"[^A-Za-z0-9]+", name)}
    return next((card for card in CARDS if card in words), None)


def named(name: str) -> str:
    """The card that a person names.

    Raises:
        ModelError: it is not in the table.
    """
    found = known(name)
    if found is None:
        raise ModelError(
            f"gpu: {name!r} is not known{nearest(name.upper(), CARDS)}; allowed: one of {', '.join(CARDS)}"
        )
    return found


def of_card(card: str, precision: str) -> Speed:
    """One GPU; one that is not in the table counts as the reference."""
    card = card if card in CARDS else REFERENCE
    peak, share = getattr(CARDS[card], precision), UTILISATION[precision]
    if peak is None:  # computed as float32
        peak, share = CARDS[card].fp32, UTILISATION["fp32"] / 2
    return Speed(1000 * peak * share, f"estimated: {share:.0%} of the {peak:g} TFLOP/s of one {card}'s data sheet")


def of_core(precision: str) -> Speed:
    """One core of this machine's CPU."""
    wanted = {"fp32": "avx512f", "bf16": "amx_bf16"}[precision]
    rate = CORE[precision] if wanted in _flags() else CORE_WITHOUT[precision]
    return Speed(rate, f"estimated: {rate:g} GFLOP/s a core, measured elsewhere (make bench-rates)")


def _flags() -> set[str]:
    try:
        text = Path("/proc/cpuinfo").read_text()
    except OSError:
        return set()
    found = re.search(r"^flags\s*:(.*)$", text, re.MULTILINE)
    return set(found.group(1).split()) if found else set()
