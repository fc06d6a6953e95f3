"""The damage matrix as data: what is damaged, how, and what the next start has to do. Rows of
docs/reliability.md."""

from __future__ import annotations

import os
import re
import shutil
from dataclasses import dataclass
from pathlib import Path


def delete(path: Path) -> None:
    """A file, a link or a whole folder."""
    shutil.rmtree(path) if path.is_dir() else path.unlink()


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def flip(path: Path) -> None:
    """Change one byte: in JSON another digit of its last digest, so that it stays JSON of the same
    form."""
    data = bytearray(path.read_bytes())
    digests = list(re.finditer(rb"\b[0-9a-f]{32,}\b", data)) if path.suffix == ".json" else []
    at = digests[-1].start() + 5 if digests else len(data) // 2
    data[at] = (ord("0") if data[at] != ord("0") else ord("1")) if digests else data[at] ^ 1
    path.write_bytes(data)


def flip_quietly(path: Path) -> None:
    """As ``flip``, and ``stat`` shows no change of the file."""
    stat = path.stat()
    flip(path)
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))


DELETED, CUT, FLIPPED, QUIETLY = "deleted", "cut short", "a byte changed", "a byte changed, its time set back"
DAMAGES = {DELETED: delete, CUT: cut, FLIPPED: flip, QUIETLY: flip_quietly}


@dataclass(frozen=True)
class After:
    """What the next start does.

    Attributes:
        steps: jobs by rule. chips, embeddings: objects made again.
        starts: 2 where the first one finds the damage and stops.
        mended: False where the damage stays because it is not seen, or because nothing needs the
            object.
    """

    steps: dict[str, int]
    chips: int = 0
    embeddings: int = 0
    starts: int = 1
    mended: bool = True


@dataclass(frozen=True)
class Thing:
    """One row: something of a finished export of four places and two models in chunks of two.

    Attributes:
        what: in words. layout: of the export that is started again. path: where it is, a pattern;
            the first match.
        cells: what happens, by damage.
        besides: what is deleted, too, so that the next start has to read it.
    """

    what: str
    layout: str
    path: str
    cells: dict[str, After]
    besides: str = ""


NOTHING, MERGE, REPAIR = After({}), After({"merge": 1}), After({"repair": 1})
WRITE = After({"write": 1, "merge": 1})
EMBED = After({"embed": 1, "write": 1, "merge": 1})
FETCH = After({"fetch": 1, "embed": 2, "write": 1, "merge": 1})
UNNEEDED = After({}, mended=False)
UNSEEN = After({}, mended=False)
MERGE_ALONE = After({"merge": 1}, mended=False)
NEW_CHIP, NEW_VECTOR = After(FETCH.steps, chips=1), After(EMBED.steps, embeddings=1)
SECOND_CHIP, SECOND_VECTOR = After(FETCH.steps, chips=1, starts=2), After(EMBED.steps, embeddings=1, starts=2)
EVERY_STEP = {"fetch": 2, "embed": 4, "write": 2, "merge": 1}

ITEMS, RUN = ".rs_embed/runs/items-*", ".rs_embed/runs/run-*"
CHIP, VECTOR = ".rs_embed/store/chips/*/*/*/*.npy", ".rs_embed/store/embeddings/*/*/*.npy"


def each(after: After, quietly: After | None = None) -> dict[str, After]:
    """The same for every damage, but for the quiet one."""
    return {DELETED: after, CUT: after, FLIPPED: after, QUIETLY: quietly or after}


def seen_when_read(missing: After, read: After) -> dict[str, After]:
    return {DELETED: missing, CUT: read, FLIPPED: read, QUIETLY: read}


THINGS = [
    Thing("a ROI's array file", "per_item", "items/p00001.npz", each(REPAIR, UNSEEN)),
    Thing("a ROI's manifest", "per_item", "items/p00001.json", each(REPAIR, UNSEEN)),
    Thing("the index `manifest.json`", "per_item", "items/manifest.json", each(MERGE, UNSEEN)),
    Thing("the combined `.npz`", "combined", "run.npz", each(MERGE, UNSEEN)),
    Thing("its `.json`", "combined", "run.json", each(MERGE, UNSEEN)),
    Thing("a receipt of fetch", "combined", f"{RUN}/fetch/*/00001-00.json", each(FETCH)),
    Thing("a receipt of embed", "combined", f"{RUN}/embed/*/00001.json", each(EMBED)),
    Thing("a receipt of write, combined", "combined", f"{RUN}/items/00001.json", each(WRITE)),
    Thing("a receipt of write, per ROI", "per_item", f"{ITEMS}/items/00001.json", each(WRITE)),
    Thing("the records of a chunk", "combined", f"{RUN}/items/00001.jsonl", each(WRITE, UNNEEDED)),
    Thing(
        *("the records of a chunk, and the combined `.npz` is missing", "combined", f"{RUN}/items/00001.jsonl"),
        *(each(WRITE, After(WRITE.steps, starts=2)), "run.npz"),
    ),
    Thing("the receipt of merge", "combined", f"{RUN}/merge.json", each(MERGE)),
    Thing("the receipt of a repair", "per_item", f"{ITEMS}/repairs/00001-0.json", each(UNNEEDED)),
    Thing("a chip", "combined", CHIP, each(UNNEEDED)),
    Thing(
        "a chip, and the combined `.npz` is missing", "combined", CHIP, seen_when_read(NEW_CHIP, SECOND_CHIP), "run.npz"
    ),
    Thing(
        "a chip, and a file made of it is missing",
        "per_item",
        CHIP,
        seen_when_read(NEW_CHIP, SECOND_CHIP),
        "items/*.npz",
    ),
    Thing("an embedding", "combined", VECTOR, each(UNNEEDED)),
    Thing(
        *("an embedding, and the combined `.npz` is missing", "combined", VECTOR),
        *(seen_when_read(NEW_VECTOR, SECOND_VECTOR), "run.npz"),
    ),
    Thing("`bands.json` of the chips", "combined", ".rs_embed/store/chips/*/*/bands.json", each(UNNEEDED)),
    Thing(
        *("`bands.json`, and the combined `.npz` is missing", "combined", ".rs_embed/store/chips/*/*/bands.json"),
        *(each(MERGE_ALONE), "run.npz"),
    ),
    Thing("the frozen `config.yaml`", "combined", f"{RUN}/config.yaml", each(NOTHING)),
    Thing("the frozen `rois.csv`", "combined", f"{RUN}/rois.csv", each(NOTHING)),
    Thing("the whole output folder", "per_item", "items", {DELETED: After({"repair": 2, "merge": 1})}),
    Thing("`.snakemake` of a run", "combined", f"{RUN}/.snakemake", {DELETED: NOTHING}),
    Thing("`runs/`", "combined", ".rs_embed/runs", {DELETED: After(EVERY_STEP)}),
    Thing("`runs/`, one file per ROI", "per_item", ".rs_embed/runs", {DELETED: After(EVERY_STEP)}),
    Thing("`store/`", "combined", ".rs_embed/store", {DELETED: UNNEEDED}),
    Thing(
        *("`store/`, and the combined `.npz` is missing", "combined", ".rs_embed/store"),
        *({DELETED: After(EVERY_STEP, 4, 8)}, "run.npz"),
    ),
    Thing("`.rs_embed/`", "combined", ".rs_embed", {DELETED: After(EVERY_STEP, 4, 8)}),
    Thing("`.rs_embed/`, one file per ROI", "per_item", ".rs_embed", {DELETED: After(EVERY_STEP, 4, 8)}),
]


def _idle(thing: Thing, how: str) -> bool:
    """Nothing runs: such cases cannot hide each other, and share one start."""
    return not thing.cells[how].steps and not thing.besides


CASES = [([thing], how) for thing in THINGS for how in thing.cells if not _idle(thing, how)]
for _layout in ("combined", "per_item"):
    for _how in DAMAGES:
        CASES.append(([t for t in THINGS if t.layout == _layout and _how in t.cells and _idle(t, _how)], _how))
