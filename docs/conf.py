"""How the documentation is built: ``make docs``."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
import sys
import types
import warnings
from pathlib import Path
from typing import TYPE_CHECKING

import kombu_rs

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sphinx.application import Sphinx

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent / "tools"))

from api_surface.collect import StandInFinder  # noqa: E402

project = "kombu-rs"
author = "The kombu-rs authors"
version = release = "0.1.0"

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx.ext.intersphinx"]
exclude_patterns = ["_build"]
# The same names are in many transports: the first one found will do for a type in a signature.
suppress_warnings = ["ref.python"]
html_theme = "alabaster"
html_theme_options = {"description": "Kombu's API on a native core", "page_width": "1100px"}
html_static_path: list[str] = []
# Not with the tree of all pages, which would be most of each.
html_sidebars = {"**": ["about.html", "searchfield.html", "localtoc.html"]}
html_show_sourcelink = False
myst_heading_anchors = 3

autodoc_typehints = "signature"
autodoc_default_options = {"show-inheritance": True, "member-order": "bysource"}
napoleon_google_docstring = True
napoleon_numpy_docstring = False
napoleon_use_rtype = False

# Other projects' objects are not looked up: a build needs no network.
intersphinx_mapping: dict[str, tuple[str, None]] = {}

# Where the pages of the reference go; they are made anew for each build.
REFERENCE = HERE / "api"


def modules() -> Iterator[types.ModuleType]:
    """Every public module."""
    yield kombu_rs
    for info in pkgutil.walk_packages(kombu_rs.__path__, "kombu_rs."):
        if not any(part.startswith("_") for part in info.name.split(".")):
            yield importlib.import_module(info.name)


def documented(module: types.ModuleType) -> tuple[list[str], dict[str, str]]:
    """The public names that a module defines, and where those are that it only hands on."""
    own, others = [], {}
    listed = getattr(module, "__all__", ())
    for name in dict.fromkeys([*listed, *vars(module)]):
        value = getattr(module, name, None)
        if name.startswith("_") or isinstance(value, types.ModuleType):
            continue
        home = getattr(value, "__module__", None) or ""
        if not isinstance(value, type) and not inspect.isroutine(value):
            if name in listed:
                own.append(name)
        elif home == module.__name__:
            own.append(name)
        elif name in listed:
            others[name] = f"{home}.{getattr(value, '__qualname__', name)}"
    return own, others


def page(module: types.ModuleType) -> str:
    """The page of a module."""
    name = module.__name__
    own, others = documented(module)
    lines = [name, "=" * len(name), "", f".. automodule:: {name}", ""]
    if others:
        links = [f":obj:`{each} <{home}>`" for each, home in others.items()]
        lines += [f"It also has {', '.join(links)}.", ""]
    for each in own:
        value = getattr(module, each)
        kind = "class" if isinstance(value, type) else "data"
        if isinstance(value, type) and issubclass(value, BaseException):
            kind = "exception"
        elif inspect.isroutine(value):
            kind = "function"
        lines.append(f".. auto{kind}:: {name}.{each}")
        if kind in ("class", "exception"):
            lines += ["   :members:"]
        if any(base.__module__ == "kombu_rs._native" for base in getattr(value, "__bases__", ())):
            lines += ["   :inherited-members:"]
        lines.append("")
    return "\n".join(lines)


def write_reference(app: Sphinx) -> None:
    """Write a page for each module, and their index."""
    REFERENCE.mkdir(exist_ok=True)
    names = []
    for module in modules():
        names.append(module.__name__)
        path = REFERENCE / f"{module.__name__}.rst"
        text = page(module)
        if not path.exists() or path.read_text() != text:
            path.write_text(text)
    index = ["API reference", "=============", "", ".. toctree::", ""]
    index += [f"   {name}" for name in sorted(names)]
    (REFERENCE / "index.rst").write_text("\n".join(index) + "\n")
    for path in REFERENCE.glob("*.rst"):
        if path.stem not in (*names, "index"):
            path.unlink()


def without_titles(
    app: Sphinx, what: str, name: str, obj: object, options: object, lines: list[str]
) -> None:
    """Make the section titles in a module's docstring part of its page.

    A value without a docstring of its own shows none, not that of its type.
    """
    if what == "data" and "\n".join(lines).strip() == inspect.cleandoc(type(obj).__doc__ or ""):
        lines.clear()
    for number in range(len(lines) - 1, 0, -1):
        line, title = lines[number], lines[number - 1]
        if title.strip() and len(line) >= len(title) and set(line) in ({"="}, {"-"}):
            lines[number - 1 : number + 1] = [f".. rubric:: {title}", ""]


def without_aliases(
    app: Sphinx, what: str, name: str, obj: object, skip: bool, options: object
) -> bool | None:
    """Leave out what is documented elsewhere: a class in an attribute of another class."""
    alias = isinstance(obj, type) and "." not in obj.__qualname__
    return True if alias else None


def setup(app: Sphinx) -> None:
    """Called by Sphinx."""
    app.connect("autodoc-skip-member", without_aliases)
    app.connect("autodoc-process-docstring", without_titles)
    # A table's mixin is looked at, not used.
    warnings.filterwarnings("ignore", message="Unmanaged access of declarative attribute")
    # Clients of brokers need not be installed to document the transports that use them.
    sys.meta_path.insert(0, StandInFinder())
    app.connect("builder-inited", write_reference)
