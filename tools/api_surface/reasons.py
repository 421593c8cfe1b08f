"""The table of reasons: why ours is not like Kombu in some place."""

from __future__ import annotations

from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path

from .compare import KINDS, Difference


class BadTable(ValueError):
    """The table cannot be read; the message names the line."""


@dataclass
class Entry:
    """One line of the table.

    Attributes:
        place: ``module:name`` or ``module:Class.member``; may have ``*`` in it.
        kind: the kind of difference.
        reason: the sentence above the line.
        line: its number in the file.
        used: how many differences it explains.
    """

    place: str
    kind: str
    reason: str
    line: int
    used: int = 0

    def explains(self, difference: Difference) -> bool:
        """Whether the reason is one for this difference."""
        return self.kind == difference.kind and fnmatchcase(difference.where, self.place)


class Reasons:
    """The table.

    A reason is a line that begins with ``= ``; the lines after it are the places that it is for,
    each followed by the kind of difference. Lines that begin with ``#`` are comments.
    """

    def __init__(self, text: str) -> None:
        self.entries: list[Entry] = []
        reason = ""
        for number, line in enumerate(text.splitlines(), 1):
            if not line.strip() or line.startswith("#"):
                continue
            if line.startswith("= "):
                reason = line[2:].strip()
                continue
            place, _, kind = line.strip().partition(" ")
            if not reason or kind not in KINDS:
                raise BadTable(
                    f"line {number}: {line!r} is not 'module:name KIND' below a reason; "
                    f"KIND is one of {', '.join(KINDS)}"
                )
            self.entries.append(Entry(place, kind, reason, number))

    @classmethod
    def read(cls, path: Path) -> Reasons:
        """Read the table from a file."""
        return cls(path.read_text())

    def reason(self, difference: Difference) -> str | None:
        """The reason for a difference, None where there is none. Exact places go first."""
        found = [entry for entry in self.entries if entry.explains(difference)]
        if not found:
            return None
        best = min(found, key=lambda entry: "*" in entry.place)
        best.used += 1
        return best.reason

    def stale(self) -> list[Entry]:
        """The lines that explain nothing any more."""
        return [entry for entry in self.entries if not entry.used]
