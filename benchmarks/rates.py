"""`make bench-rates`: the computing rate of a core of this machine for the networks, GFLOP/s.

Each network has random weights, a batch of copies of one image of 224 x 224 pixels (as many as in
the embed stage) and one torch thread; the best of several passes in CPU seconds.
``rs_embed/planning/flops.py`` counts the operations. The rates of CPUs in
``rs_embed/estimate/speeds.py`` are such numbers. Prints a table.
"""

from __future__ import annotations

import argparse
import os
import time

from common import FOUNDATION, SIDE, cpu_name

CASES = [*FOUNDATION, ("mosaiks", "s2", {})]


def measure_rate(
    name: str, modality: str, given: dict, precision: str, repeat: int, device: str
) -> tuple[float, float]:
    """(GFLOP per image, GFLOP/s)."""
    import numpy as np
    import torch

    from rs_embed.engine.torch_device import to_bfloat16
    from rs_embed.models import get_adapter
    from rs_embed.models.base import Image
    from rs_embed.planning.flops import InputShape
    from rs_embed.request.fields import from_mapping
    from rs_embed.request.specs import OutputSpec
    from rs_embed.weights.checkpoints import Checkpoint

    torch.set_num_threads(1)
    adapter = get_adapter(name)
    options = from_mapping(adapter.info.options, given, "options", ValueError)
    sensor = adapter.info.modalities[modality].sensor
    pixels = np.random.default_rng(0).integers(1, 4000, (1, len(sensor.bands), SIDE, SIDE))
    pixels = pixels.astype(np.uint16) if modality == "s2" else (pixels / 4000).astype(np.float32)
    image = Image(modality, pixels, sensor.bands, sensor.scale_m, 12.0, 51.0, ("2022-07-01",))
    network = adapter.load(options, modality, sensor.bands, Checkpoint(None))
    network = (to_bfloat16(network) if precision == "bf16" else network).to(device)
    size = adapter.info.batch[device]
    batch = {
        k: torch.from_numpy(np.stack([v] * size)).to(device) for k, v in adapter.preprocess(image, options).items()
    }
    flops = adapter.info.cost(options, modality, InputShape(SIDE, SIDE, 1, len(sensor.bands), sensor.scale_m)).flops
    clock = time.process_time if device == "cpu" else time.perf_counter
    times = []
    with torch.inference_mode():
        for _ in range(repeat):
            started = clock()
            adapter.pooled(adapter.forward(network, batch, options), OutputSpec.pooled(), options).cpu()
            times.append(clock() - started)
    return flops / 1e9, size * flops / 1e9 / min(times)


def main() -> None:
    """Measure, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    parser.add_argument("--repeat", type=int, default=3)
    arguments = parser.parse_args()
    device = cpu_name() if arguments.device == "cpu" else __import__("torch").cuda.get_device_name()
    print(f"{device}, {os.cpu_count()} cores; GFLOP/s of one {'core' if arguments.device == 'cpu' else 'GPU'}\n")
    print("| model | GFLOP per image | fp32 | bf16 |\n|---|---|---|---|")
    for name, modality, given in CASES:
        found = {}
        for precision in ("fp32",) if name == "mosaiks" else ("fp32", "bf16"):
            flops, found[precision] = measure_rate(name, modality, given, precision, arguments.repeat, arguments.device)
        label = " ".join([name, given.get("variant", ""), modality]).replace("  ", " ")
        print(f"| {label} | {flops:.1f} | {found['fp32']:.0f} | {found.get('bf16', 0):.0f} |".replace("| 0 |", "| - |"))


if __name__ == "__main__":
    main()
