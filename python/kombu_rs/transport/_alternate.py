"""Our transport for an alternate of ``kombu-rs+...`` URLs, to which an installed Kombu switches."""

from __future__ import annotations

from .._typing import Any
from . import native

__all__ = ("Transport",)


class Transport(native.Transport):
    """Makes the transport that the same URL has when it comes first.

    Kombu leaves the first of several URLs whole to us, and takes the others apart, with everything
    before ``://`` as the name of their transport. Their parts are put together again here, in the
    connection, too: what it says of itself, and what :meth:`clone` makes of that, are then right.
    """

    def __new__(cls, client: Any = None, **kwargs: Any) -> Any:
        name, _, scheme = client.transport_cls.partition("+")
        client.hostname = cls._assembled(client, scheme)
        client.transport_cls = name
        return native.Transport(client, **kwargs)
