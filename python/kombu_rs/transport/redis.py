"""``redis://`` and ``rediss://``."""

from __future__ import annotations

from typing import Any

from . import native

__all__ = ("Channel", "Transport")


class Channel(native.Channel):
    """A channel on Redis lists."""


class Transport(native.Transport):
    """Redis, in Kombu's layout."""

    Channel = Channel

    scheme = "redis"
    can_parse_url = False
    default_port = 6379
    driver_type = "redis"
    driver_name = "kombu-rs"

    @classmethod
    def _url(cls, client: Any) -> str:
        url = super()._url(client)
        if url.startswith("socket://"):
            # The connection has taken the prefix off `redis+socket:///path`.
            return f"redis+{url}"
        if getattr(client, "transport_cls", None) == "rediss" and url.startswith("redis://"):
            return "rediss" + url[len("redis") :]
        return url
