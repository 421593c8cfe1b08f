"""The comparison with an installed Kombu sees what it should see."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import api_surface
from api_surface.__main__ import explain
from api_surface.compare import Difference, compare, written
from api_surface.reasons import BadTable, Reasons
from api_surface.render import render

COLLECT = Path(api_surface.__file__).parent / "collect.py"

SOURCE = '''
"""A package."""
import os
from collections import OrderedDict
from logging import getLogger
from boto3 import Session

__all__ = ("listed",)
__version__ = "1"
logger = getLogger("somewhere")
LIMIT = 3
_hidden = 4

def listed(a, /, b, *, c=LIMIT, d=None, **e): ...

class Base:
    value = 1
    def method(self, x=()): ...
    @classmethod
    def made(cls): ...
    @property
    def seen(self): ...
    def __len__(self): return 0
    def _private(self): ...

class Derived(Base, KeyError):
    def __init__(self, name): ...

class UsesClient(Session): ...
'''


def collect(folder: Path, source: str, *arguments: str) -> dict[str, Any]:
    """What the collector says of a package ``sample`` with that source."""
    package = folder / "sample"
    package.mkdir(exist_ok=True)
    (package / "__init__.py").write_text(source)
    (package / "part.py").write_text("from . import Base, LIMIT\nclass Own: ...\n")
    done = subprocess.run(
        [sys.executable, str(COLLECT), "sample", *arguments],
        env={"PYTHONPATH": str(folder)},
        capture_output=True,
        text=True,
        check=True,
    )
    described: dict[str, Any] = json.loads(done.stdout)
    return described


@pytest.fixture(scope="module")
def stock(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return collect(tmp_path_factory.mktemp("stock"), SOURCE)


def differences(stock: dict[str, Any], folder: Path, source: str) -> list[tuple[str, str]]:
    """What is different when the package has another source: places and kinds."""
    path = folder / "stock.json"
    path.write_text(json.dumps(stock))
    ours = collect(folder, source, "--like", str(path))
    return [(found.where, found.kind) for found in compare(stock, ours)]


def test_public_names(stock: dict[str, Any]) -> None:
    names = stock[""]["names"]
    wanted = {"Base", "Derived", "LIMIT", "UsesClient", "__version__", "listed", "logger"}
    assert set(names) == wanted
    assert set(stock["part"]["names"]) == {"LIMIT", "Own"}  # a number says not where it is from


def test_members(stock: dict[str, Any]) -> None:
    members = stock[""]["names"]["Base"]["members"]
    assert {name: member["kind"] for name, member in members.items()} == {
        "__len__": "special",
        "made": "classmethod",
        "method": "method",
        "seen": "property",
        "value": "value",
    }
    assert written(members["method"]["signature"]) == "(x=tuple())"
    assert stock[""]["names"]["Derived"]["bases"] == [
        *("builtins.BaseException", "builtins.Exception", "builtins.KeyError"),
        *("builtins.LookupError", "kombu.Base"),
    ]


def test_signatures(stock: dict[str, Any]) -> None:
    signature = stock[""]["names"]["listed"]["signature"]
    assert written(signature) == "(a, /, b, *, c=3, d=None, **kwargs)"


def test_no_difference(stock: dict[str, Any], tmp_path: Path) -> None:
    assert differences(stock, tmp_path, SOURCE) == []


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ("def listed(a", "def renamed(a", ("kombu:listed", "missing")),
        ("c=LIMIT", "c=4", ("kombu:listed", "signature")),
        ("b, *, c", "b, c", ("kombu:listed", "signature")),
        ("x=()", "y=()", ("kombu:Base.method", "signature")),
        ("value = 1", "value = 2", ("kombu:Base.value", "value")),
        ("    value = 1\n", "", ("kombu:Base.value", "missing")),
        ("def __len__", "def __iter__", ("kombu:Base.__len__", "missing")),
        ("(Base, KeyError)", "(Base)", ("kombu:Derived", "bases")),
        ("__init__(self, name)", "__init__(self, other)", ("kombu:Derived", "signature")),
        ('("listed",)', "()", ("kombu:listed", "all")),
        ("LIMIT = 3", "class LIMIT: ...", ("kombu:LIMIT", "kind")),
    ],
)
def test_each_kind_of_difference(
    stock: dict[str, Any], tmp_path: Path, old: str, new: str, expected: tuple[str, str]
) -> None:
    assert old in SOURCE
    assert expected in differences(stock, tmp_path, SOURCE.replace(old, new, 1))


def test_a_module_that_is_not_there(stock: dict[str, Any]) -> None:
    found = list(compare(stock, {"": stock[""]}))
    assert [(each.where, each.kind) for each in found] == [("kombu.part", "missing")]


MISSING = Difference("kombu.x", "Thing.method", "missing", "method")
CHANGED = Difference("kombu.x", "Thing.method", "signature", "`()`; here `(a)`")


def test_reasons() -> None:
    table = Reasons("# comment\n= It is so.\nkombu.x:Thing.* missing\n\nkombu.y:* value\n")
    explained, wrong = explain([MISSING, CHANGED], table)
    assert explained == [(MISSING, "It is so."), (CHANGED, "no reason")]
    assert wrong == [
        "no reason: kombu.x:Thing.method signature (`()`; here `(a)`)",
        "stale reason in line 5: kombu.y:* value",
    ]


def test_an_exact_place_goes_before_a_pattern() -> None:
    table = Reasons("= All.\nkombu.x:* missing\n= This one.\nkombu.x:Thing.method missing\n")
    assert table.reason(MISSING) == "This one."


@pytest.mark.parametrize("text", ["kombu.x:a missing\n", "= Why.\nkombu.x:a gone\n", "= Why.\nx\n"])
def test_a_table_that_cannot_be_read(text: str) -> None:
    with pytest.raises(BadTable, match=r"line [12]"):
        Reasons(text)


def test_the_page(stock: dict[str, Any]) -> None:
    found = [
        (Difference("kombu", "Base.method", "signature", "`()`; here `(a)`"), "Because."),
        (Difference("kombu", "LIMIT", "missing", "value"), "Not needed."),
    ]
    page = render(stock, found, "9.9")
    assert "Every public name of Kombu 9.9" in page
    assert "| `Base` | class | alike, 4 members alike |" in page
    assert "| `Base.method` | method | signature `()`; here `(a)`: Because. |" in page
    assert "| `LIMIT` | value | missing: Not needed. |" in page
    assert "| [`kombu.part`](#kombu-part) | 2 | 2 | 2 | 0 | 0 |" in page
