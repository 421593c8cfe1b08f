"""Event loop."""

from __future__ import annotations

from ..utils.eventio import ERR, READ, WRITE
from .hub import Hub, get_event_loop, set_event_loop

__all__ = ("READ", "WRITE", "ERR", "Hub", "get_event_loop", "set_event_loop")
