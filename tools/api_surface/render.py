"""The table for the documentation."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from .compare import Difference

HEAD = """\
<!-- Made by `make api-surface`; do not edit. -->

# API surface

Every public name of Kombu {version}, and what kombu-rs has for it. `make check` makes this page
anew from an installed Kombu, and fails when something differs without a reason.

A name of a module is public when it has no leading underscore and is in the module's `__all__`, or
the module defines it, or Celery imports it from there; what a module has only because it imported
it for its own use is not. Of a class everything without a leading underscore counts, the special
methods that it defines, and the attributes of a new object. Alike means: there, of the same kind,
with the same parameters (names, kinds, defaults), the same plain value, the same bases.
`kombu.asynchronous.http` and `kombu.asynchronous.aws`, the internals of Kombu's SQS client, are
left out. Modules are named as in Kombu; `kombu_rs.x` is `kombu.x`.
"""


def render(stock: dict[str, Any], differences: list[tuple[Difference, str]], version: str) -> str:
    """The page.

    Arguments:
        stock: what stock Kombu has.
        differences: each with its reason.
        version: stock Kombu's.
    """
    parts = [HEAD.format(version=version), *_summary(stock, differences)]
    for name, described in stock.items():
        module = f"kombu.{name}".rstrip(".")
        mine = [(d, reason) for d, reason in differences if d.module == module]
        parts.append("\n".join(_module(module, described["names"], mine)))
    return "\n".join(parts) + "\n"


def _summary(stock: dict[str, Any], differences: list[tuple[Difference, str]]) -> Iterator[str]:
    lines = [
        "| module | names | with members | alike | differ | missing |",
        "| --- |" + " ---: |" * 5,
    ]
    totals = [0, 0, 0, 0]
    for name, described in stock.items():
        module = f"kombu.{name}".rstrip(".")
        names = described["names"]
        everything = sum(1 + len(each.get("members", ())) for each in names.values())
        places = {(d.name, d.kind == "missing") for d, _ in differences if d.module == module}
        missing = sum(
            1 + len(names.get(place, {}).get("members", ())) if place else everything
            for place, gone in places
            if gone
        )
        differ = len({place for place, gone in places if not gone})
        row = [len(names), everything, differ, missing]
        totals = [total + value for total, value in zip(totals, row, strict=True)]
        lines.append(_row(f"[`{module}`](#{_anchor(module)})", row))
    lines.append(_row("all", totals))
    yield "\n".join(lines) + "\n"


def _row(title: str, counts: list[int]) -> str:
    names, everything, differ, missing = counts
    cells = [title, names, everything, everything - differ - missing, differ, missing]
    return f"| {' | '.join(map(str, cells))} |"


def _anchor(module: str) -> str:
    return module.replace(".", "-").replace("_", "-").lower()


def _module(
    module: str, names: dict[str, Any], differences: list[tuple[Difference, str]]
) -> Iterator[str]:
    yield f"({_anchor(module)})="
    yield f"## {module}"
    yield ""
    whole = [(d, reason) for d, reason in differences if not d.name]
    if whole:
        yield f"Not there: {whole[0][1]}"
        yield ""
        return
    if not names:
        yield "No public names."
        yield ""
        return
    yield "| name | kind | here |"
    yield "| --- | --- | --- |"
    for name, described in names.items():
        own = [(d, reason) for d, reason in differences if d.name.partition(".")[0] == name]
        kind = described["kind"]
        if kind == "the same":
            kind = f"from `kombu.{described['value']}`"
        if any(d.name == name and d.kind == "missing" for d, _ in own):
            yield f"| `{name}` | {kind} | missing: {own[0][1]} |"
            continue
        members = described.get("members", {})
        here = "alike"
        if members:
            differing = len({d.name for d, _ in own if d.name != name})
            here = f"alike, {_count(len(members) - differing)}"
        if any(d.name == name for d, _ in own):
            here = "; ".join(_told(d, reason) for d, reason in own if d.name == name)
        yield f"| `{name}` | {kind} | {here} |"
        for difference, reason in own:
            if difference.name != name:
                kind = members[difference.name.partition(".")[2]]["kind"]
                yield f"| `{difference.name}` | {kind} | {_told(difference, reason)} |"
    yield ""


def _count(members: int) -> str:
    return f"{members} member{'s' * (members != 1)} alike"


def _told(difference: Difference, reason: str) -> str:
    if difference.kind == "missing":
        return f"missing: {reason}"
    detail = difference.detail.replace("|", "\\|")
    return f"{difference.kind} {detail}: {reason}"
