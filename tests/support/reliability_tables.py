"""The tables of docs/reliability.md, from the cases of the tests:
``python -m tests.support.reliability_tables`` writes them again."""

from __future__ import annotations

import re

from . import change_cases, damage_cases, killing
from .exports import CHECKOUT

DOCUMENT = CHECKOUT / "docs" / "reliability.md"


def row(*cells: object) -> str:
    return f"| {' | '.join(str(c) for c in cells)} |"


def table(*head: str) -> list[str]:
    return [row(*head), "|" + "---|" * len(head)]


def jobs(steps: dict[str, int]) -> str:
    """``2 embed, write`` for two embed jobs and a write job."""
    return ", ".join(rule if n == 1 else f"{n} {rule}" for rule, n in steps.items()) or "nothing"


def kills() -> list[str]:
    lines = table("in the middle of", "what was done", "jobs of the next start")
    for stage, way in killing.CASES:
        lines.append(row(stage, way, jobs(killing.todo_after(stage, way))))
    for way in killing.SHELL_WAYS:
        lines.append(row("embed", f"`snakemake` on the command line: {way}", jobs(killing.todo_after("embed", way))))
    return lines


def _cell(after: damage_cases.After | None) -> str:
    if after is None:
        return ""
    if after is damage_cases.UNSEEN:
        return "**not seen**"
    if not after.steps:
        return "no job: written at every start" if after.mended else "nothing: not needed"
    made = [f"{n} {what}{'s' * (n > 1)}" for what, n in (("chip", after.chips), ("embedding", after.embeddings)) if n]
    text = jobs(after.steps) + (f"; makes {' and '.join(made)}" if made else "")
    return text + (" (second start)" if after.starts == 2 else "")


def damages() -> list[str]:
    lines = table("damaged", *damage_cases.DAMAGES)
    return lines + [
        row(t.what, *(_cell(t.cells.get(how)) for how in damage_cases.DAMAGES)) for t in damage_cases.THINGS
    ]


def changes() -> list[str]:
    lines = table("changed", "chips", "embeddings", "jobs", "jobs, one file per ROI, if others")
    for c in change_cases.CHANGES:
        other = "" if c.per_item is None else jobs(c.per_item)
        lines.append(row(c.what, c.chips or "-", c.embeddings or "-", jobs(c.steps), other))
    return lines


TABLES = {"kills": kills, "damages": damages, "changes": changes}


def written(text: str) -> str:
    """A document with its tables written again."""
    for name, make in TABLES.items():
        mark, end = f"<!-- table: {name} -->\n", "<!-- end -->"
        pattern = re.compile(re.escape(mark) + ".*?" + re.escape(end), re.DOTALL)
        lines = "\n".join(make())
        text, found = pattern.subn(lambda _: mark + lines + "\n" + end, text)  # noqa: B023 - used at once
        assert found == 1, f"the document has {found} places for the table {name}"
    return text


if __name__ == "__main__":
    DOCUMENT.write_text(written(DOCUMENT.read_text()))
