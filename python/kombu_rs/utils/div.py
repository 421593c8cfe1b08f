"""Saving what could not be sent."""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import suppress

from .._deferred import deferred
from .._typing import TYPE_CHECKING, Any
from ..log import get_logger

if TYPE_CHECKING:
    import logging

logger: logging.Logger = deferred(get_logger, "kombu.utils.div")


def emergency_dump_state(
    state: Any,
    open_file: Callable[[str, str], Any] = open,
    dump: Callable[..., Any] | None = None,
    stderr: Any = None,
) -> str:
    """Write ``state`` to a new temporary file and return its path.

    Pickle is tried first; what cannot be pickled is written as text, in the
    form of :func:`pprint.pformat`. Messages go to ``stderr``, or to the log.

    Arguments:
        open_file: Opens the file, called with path and mode. The mode is for
            bytes, or for text when ``dump`` is given.
        dump: Writes instead of pickle, called as ``dump(state, file, protocol=0)``.
        stderr: Text file for messages.
    """
    from tempfile import mkstemp

    descriptor, path = mkstemp(prefix="kombu-state-")
    os.close(descriptor)

    def say(text: str) -> None:
        if stderr is None:
            logger.warning(text)
        else:
            print(text, file=stderr)

    say(f"EMERGENCY DUMP STATE TO FILE -> {path} <-")
    write: Any = dump
    mode = "w+"
    if write is None:
        from pickle import dump as write

        mode = "w+b"
    file = open_file(path, mode)
    try:
        try:
            write(state, file, protocol=0)
        except Exception as exc:
            say(f"Cannot pickle state. Falling back to pformat. ({exc!r})")
            _rewind(file)
            _write_text(file, state)
        file.flush()
    finally:
        file.close()
    return path


def _rewind(file: Any) -> None:
    """Drop what was written before; where that cannot be done, go on behind it."""
    try:
        file.seek(0)
        file.truncate()
    except Exception:
        with suppress(Exception):
            file.seek(0, os.SEEK_END)


def _write_text(file: Any, state: Any) -> None:
    from pprint import pformat

    text = pformat(state)
    try:
        file.write(text)
    except TypeError:  # opened for bytes
        file.write(text.encode("utf-8"))
