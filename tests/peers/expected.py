"""The lists of expected failures, and the pytest plugin that holds a run to them.

A line of a list is ``NODE  # REASON``. NODE is a test's id, a prefix of ids that ends in ``*``, or
a path without ``::`` that is not collected at all (its import fails). A test that is listed and
passes fails the run: it must come off the list. A reason that begins with ``as root`` holds for
that user alone.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

#: Names the list that the plugin reads.
LIST_VARIABLE = "KOMBU_RS_PEERS_EXPECTED"
#: How many tests of a whole suite have to pass: one that is not collected, or skipped for want of
#: a library, would not be missed otherwise. Not set when a part of a suite is run.
FLOOR_VARIABLE = "KOMBU_RS_PEERS_FLOOR"


class Expected(NamedTuple):
    """A line of a list."""

    node: str
    reason: str

    def covers(self, node: str) -> bool:
        """Whether the line speaks of the test `node`."""
        if self.node.endswith("*"):
            return node.startswith(self.node[:-1])
        return node == self.node


def read(path: Path) -> list[Expected]:
    """The lines of a list.

    Raises:
        ValueError: a line has no reason, or stands twice.
    """
    lines = [line for line in path.read_text().splitlines() if line and not line.startswith("#")]
    expected = []
    for line in lines:
        node, mark, reason = line.partition("  # ")
        if not mark or not reason.strip():
            raise ValueError(f"{path.name}: no reason is given: {line!r}")
        if not reason.startswith("as root") or os.geteuid() == 0:
            expected.append(Expected(node.strip(), reason.strip()))
    names = [line.node for line in expected]
    twice = {name for name in names if names.count(name) > 1}
    if twice:
        raise ValueError(f"{path.name}: listed twice: {', '.join(sorted(twice))}")
    return expected


def _from_environment() -> list[Expected]:
    path = os.environ.get(LIST_VARIABLE)
    return read(Path(path)) if path else []


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Leave out the paths that are listed."""
    path = collection_path.relative_to(config.rootpath).as_posix()
    if any(path == line.node.rstrip("/") for line in _from_environment() if "::" not in line.node):
        return True
    return None


def _unused(lines: list[Expected], nodes: list[str]) -> Iterator[str]:
    for line in lines:
        if "::" in line.node and not any(line.covers(node) for node in nodes):
            yield line.node


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Mark the tests that are listed.

    Raises:
        pytest.UsageError: the whole suite was collected and a line names no test of it.
    """
    lines = _from_environment()
    exact = {line.node: line for line in lines if not line.node.endswith("*")}
    prefixes = [line for line in lines if line.node.endswith("*")]
    for item in items:
        line = exact.get(item.nodeid)
        for prefix in prefixes if line is None else ():
            if prefix.covers(item.nodeid):
                line = prefix
        if line is not None:
            item.add_marker(pytest.mark.xfail(reason=line.reason, strict=True))
    if FLOOR_VARIABLE in os.environ:
        unused = list(_unused(lines, [item.nodeid for item in items]))
        if unused:
            raise pytest.UsageError(f"listed, but no test of the suite: {', '.join(unused)}")


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Fail a run of a whole suite in which fewer tests passed than have to."""
    floor = int(os.environ.get(FLOOR_VARIABLE, 0))
    reporter = session.config.pluginmanager.get_plugin("terminalreporter")
    passed = len(reporter.stats.get("passed", ())) if reporter is not None else 0
    if passed < floor:
        reporter.write_line(f"{passed} tests passed, at least {floor} have to", red=True)
        session.exitstatus = pytest.ExitCode.TESTS_FAILED
