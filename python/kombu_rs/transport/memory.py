"""``memory://``: queues in this process, shared by all its connections."""

from __future__ import annotations

from typing import Any

from .. import _native
from . import native

__all__ = ("Channel", "Transport")


class _Everything:
    """All that this process has in ``memory://``; can be cleared, as tests do."""

    def clear(self) -> None:
        """Forget all queues, bindings and exchanges."""
        _native.reset_memory()


class Channel(native.Channel):
    """A channel on this process's queues."""

    queues = _Everything()


class Transport(native.Transport):
    """Queues in this process."""

    Channel = Channel

    #: Bindings and exchanges; cleared together with the queues.
    state = global_state = Channel.queues

    scheme = "memory"
    can_parse_url = False
    driver_type = "memory"
    driver_name = "memory"

    @classmethod
    def _url(cls, client: Any) -> str:
        return "memory://"

    # Celery makes one event loop per process for transports that say they can use one, and runs
    # several workers in threads of one process here: in tests. It can be put into a loop all the
    # same (`register_with_event_loop`).
    implements = native.Transport.implements.extend(asynchronous=False)

    def driver_version(self) -> str:
        """The memory transport has no version."""
        return "N/A"
