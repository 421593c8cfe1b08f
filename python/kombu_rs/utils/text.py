"""Names that are nearly right, and version numbers."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from .._typing import NamedTuple


class version_info_t(NamedTuple):
    """A version, taken apart."""

    major: int
    minor: int
    micro: int
    releaselevel: str
    serial: str


def escape_regex(p: str, white: str = "") -> str:
    """Escape everything in ``p`` but letters, digits and the characters of ``white``."""
    return "".join(
        c if c.isalnum() or c in white else ("\\000" if c == "\000" else "\\" + c) for c in p
    )


def fmatch_iter(
    needle: str,
    haystack: Iterable[str],
    min_ratio: float = 0.6,
) -> Iterator[tuple[float, str]]:
    """Yield ``(ratio, name)`` for the names that are like ``needle`` (ratio 0 to 1)."""
    from difflib import SequenceMatcher

    for key in haystack:
        ratio = SequenceMatcher(None, needle, key).ratio()
        if ratio >= min_ratio:
            yield ratio, key


def fmatch_best(needle: str, haystack: Iterable[str], min_ratio: float = 0.6) -> str | None:
    """Return the name that is most like ``needle``, or ``None``."""
    best = max(fmatch_iter(needle, haystack, min_ratio), default=None)
    return best[1] if best else None


def version_string_as_tuple(s: str) -> version_info_t:
    """Take a version such as ``5.7.0rc1``, ``5.7.0-1`` or ``3.3.1.a3.40c32`` apart.

    Raises:
        ValueError: if it does not begin with a number.
    """
    parts = s.split(".")
    numbers = [int(part) for part in parts[:2]]
    micro, level, serial = 0, "", ""
    if len(parts) > 2:
        tail = parts[2].lstrip("0123456789")
        micro = int(parts[2].removesuffix(tail) or 0)
        level, _, serial = tail.partition("-")
    rest = parts[3:]
    if rest and not (level or serial):
        level = rest.pop(0)
    return version_info_t(numbers[0], [*numbers, 0][1], micro, level, serial or ".".join(rest))
