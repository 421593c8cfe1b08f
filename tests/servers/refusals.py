"""Redis servers that refuse what the transport builds on, as ACLs and proxies do."""

from __future__ import annotations

from .redis import RedisServer

_USER = "nopass ~* &* +@all"
SCRIPTS = ("EVAL", "EVALSHA", "SCRIPT")
#: By what is missing: rules of the default user, and commands that the server does not know.
REFUSALS: dict[str, tuple[str, tuple[str, ...]]] = {
    "no-tracking": (f"{_USER} -client|tracking", ()),
    "no-client": (f"{_USER} -client", ()),
    "no-resp3": (_USER, ("HELLO",)),  # no ACL can forbid it
    "no-load": (f"{_USER} -script", ()),
    "no-scripts": (f"{_USER} -eval -evalsha -script", ()),
    "no-eval": (f"{_USER} -eval", ()),
    "bare": (_USER, ("HELLO", "CLIENT", *SCRIPTS)),
}


def refusing(name: str) -> RedisServer:
    """A server (of the system's build) that refuses what `name` in REFUSALS says."""
    rules, unknown = REFUSALS[name]
    return RedisServer(users={"default": rules}, unknown=unknown)
