"""What ``verify`` found, and what to do about it."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path


@dataclass(frozen=True)
class Problem:
    """Something that is damaged or missing.

    Attributes:
        kind: ``object``, ``pack``, ``declaration``, ``receipt``, ``file`` or ``request``.
        path: where. what: what it is, and what is wrong with it. advice: what mends it.
        noticed: the next start of the request notices by itself.
    """

    kind: str
    path: str
    what: str
    advice: str
    noticed: bool


@dataclass
class Report:
    """What was read, and what was found.

    Attributes:
        notes: what was passed over, and why.
        aside: damaged objects that were moved aside. withdrawn: receipts that were withdrawn.
        touched: damaged final files that were given a new time, so that the next start reads them.
        targets: targets of the runs that are concerned. elsewhere: other work folders that are.
    """

    objects: int = 0
    receipts: int = 0
    files: int = 0
    bytes: int = 0
    problems: list[Problem] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    aside: list[Path] = field(default_factory=list)
    withdrawn: list[str] = field(default_factory=list)
    touched: list[str] = field(default_factory=list)
    targets: dict[str, None] = field(default_factory=dict)
    elsewhere: dict[str, None] = field(default_factory=dict)

    def add(self, kind: str, path: str | Path, what: str, advice: str, *, noticed: bool) -> None:
        self.problems.append(Problem(kind, str(path), what, advice, noticed))

    @property
    def whole(self) -> bool:
        return not self.problems

    @property
    def next(self) -> str:
        """What to do now, in one line."""
        if self.whole:
            return "everything is whole, there is nothing to do"
        start = f"start the same request again ({', '.join(self.targets)})"
        mended = self.aside or self.withdrawn or self.touched or all(p.noticed for p in self.problems)
        if self.targets:
            return f"next: {start}" if mended else f"next: rs-embed verify --set-aside, then {start}"
        if self.elsewhere:
            return f"next: rs-embed verify --set-aside {next(iter(self.elsewhere))}, whose runs need what is damaged"
        if any(p.kind == "pack" for p in self.problems) and not self.aside:
            return "next: rs-embed verify --set-aside, and then rs-embed prune --yes removes it"
        return "next: rs-embed prune --yes removes it, no run needs it"
