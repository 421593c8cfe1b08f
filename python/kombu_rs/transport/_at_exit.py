"""Channels that are open when the interpreter ends: what they have not acknowledged goes back.

Stock Kombu does it for its virtual channels. Without it a program that ends by an exception would
hide its messages from others until their claims expire.
"""

from __future__ import annotations

import atexit
import os
import sys
import time
import weakref

from .._deferred import deferred
from .._typing import Any
from ..log import get_logger

__all__ = ("forget", "remember")

logger = deferred(get_logger, "kombu.virtual")

#: Seconds that all of it may take: brokers that are gone do not keep a program from ending.
PATIENCE = 2.0

_open: weakref.WeakSet[Any] = weakref.WeakSet()
#: What multiprocessing calls at the end of this process.
_finalizer: Any = None


def remember(channel: Any) -> None:
    """Close ``channel`` at the end of the process, unless it is forgotten before."""
    _open.add(channel)
    _before_children_are_awaited()


def forget(channel: Any) -> None:
    """Do not close ``channel`` any more."""
    _open.discard(channel)


def _close_all() -> None:
    end = time.monotonic() + PATIENCE
    by_connection: dict[int, list[Any]] = {}
    for channel in list(_open):
        by_connection.setdefault(id(channel.connection), []).append(channel)
    while by_connection:
        # A share for each, or one that is gone would leave nothing for those that are there.
        share = max(end - time.monotonic(), 0.0) / len(by_connection)
        _, channels = by_connection.popitem()
        _give_back(channels, time.monotonic() + share)


def _give_back(channels: list[Any], end: float) -> None:
    for channel in channels:
        try:
            channel._close(channel.do_restore, max(end - time.monotonic(), 0.0))
        except Exception as exc:
            logger.warning("cannot give back what %r has not acknowledged: %r", channel, exc)


def _before_children_are_awaited(*_: object) -> None:
    # At the end of a program multiprocessing waits for its children before `atexit` comes to us,
    # and a child may wait for what is given back here. It is not imported for this: that takes
    # longer than to connect.
    global _finalizer
    util: Any = sys.modules.get("multiprocessing.util")
    if hasattr(util, "Finalize") and not (_finalizer and _finalizer.still_active()):
        _finalizer = util.Finalize(None, _close_all, exitpriority=1)


def _see_to_the_end_of_a_child() -> None:
    # Children of multiprocessing end with its finalizers, and without those of `atexit`. A child's
    # finalizers are its own, and multiprocessing begins by clearing them. Of the channels that it
    # inherits only what it has received itself goes back.
    util: Any = sys.modules.get("multiprocessing.util")
    if hasattr(util, "register_after_fork"):  # another thread may be importing it
        util.register_after_fork(_before_children_are_awaited, _before_children_are_awaited)


atexit.register(_close_all)
_before_children_are_awaited()
_see_to_the_end_of_a_child()  # it may be one of the fork server's, which has yet to begin
os.register_at_fork(
    after_in_parent=_before_children_are_awaited,
    after_in_child=_see_to_the_end_of_a_child,
)
