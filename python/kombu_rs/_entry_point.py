"""What an installed Kombu loads by itself: a broker URL alone then chooses our transport.

Kombu 5.7 accepts a Python path such as ``kombu_rs.transport:Transport`` as ``transport``, but in a
URL only names of its table. It has no entry points for transports; it has some for serializers,
which it loads when :mod:`kombu.serialization` is imported. The one that we declare has neither
encoder nor decoder: loading it adds our name to the table of transports.
"""

from __future__ import annotations

import sys

__all__ = ("serializer",)

#: Arguments of Kombu's ``register()``: a content type that nothing is written or read as.
serializer = (None, None, "application/x-kombu-rs", "binary")


def _add_name() -> None:
    kombu = sys.modules.get("kombu")
    if kombu is None or kombu.__name__ != "kombu":
        return  # nobody uses the installed Kombu: it is not there, or it is us
    from ._register import register

    register()


_add_name()
