"""An estimate as text: in full, and in a few lines."""

from __future__ import annotations

from collections.abc import Sequence

from .costs import RunCost, SourceCost

_DEVICE = {"cuda": "GPU", "cpu": "core", "mps": "GPU"}


def format_estimate(found: RunCost) -> str:
    """All lines."""
    lines = [_format_plan(found), _format_jobs(found)]
    for s in found.sources:
        there = f", {s.there:,} are there" if s.there else ""
        there += f", {s.restored:,} are read back from an export" if s.restored else ""
        lines.append(
            f"pixels     {s.chips:,} chips of {s.collection} ({len(s.bands)} bands, {s.scale_m:g} m{_format_frames(s.frames)}){there}"
        )
        lines.append(f"           at most {_format_size(s.bytes)} in the store; {_format_requests(s)}")
    if found.models:
        lines.append("models     " + _format_devices(found))
        lines += [f"  {line}" for line in _format_table(found)]
        for how in dict.fromkeys(m.how for m in found.models if m.images):
            lines.append(f"  * {', '.join(m.label for m in found.models if m.images and m.how == how)}: {how}")
        if found.must_say_cuda:
            lines.append(
                "  * no GPU is here: a start from this machine asks for them, and makes these jobs, with `device: cuda` only"
            )
    lines += [_format_hours(found), _format_bytes(found), _format_files(found)]
    return "\n".join(line for line in lines if line)


def format_summary(found: RunCost) -> str:
    """The few lines that a dry run prints."""
    if not sum(found.jobs.values()):
        return "rs-embed: nothing is left to do"
    chips = sum(s.chips for s in found.sources)
    back = sum(s.restored for s in found.sources)
    also = f", {back:,} to read back from an export" if back else ""
    asked = [_format_requests(s) for s in found.sources if s.chips]
    images = sum(m.images for m in found.models)
    lines = [
        _format_plan(found),
        _format_jobs(found),
        f"to make    {chips:,} chips{also} ({'; '.join(dict.fromkeys(asked)) or 'no requests'}), {images:,} embeddings",
        _format_hours(found),
        _format_bytes(found),
        _format_files(found),
    ]
    return "\n".join(f"rs-embed: {line}" for line in lines if line)


def _format_plan(e: RunCost) -> str:
    many = f"{len(e.models)} model{'s' * (len(e.models) != 1)}" if e.models else "pixels only"
    return f"plan       {e.rois:,} ROIs x {many}, {e.chunks:,} chunks, {e.layout} {e.format}"


def _format_jobs(e: RunCost) -> str:
    left, all_ = sum(e.jobs.values()), sum(e.jobs_in_all.values())
    text = ", ".join(f"{count:,} {rule}" for rule, count in e.jobs.items() if count)
    return f"jobs       {text} = {left:,} of {all_:,}" if left else "jobs       none: the export is complete"


def _format_frames(count: int) -> str:
    return f", {count} frames" if count > 1 else ""


def _format_requests(s: SourceCost) -> str:
    if s.requests is None:
        return "requests depend on the files, which are read in ranges"
    if not s.requests + s.lookups:
        return "no requests"
    sent = f", at most {_format_size(s.sent)} sent" if s.sent else ""
    return f"at most {s.requests:,} requests for pixels and about {s.lookups:,} others{sent}"


def _format_devices(e: RunCost) -> str:
    return f"on {e.card + ' GPUs' if e.device == 'cuda' else 'Apple GPUs' if e.device == 'mps' else 'CPU cores'}"


def _format_table(e: RunCost) -> list[str]:
    rows: list[Sequence[str]] = [
        ("", "jobs", "to embed", "there", "passes", "GFLOP a pass", f"{_DEVICE[e.device]} hours", "")
    ]
    for m in e.models:
        each = "-" if m.flops is None or not m.passes else f"{m.flops / m.passes / 1e9:.1f}"
        time = "?" if m.seconds is None else f"{m.seconds / 3600:.3g}"
        known = "measured *" if m.measured else "estimated *"
        counts = (f"{number:,}" for number in (m.jobs, m.images, m.there, m.passes))
        rows.append((m.label, *counts, each, time, known if m.images else ""))
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    padded = ([c.ljust(w) if i in (0, 7) else c.rjust(w) for i, (c, w) in enumerate(zip(row, widths))] for row in rows)
    return ["  ".join(cells).rstrip() for cells in padded]


def _format_hours(e: RunCost) -> str:
    if e.device_hours is None:
        return f"hours      not known for device {e.device}" + _format_gpu_hours(e)
    if not any(m.images for m in e.models):
        return ""
    known = "measured in this folder" if all(m.measured for m in e.models if m.images) else "estimated"
    count = f"{e.parallel} {_DEVICE[e.device]}{'s' * (e.parallel > 1)}"
    text = f"hours      {e.device_hours:.3g} {_DEVICE[e.device]} hours, {e.wall_hours:.3g} of wall time with {count} ({known})"
    fetch = f"; fetching takes {e.fetch_hours:.2g} hours at least" if e.fetch_hours else ""
    return text + ("" if e.device == "cuda" else _format_gpu_hours(e)) + fetch


def _format_gpu_hours(e: RunCost) -> str:
    return "" if e.gpu_hours is None else f"; {e.gpu_hours:.3g} GPU hours on one {e.card} (estimated)"


def _format_bytes(e: RunCost) -> str:
    b = e.bytes
    if not b["peak"]:
        return ""
    return (
        f"bytes      at most: pixels {_format_size(b['pixels'])} and embeddings {_format_size(b['embeddings'])} in the store; export "
        f"{_format_size(b['final'])} uncompressed, manifests about {_format_size(b['manifests'])}; disk needed {_format_size(b['peak'])}"
    )


def _format_files(e: RunCost) -> str:
    f = e.files
    return f"files      when done: export {f['export']:,}, store {f['store']:,}, run's folder {f['run'] + f['snakemake']:,}"


def _format_size(count: int) -> str:
    for unit, scale in (("TB", 1e12), ("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if count >= scale:
            return f"{count / scale:.3g} {unit}"
    return f"{count} bytes"
