"""The damage that ``verify`` finds, and what the user can do about it."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path


@dataclass(frozen=True)
class Problem:
    """A damaged or missing file or object.

    Attributes:
        kind: ``object``, ``pack``, ``declaration``, ``receipt``, ``file`` or ``request``.
        path: of the file. what: what it is, and what is wrong with it. advice: how to repair it.
        noticed: the next start of the request notices it without ``--set-aside``.
    """

    kind: str
    path: str
    what: str
    advice: str
    noticed: bool


@dataclass
class VerifyReport:
    """What ``verify`` read, found and changed.

    Attributes:
        objects, receipts, files, bytes: counts of what was read.
        notes: what was skipped, and why.
        set_aside: damaged objects that were moved aside. withdrawn: receipts that were withdrawn.
        touched: damaged final files whose time was set, so that the next start reads them.
        targets: targets of the affected runs. other_work_folders: other work folders with affected
            runs.
    """

    objects: int = 0
    receipts: int = 0
    files: int = 0
    bytes: int = 0
    problems: list[Problem] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    set_aside: list[Path] = field(default_factory=list)
    withdrawn: list[str] = field(default_factory=list)
    touched: list[str] = field(default_factory=list)
    targets: dict[str, None] = field(default_factory=dict)
    other_work_folders: dict[str, None] = field(default_factory=dict)

    def add(self, kind: str, path: str | Path, what: str, advice: str, *, noticed: bool) -> None:
        """Add a problem."""
        self.problems.append(Problem(kind, str(path), what, advice, noticed))

    @property
    def is_whole(self) -> bool:
        """Nothing is damaged or missing."""
        return not self.problems

    @property
    def next_step(self) -> str:
        """What the user should do now, in one line."""
        if self.is_whole:
            return "everything is whole, there is nothing to do"
        start = f"start the same request again ({', '.join(self.targets)})"
        prepared = self.set_aside or self.withdrawn or self.touched or all(p.noticed for p in self.problems)
        if self.targets:
            return f"next: {start}" if prepared else f"next: rs-embed verify --set-aside, then {start}"
        if self.other_work_folders:
            folder = next(iter(self.other_work_folders))
            return f"next: rs-embed verify --set-aside {folder}, whose runs need what is damaged"
        if any(p.kind == "pack" for p in self.problems) and not self.set_aside:
            return "next: rs-embed verify --set-aside, and then rs-embed prune --yes removes it"
        return "next: rs-embed prune --yes removes it, no run needs it"
