"""What every Python test may ask for; the servers' own fixtures are in `servers.pytest_plugin`."""

from __future__ import annotations

from pathlib import Path

import pytest

pytest_plugins = ["servers.pytest_plugin"]

#: Faults that every run tests.
ALWAYS = ("__init__.py", "test_kill.py", "test_rabbitmq_crowd.py", "test_tls.py")


def pytest_addoption(parser: pytest.Parser) -> None:
    """Options of the tests in `faults`."""
    group = parser.getgroup("faults")
    group.addoption(
        "--library",
        choices=("kombu_rs", "kombu"),
        default="kombu_rs",
        help="the library that programs under faults run on",
    )
    group.addoption("--faults", action="store_true", help="run the faults under load, too")
    group.addoption("--soak", action="store_true", help="the long form of the faults")
    group.addoption("--seed", type=int, help="seed of the random faults")
    group.addoption("--report", metavar="FILE", help="add the figures of the faults to a file")


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Leave most faults under load out unless they are asked for: they take minutes."""
    under_load = collection_path.parent.name == "faults" and collection_path.name not in ALWAYS
    if under_load and not config.getoption("--faults"):
        return True
    return None
