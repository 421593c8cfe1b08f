"""Messaging for Python: Kombu's interface on a native core."""

from __future__ import annotations

from collections import namedtuple
from importlib import import_module

# Nothing else is imported here: every Python process below `kombu-rs run` starts with this.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, NamedTuple

    from ._alias import install_as_kombu
    from ._register import register
    from .common import eventloop
    from .connection import BrokerConnection, Connection
    from .entity import Exchange, Queue, binding
    from .message import Message
    from .messaging import Consumer, Producer
    from .pools import connections, producers
    from .serialization import disable_insecure_serializers, enable_insecure_serializers
    from .utils.url import parse_url
    from .utils.uuid import uuid

#: The version of Kombu whose interface this is; programs that ask Kombu's version want it.
__version__ = "5.7.0"
__author__ = "The kombu-rs authors"
__contact__ = ""
__homepage__ = "https://github.com/kombu-rs/kombu-rs"
__docformat__ = "restructuredtext en"


if TYPE_CHECKING:

    class version_info_t(NamedTuple):
        """The parts of a version."""

        major: int
        minor: int
        micro: int
        releaselevel: str
        serial: str

else:
    version_info_t = namedtuple(
        "version_info_t", ("major", "minor", "micro", "releaselevel", "serial")
    )

version_info: version_info_t = version_info_t(5, 7, 0, "", "")
VERSION: version_info_t = version_info

# Where the public names are. Imported when they are asked for: a program that needs one of them
# should not wait for the others.
_ORIGIN = {
    "Connection": "connection",
    "BrokerConnection": "connection",
    "Exchange": "entity",
    "Queue": "entity",
    "binding": "entity",
    "Message": "message",
    "Consumer": "messaging",
    "Producer": "messaging",
    "connections": "pools",
    "producers": "pools",
    "parse_url": "utils.url",
    "eventloop": "common",
    "uuid": "utils.uuid",
    "enable_insecure_serializers": "serialization",
    "disable_insecure_serializers": "serialization",
    "install_as_kombu": "_alias",
    "register": "_register",
}

__all__ = (
    "Connection",
    "BrokerConnection",
    "Exchange",
    "Queue",
    "binding",
    "Message",
    "Consumer",
    "Producer",
    "connections",
    "producers",
    "parse_url",
    "eventloop",
    "uuid",
    "enable_insecure_serializers",
    "disable_insecure_serializers",
    "install_as_kombu",
    "register",
)

# Modules that `kombu_rs.<name>` imports: code that counts on somebody else's import works.
_MODULES = frozenset(
    {
        "abstract",
        "asynchronous",
        "clocks",
        "common",
        "compat",
        "compression",
        "connection",
        "entity",
        "exceptions",
        "log",
        "matcher",
        "message",
        "messaging",
        "mixins",
        "pidbox",
        "pools",
        "resource",
        "serialization",
        "simple",
        "transport",
        "utils",
    }
)


if not TYPE_CHECKING:  # a type checker sees the imports above instead

    def __getattr__(name: str) -> Any:
        if name in _MODULES:
            return import_module(f".{name}", __name__)
        origin = _ORIGIN.get(name)
        if origin is None:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        value = getattr(import_module(f".{origin}", __name__), name)
        globals()[name] = value
        return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_ORIGIN, *_MODULES})
