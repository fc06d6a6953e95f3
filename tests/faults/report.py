"""``python -m tests.faults.report <ledger>``: what a whole run of the suite has measured, into
docs/reliability.md."""

from __future__ import annotations

import datetime as dt
import json
import sys
from collections import Counter
from pathlib import Path

from ..support.reliability_tables import DOCUMENT, row, table

HEAD, TAIL = "<!-- written by make test-faults: begin -->", "<!-- end -->"
WHERE = ("before the jobs", "fetch", "embed", "write", "repair", "merge", "between jobs")


def lines(rows: list[dict]) -> list[str]:
    """The tables, from the ledger's rows."""
    of = {
        name: [r for r in rows if r["table"] == name]
        for name in ("kill", "chain", "disk", "folder", "provider", "memory", "clock")
    }
    return [*_kills(of), "", *_faults(of)]


def _kills(of: dict[str, list[dict]]) -> list[str]:
    hits = Counter()
    for r in of["kill"]:
        hits[r["where"], r["signal"]] += r["count"]
    seeds = sorted({r["seed"] for r in of["chain"]})
    starts = Counter(f"{r['entry']}, {r['layout']}" for r in of["chain"])
    chains = "; ".join(f"{n} chains of {what}" for what, n in sorted(starts.items()))
    head = (
        f"{dt.date.today().isoformat()}: {sum(hits.values())} kills, seeds {seeds[0]} to {seeds[-1]} ({chains}), by where they hit:"
        if seeds
        else "no kills"
    )
    out = [head, "", *table("signal", *WHERE, "all")]
    for signal in ("SIGKILL", "SIGTERM"):
        counts = [hits[w, signal] for w in WHERE]
        out.append(row(signal, *map(str, counts), str(sum(counts))))
    return out


def _faults(of: dict[str, list[dict]]) -> list[str]:
    out = table("fault", "injected", "runs recovered", "items lost", "objects made again that were there")

    def add(what: str, injected: int, recovered: int, lost: int = 0, again: str = "0") -> None:
        if injected:
            out.append(row(what, str(injected), str(recovered), str(lost), again))

    total = (
        {k: sum(r[k] for r in of["chain"]) for k in ("recovered", "lost", "repeated", "overlapped")}
        if of["chain"]
        else {}
    )
    if total:
        again = str(total["repeated"])
        if total["overlapped"]:
            again += f" (and {total['overlapped']} by a job that outlived its run, beside the next one)"
        add(
            "kills at random moments, one to four in a row",
            sum(r["count"] for r in of["kill"]),
            total["recovered"],
            total["lost"],
            again,
        )
    for step in ("fetch", "embed", "write", "repair", "merge"):
        found = [r for r in of["disk"] if r["step"] == step]
        full = sum(r["failed"] for r in found)
        add(f"a full disk in {step}", full, full)
    for disk in ("store", "target", "work"):
        found = [r["count"] for r in of["disk"] if r["disk"] == disk]
        add(f"the disk of the {disk} alone is full, up to four starts in a row", sum(found), len(found))
    for what, count in Counter(r["what"] for r in of["folder"]).items():
        add(what, count, count)
    for (which, lasts), count in Counter((r["which"], r["lasts"]) for r in of["provider"]).items():
        add(f"the provider fails for {which}, {lasts}", count, count)
    for what in dict.fromkeys(f"{r['what']}: {r['end']}" for r in of["memory"]):
        add(what, 1, 1)
    for what, count in Counter(r["what"] for r in of["clock"]).items():
        add(what, count, count)
    read = sum(r.get("files", 0) for name in of for r in of[name])
    return [
        *out,
        "",
        f"Meanwhile {read} versions of final files were read as they appeared: none was half, and none vanished.",
    ]


def main() -> None:
    """Write the tables between the marks."""
    rows = [json.loads(line) for line in Path(sys.argv[1]).read_text().splitlines()]
    text = DOCUMENT.read_text()
    before, _, rest = text.partition(HEAD)
    _, _, after = rest.partition(TAIL)
    DOCUMENT.write_text(f"{before}{HEAD}\n" + "\n".join(lines(rows)) + f"\n{TAIL}{after}")


if __name__ == "__main__":
    main()
