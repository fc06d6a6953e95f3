"""Computing rates of devices: measured for CPUs, from data sheets for GPUs. On other machines they
are estimates."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from ..engine.image_cost import CORE_GFLOPS
from ..errors import ModelError
from ..planning.chunk_sizes import GPU_START_S
from ..request.fields import suggest_nearest


@dataclass(frozen=True)
class Card:
    """Peak rates of a GPU with dense matrices, TFLOP/s, from its maker's data sheet; None without
    such arithmetic. float32 means float32: TF32 is off, because embeddings would change."""

    fp32: float
    bf16: float | None


#: By one word of the name in the driver. NVIDIA's data sheets; half of the rates that are given
#: with sparsity.
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
#: The card for GPU hours where none is given or present.
REFERENCE_CARD = "A100"
#: Share of a card's peak that these networks are assumed to reach, in their batches. Not measured.
UTILISATION = {"fp32": 0.6, "bf16": 0.35}
#: GFLOP/s of a core: `make bench-rates` on an Intel Xeon with AVX-512 and AMX, 2 cores, the
#: transformers of docs/scaling.md.
CORE = {"fp32": CORE_GFLOPS, "bf16": 600.0}
#: The same without these instructions: half the width of AVX-512, and bfloat16 without AMX. Not
#: measured.
CORE_WITHOUT = {"fp32": 75.0, "bf16": 75.0}
#: Time of a job before its first image (Python, torch, the device, the weights), seconds.
START_S = {"cpu": 4.0, "mps": 6.0, "cuda": GPU_START_S}


@dataclass(frozen=True)
class Speed:
    """Computing rate of a device.

    Attributes:
        gflops: GFLOP/s of one GPU, or one core. how: the source of the number, as text.
    """

    gflops: float
    how: str


def find_card(name: str) -> str | None:
    """The card of :data:`CARDS` in a name that the driver reports or a user gives; None if it has
    none."""
    words = {w.upper() for w in re.split(r"[^A-Za-z0-9]+", name)}
    return next((card for card in CARDS if card in words), None)


def parse_card(name: str) -> str:
    """The card that a user gives.

    Raises:
        ModelError: it is not in the table.
    """
    found = find_card(name)
    if found is None:
        raise ModelError(
            f"gpu: {name!r} is not known{suggest_nearest(name.upper(), CARDS)}; allowed: one of {', '.join(CARDS)}"
        )
    return found


def card_speed(card: str, precision: str) -> Speed:
    """The rate of one GPU; a card that is not in the table counts as the reference."""
    card = card if card in CARDS else REFERENCE_CARD
    peak, share = getattr(CARDS[card], precision), UTILISATION[precision]
    if peak is None:  # computed as float32
        peak, share = CARDS[card].fp32, UTILISATION["fp32"] / 2
    return Speed(1000 * peak * share, f"estimated: {share:.0%} of the {peak:g} TFLOP/s of one {card}'s data sheet")


def core_speed(precision: str) -> Speed:
    """The rate of one core of this machine's CPU."""
    instructions = {"fp32": "avx512f", "bf16": "amx_bf16"}[precision]
    rate = CORE[precision] if instructions in _read_cpu_flags() else CORE_WITHOUT[precision]
    return Speed(rate, f"estimated: {rate:g} GFLOP/s a core, measured elsewhere (make bench-rates)")


def _read_cpu_flags() -> set[str]:
    try:
        text = Path("/proc/cpuinfo").read_text()
    except OSError:
        return set()
    found = re.search(r"^flags\s*:(.*)$", text, re.MULTILINE)
    return set(found.group(1).split()) if found else set()
