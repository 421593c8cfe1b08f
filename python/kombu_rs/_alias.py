"""``import kombu`` gives this package, in this process.

Each ``kombu.x.y`` *is* the module ``kombu_rs.x.y``: one object under two names, so that classes
are the same and a patch of one is a patch of the other.
"""

from __future__ import annotations

import importlib.machinery
import importlib.util
import sys

# importlib.abc and typing would cost more than all the rest, at the start of every process.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from types import ModuleType
    from typing import Any

__all__ = ("install_as_kombu",)

_ALIAS = "kombu"
_TARGET = __package__ or "kombu_rs"


def _is_alias(name: str) -> bool:
    return name == _ALIAS or name.startswith(f"{_ALIAS}.")


def _target_of(name: str) -> str:
    return _TARGET + name[len(_ALIAS) :]


class _SharedModule:
    """Loads ``kombu.x`` by importing ``kombu_rs.x`` and giving out that module."""

    def __init__(self, target: str, spec: Any) -> None:
        self.target = target
        self._spec = spec

    def create_module(self, spec: Any) -> ModuleType:
        # Imported here, not in find_spec: a module that appears in sys.modules while its spec
        # is looked for makes importlib load it a second time.
        module = importlib.import_module(self.target)
        self._spec = module.__spec__
        return module

    # For ``python -m kombu.x``, which runs it under another name.

    def get_code(self, fullname: str) -> Any:
        return self._spec.loader.get_code(self.target)

    def get_source(self, fullname: str) -> Any:
        return self._spec.loader.get_source(self.target)

    def exec_module(self, module: ModuleType) -> None:
        # importlib has just given it the alias's spec; reload() and pickle need its own.
        module.__spec__ = self._spec
        _served.add(self.target)
        _share_hidden_children(self.target, module)
        for needed in _EXPECTED.get(self.target, ()):
            importlib.import_module(needed)


def _share_hidden_children(target: str, package: ModuleType) -> None:
    """Alias the loaded submodules whose name the package uses for something else.

    `kombu.utils.uuid` is a module, and a function in `kombu.utils`. Importing the alias later
    would make importlib put the module where the function is.
    """
    for name in [name for name in sys.modules if name.rpartition(".")[0] == target]:
        child = sys.modules[name]
        if getattr(package, name.rpartition(".")[2], child) is not child:
            sys.modules.setdefault(_ALIAS + name[len(_TARGET) :], child)
            _served.add(name)


# Modules that users of Kombu find imported once they have imported one of its modules:
# celery.contrib.testing names `logging.handlers` without importing it.
_EXPECTED = {f"{_TARGET}.log": ("logging.handlers",)}

# Targets that were given out under an alias.
_served: set[str] = set()


class _KombuFinder:
    """Finds ``kombu`` and everything below it here, and nowhere else."""

    def find_spec(self, fullname: str, path: Any = None, target: Any = None) -> Any:
        if not _is_alias(fullname):
            return None
        name = _target_of(fullname)
        if name in _served and name in sys.modules and fullname not in sys.modules:
            # Somebody removed the alias to import it anew (as tests do): so must the target be.
            # During an import of the target itself the alias was never there.
            _served.discard(name)
            del sys.modules[name]
        own = importlib.util.find_spec(name)
        if own is None:
            # As for any missing module. No other finder finds it either: they look where the alias
            # of its package says, which is here.
            return None
        loader: Any = _SharedModule(name, own)
        spec = importlib.machinery.ModuleSpec(fullname, loader, origin=own.origin)
        spec.submodule_search_locations = own.submodule_search_locations
        return spec


def _installed() -> bool:
    return any(isinstance(finder, _KombuFinder) for finder in sys.meta_path)


def install_as_kombu() -> None:
    """Make ``import kombu``, and every ``kombu.x.y``, give this package from now on.

    Call it before anything imports Kombu. An installed Kombu is not used: what this package does
    not have raises ModuleNotFoundError. Calling it again does nothing. Child processes that are
    forked inherit it; for spawned ones use ``kombu-rs run``.

    Raises:
        RuntimeError: Kombu was imported already, so that some objects would be of its classes
            and some of ours.
    """
    if _installed():
        return
    early = sorted(name for name in sys.modules if _is_alias(name))
    if early:
        where = getattr(sys.modules.get(_ALIAS), "__file__", None)
        raise RuntimeError(
            f"install_as_kombu() comes too late: {', '.join(early[:3])} was imported already"
            f"{f' from {where}' if where else ''}. Call it before anything imports kombu or "
            "celery, or start the program with: kombu-rs run CMD..."
        )
    sys.meta_path.insert(0, _KombuFinder())
