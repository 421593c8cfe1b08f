"""Containers keyed by what an object says it equals."""

from __future__ import annotations

from .._typing import Any, TypeVar

_V = TypeVar("_V")


class HashedSeq(list[Any]):
    """A sequence that is hashed once, when it is made."""

    __slots__ = ("hashvalue",)

    def __init__(self, *seq: Any) -> None:
        self[:] = seq
        self.hashvalue: int = hash(seq)

    def __hash__(self) -> int:  # type: ignore[override]
        return self.hashvalue


def eqhash(o: Any) -> Any:
    """Return ``o.__eqhash__()`` if it has one, else ``hash(o)``."""
    try:
        method = o.__eqhash__
    except AttributeError:
        return hash(o)
    return method()


class EqualityDict(dict[Any, _V]):
    """A dict whose keys are compared by :func:`eqhash`.

    Connections with equal parameters thus share one entry (and one pool).
    """

    def __getitem__(self, key: Any) -> _V:
        h = eqhash(key)
        if h in self:
            return super().__getitem__(h)
        missing = getattr(self, "__missing__", None)
        if missing is None:
            raise KeyError(key)
        value: _V = missing(key)
        return value

    def __setitem__(self, key: Any, value: _V) -> None:
        super().__setitem__(eqhash(key), value)

    def __delitem__(self, key: Any) -> None:
        super().__delitem__(eqhash(key))
