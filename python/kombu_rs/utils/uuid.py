"""Unique ids as text."""

from __future__ import annotations

from collections.abc import Callable
from os import urandom

from .._typing import Any

_VARIANT = {digit: "89ab"[int(digit, 16) & 3] for digit in "0123456789abcdef"}


def uuid(_uuid: Callable[[], Any] | None = None) -> str:
    """Return a random (version 4, RFC 9562) UUID as 36 characters.

    Arguments:
        _uuid: Makes the id instead, such as :func:`uuid.uuid1`.
    """
    if _uuid is not None:
        return str(_uuid())
    h = urandom(16).hex()
    return f"{h[:8]}-{h[8:12]}-4{h[13:16]}-{_VARIANT[h[16]]}{h[17:20]}-{h[20:]}"
