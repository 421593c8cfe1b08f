"""Writes the outcomes of a run into a document: ``table.py KOMBU.jsonl KOMBU_RS.jsonl DOCUMENT``.

The two files are what ``--report`` has made on stock Kombu and on kombu-rs. The table replaces what
is between the markers of the document.
"""

from __future__ import annotations

import datetime
import json
import os
import platform
import sys
from pathlib import Path
from typing import Any

BEGIN, END = "<!-- outcomes: begin -->", "<!-- outcomes: end -->"
#: What a line of a report says beside the figures.
META = ("test", "promise", "library", "kept", "error")


def read(path: str) -> dict[str, dict[str, Any]]:
    """The last line of each test."""
    lines = [json.loads(line) for line in Path(path).read_text().splitlines()]
    return {line["test"]: line for line in lines}


def text_of(value: Any) -> str:
    """A figure, or several."""
    if isinstance(value, dict):
        return ", ".join(f"{name} {text_of(part)}" for name, part in value.items()) or "never"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:,.2f}" if value < 100 else f"{value:,.0f}"
    return f"{value:,}" if isinstance(value, int) else str(value)


def outcome(line: dict[str, Any] | None) -> str:
    """How a test has ended on one library."""
    if line is None:
        return "not run"
    figures = [
        f"{name.replace('_', ' ')}: {text_of(value)}"
        for name, value in line.items()
        if name not in META
    ]
    return "; ".join(["kept" if line["kept"] else "**not kept**", *figures])


def table(stock: dict[str, dict[str, Any]], ours: dict[str, dict[str, Any]]) -> list[str]:
    """The lines of the table."""
    today = datetime.datetime.now(datetime.timezone.utc).date()
    rows = [
        f"Written on {today} on a machine with {os.cpu_count()} cores, Python "
        f"{platform.python_version()}. Times are in seconds.",
        "",
        "| promise | script | stock Kombu | kombu-rs |",
        "| --- | --- | --- | --- |",
    ]
    for name in {**stock, **ours}:
        promise = (ours.get(name) or stock[name])["promise"]
        cells = [promise, f"`{name}`", outcome(stock.get(name)), outcome(ours.get(name))]
        rows.append(f"| {' | '.join(cells)} |")
    return rows


def main() -> None:
    """Rewrites the document."""
    stock, ours, document = sys.argv[1:]
    path = Path(document)
    head, _, rest = path.read_text().partition(BEGIN)
    _, _, tail = rest.partition(END)
    lines = [BEGIN, "", *table(read(stock), read(ours)), "", END]
    path.write_text(head + "\n".join(lines) + tail)


if __name__ == "__main__":
    main()
