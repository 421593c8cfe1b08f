"""Run at the start of every Python process below ``kombu-rs run``: makes kombu this package.

Python imports a module of this name from the path by itself. This directory stands first in
PYTHONPATH; a sitecustomize that the environment has is run as well, afterwards.
"""

import importlib.machinery
import importlib.util
import os
import sys


class _Refuse:
    """Finds kombu in a Python that does not have kombu-rs: raises instead of using another."""

    @staticmethod
    def find_spec(fullname: str, path: object = None, target: object = None) -> None:
        if fullname == "kombu" or fullname.startswith("kombu."):
            raise ImportError(
                "this process runs below 'kombu-rs run', but kombu-rs is not installed for "
                f"its Python ({sys.executable}): install it there, or start the process "
                "without PYTHONPATH",
                name=fullname,
            )


def _install() -> None:
    if importlib.util.find_spec("kombu_rs") is None:
        sys.meta_path.insert(0, _Refuse)
        return
    from kombu_rs._alias import install_as_kombu

    try:
        install_as_kombu()
    except RuntimeError as exc:
        # Going on with two Kombus would be worse, and site ignores ordinary exceptions here.
        sys.stderr.write(f"kombu-rs run: {exc}\n")
        sys.stderr.flush()
        os._exit(1)


def _chain() -> None:
    """Run the sitecustomize that this one hides."""
    here = os.path.realpath(os.path.dirname(__file__))
    rest = [entry for entry in sys.path if os.path.realpath(entry or os.curdir) != here]
    spec = importlib.machinery.PathFinder.find_spec("sitecustomize", rest)
    if spec is None or spec.loader is None:
        return
    module = importlib.util.module_from_spec(spec)
    sys.modules["sitecustomize"] = module
    spec.loader.exec_module(module)


_install()
_chain()
