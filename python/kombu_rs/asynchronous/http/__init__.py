"""HTTP requests of an event loop."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .. import get_event_loop
from .base import BaseClient, Headers, Request, Response

if TYPE_CHECKING:
    from ..hub import Hub

__all__ = ("Client", "Headers", "Response", "Request", "BaseClient", "get_client")


def Client(hub: Hub | None = None, **kwargs: int) -> BaseClient:
    """Return a new client.

    Arguments:
        hub: gets the responses; default: the current event loop.
        max_clients: most requests at the same time; default 10.

    Raises:
        RuntimeError: there is no event loop.
    """
    from .threads import ThreadClient

    return ThreadClient(hub, **kwargs)


def get_client(hub: Hub | None = None, **kwargs: int) -> BaseClient:
    """Return the client of an event loop, made when it is first asked for.

    Arguments:
        hub: default: the current event loop.
        kwargs: as :func:`Client` takes them.

    Raises:
        RuntimeError: there is no event loop.
    """
    loop: Any = hub or get_event_loop()
    client = getattr(loop, "_current_http_client", None)
    if client is None:
        client = Client(loop, **kwargs)
        loop._current_http_client = client
    return client
