"""``memory://``: queues in this process, shared by all its connections."""

from __future__ import annotations

from typing import Any

from . import native

__all__ = ("Channel", "Transport")


class Channel(native.Channel):
    """A channel on this process's queues."""


class Transport(native.Transport):
    """Queues in this process."""

    Channel = Channel

    scheme = "memory"
    can_parse_url = False
    driver_type = "memory"
    driver_name = "memory"

    @classmethod
    def _url(cls, client: Any) -> str:
        return "memory://"

    def driver_version(self) -> str:
        """The memory transport has no version."""
        return "N/A"
