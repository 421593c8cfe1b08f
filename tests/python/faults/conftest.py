"""Programs under faults, on kombu-rs or (``--library kombu``) on stock Kombu for comparison."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Generator, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from .fleet import Fleet


@pytest.fixture
def fleet(tmp_path: Path, library: str) -> Iterator[Fleet]:
    """Starts programs; they are stopped after the test."""
    with ExitStack() as stack:
        yield Fleet(tmp_path, library, stack)


@pytest.fixture(scope="session")
def library(pytestconfig: pytest.Config) -> str:
    """The library under test: ``kombu_rs``, or ``kombu`` to see what it does."""
    return str(pytestconfig.getoption("--library"))


@pytest.fixture(scope="session")
def soak(pytestconfig: pytest.Config) -> bool:
    """Whether this is the long run."""
    return bool(pytestconfig.getoption("--soak"))


@pytest.fixture(scope="session")
def under_load(pytestconfig: pytest.Config) -> bool:
    """Whether faults under load were asked for; without it scripts that always run are short."""
    return bool(pytestconfig.getoption("--faults"))


@pytest.fixture
def dice(pytestconfig: pytest.Config) -> random.Random:
    """Random numbers. The seed is printed; ``--seed`` repeats a run as far as that is possible."""
    seed = pytestconfig.getoption("--seed")
    if seed is None:
        seed = random.SystemRandom().randrange(1_000_000)
    print(f"seed {seed}")
    return random.Random(seed)


Report = Callable[..., None]
_PASSED = pytest.StashKey[bool]()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item,
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Remembers for the fixture `report` how the test ended."""
    result = yield
    if result.when == "call" and not result.skipped:
        item.stash[_PASSED] = result.passed
    return result


@pytest.fixture
def report(request: pytest.FixtureRequest, library: str) -> Iterator[Report]:
    """Notes figures of a test: ``report(lost=3)``. They are printed, and added to ``--report``."""
    figures: dict[str, Any] = {}

    def note(**more: Any) -> None:
        figures.update(json.loads(json.dumps(more), parse_float=lambda x: round(float(x), 3)))

    yield note
    kept = request.node.stash.get(_PASSED, None)
    if kept is None:
        return  # skipped
    line = json.dumps(
        {
            "test": request.node.nodeid.rpartition("/")[2],
            "promise": (request.function.__doc__ or "").partition("\n")[0],
            "library": library,
            "kept": kept,
        }
        | figures
    )
    print(line)
    path = request.config.getoption("--report")
    if path:
        with Path(path).open("a") as file:
            file.write(line + "\n")
