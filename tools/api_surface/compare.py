"""What stock Kombu has and ours has not, or has otherwise."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

# Of a value that is not plain nothing but its being there can be compared.
OBJECT = "<object>"

#: Kinds of difference, as the table of reasons names them.
KINDS = ("missing", "kind", "signature", "value", "bases", "all")

# What an attribute may be instead without anybody seeing it.
_ALIKE = (
    {"method", "classmethod", "staticmethod", "function"},
    {"property", "value"},
    {"property", "attribute"},
)


@dataclass(frozen=True)
class Difference:
    """One thing in which ours is not like stock.

    Attributes:
        module: the module in Kombu, ``kombu.x.y``.
        name: the name in it, or ``Class.member``; empty when it is the module itself.
        kind: one of :data:`KINDS`.
        detail: both sides, for people.
    """

    module: str
    name: str
    kind: str
    detail: str

    @property
    def where(self) -> str:
        """``module:name``, as the table of reasons names it."""
        return f"{self.module}:{self.name}" if self.name else self.module


def compare(stock: dict[str, Any], ours: dict[str, Any]) -> Iterator[Difference]:
    """Yield each difference; both sides are what ``collect`` made."""
    for name, theirs in stock.items():
        module = f"kombu.{name}".rstrip(".")
        if "error" in theirs:
            raise RuntimeError(f"stock Kombu's {module} cannot be imported: {theirs['error']}")
        mine = ours.get(name)
        if mine is None or "error" in mine:
            yield Difference(module, "", "missing", mine["error"] if mine else "no such module")
            continue
        yield from _module(module, theirs, mine)


def _module(module: str, stock: dict[str, Any], ours: dict[str, Any]) -> Iterator[Difference]:
    for name, theirs in stock["names"].items():
        mine = ours["names"].get(name)
        if mine is None:
            yield Difference(module, name, "missing", theirs["kind"])
            continue
        yield from _name(module, name, theirs, mine)
        if name in stock["all"] and name not in ours["all"]:
            yield Difference(module, name, "all", "not in `__all__`")


def _name(module: str, name: str, stock: Any, ours: Any) -> Iterator[Difference]:
    if stock["kind"] != ours["kind"] and not _are_alike(stock["kind"], ours["kind"]):
        yield Difference(module, name, "kind", f"{stock['kind']}; here {ours['kind']}")
        return
    yield from _signature(module, name, stock, ours)
    values = [side.get("value", OBJECT) for side in (stock, ours)]
    if values[0] != values[1] and OBJECT not in values:
        yield Difference(module, name, "value", f"`{stock['value']}`; here `{ours['value']}`")
    if stock["kind"] == "class" and "members" in stock:
        yield from _class(module, name, stock, ours)


def _are_alike(stock: str, ours: str) -> bool:
    # What each object has may be the class's, but not the other way: classes are overridden.
    if (stock, ours) == ("attribute", "value"):
        return True
    return any(stock in kinds and ours in kinds for kinds in _ALIKE)


def _signature(module: str, name: str, stock: Any, ours: Any) -> Iterator[Difference]:
    theirs = stock.get("signature")
    mine = ours.get("signature")
    if theirs is None or theirs == mine:
        return
    detail = f"`{written(theirs)}`; here `{written(mine)}`"
    yield Difference(module, name, "signature", detail)


def _class(module: str, name: str, stock: Any, ours: Any) -> Iterator[Difference]:
    lost = sorted(set(stock["bases"]) - set(ours["bases"]))
    if lost:
        yield Difference(module, name, "bases", f"not derived from {', '.join(lost)}")
    for member, theirs in stock["members"].items():
        full = f"{name}.{member}"
        mine = ours["members"].get(member)
        if mine is None:
            yield Difference(module, full, "missing", theirs["kind"])
        else:
            yield from _name(module, full, theirs, mine)


def written(signature: list[list[str]] | None) -> str:
    """A signature as Python writes it."""
    if signature is None:
        return "(?)"
    parts: list[str] = []
    starred = False
    for position, (name, kind, default) in enumerate(signature):
        text = name
        if kind == "VAR_POSITIONAL":
            text, starred = f"*{name}", True
        elif kind == "VAR_KEYWORD":
            text = f"**{name}"
        elif kind == "KEYWORD_ONLY" and not starred:
            parts.append("*")
            starred = True
        parts.append(f"{text}={default}" if default else text)
        last = position + 1 == len(signature) or signature[position + 1][1] != kind
        if kind == "POSITIONAL_ONLY" and last:
            parts.append("/")
    return f"({', '.join(parts)})"
