"""The README's and the docstrings' examples run as they stand."""

from __future__ import annotations

import doctest
import importlib
import pkgutil
import re
import subprocess
import sys
from pathlib import Path

import pytest

import kombu_rs
from kombu_rs.transport import TRANSPORT_ALIASES

ROOT = Path(__file__).parents[3]
DOCUMENTS = [
    *("README.md", "ARCHITECTURE.md", "CONTRIBUTING.md"),
    *("docs/index.md", "docs/migration.md", "docs/transports.md"),
]


def blocks() -> list[tuple[str, str]]:
    """Every Python block of the documents with a name to find it by."""
    found = []
    for document in DOCUMENTS:
        text = (ROOT / document).read_text()
        for match in re.finditer(r"^```python\n(.*?)^```", text, re.MULTILINE | re.DOTALL):
            line = text.count("\n", 0, match.start()) + 2
            found.append((f"{document}:{line}", match.group(1)))
    return found


@pytest.mark.parametrize(("where", "code"), blocks(), ids=lambda v: v if ":" in v else "")
def test_document_example(where: str, code: str, tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, f"{where}\n{done.stderr}"


def test_the_readme_opens_with_a_first_success() -> None:
    """What it is, how to get it and a first success within thirty lines."""
    head = (ROOT / "README.md").read_text().splitlines()[:30]
    assert head[0] == "# kombu-rs"
    for wanted in ("pip install kombu-rs", "```python", "make demo"):
        assert any(wanted in line for line in head), wanted


def test_every_transport_is_documented() -> None:
    """The README has a URL of each; the page on transports has a part for its module."""
    readme = (ROOT / "README.md").read_text()
    page = (ROOT / "docs" / "transports.md").read_text()
    names: dict[str, list[str]] = {}
    for name, target in TRANSPORT_ALIASES.items():
        names.setdefault(target, []).append(name)
    for target, aliases in names.items():
        assert any(f"`{name}://" in readme or f"`{name}+" in readme for name in aliases), aliases
        module = target.partition(":")[0].removesuffix(".Transport")
        assert f"automodule:: {module}\n" in page, module


def modules() -> list[str]:
    """The modules of the package whose sources have an example; others need not be importable."""
    home = Path(kombu_rs.__file__).parent
    found = []
    for info in pkgutil.walk_packages([str(home)], "kombu_rs.", onerror=lambda name: None):
        path = home.joinpath(*info.name.split(".")[1:])
        source = path / "__init__.py" if info.ispkg else path.with_suffix(".py")
        if source.exists() and ">>> " in source.read_text():
            found.append(info.name)
    return found


@pytest.mark.parametrize("name", ["kombu_rs", *modules()])
def test_docstring_examples(name: str) -> None:
    module = importlib.import_module(name)
    flags = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
    failed, _ = doctest.testmod(module, optionflags=flags, report=True)
    assert failed == 0
