"""What of a channel's class reaches the native core, and what cannot.

Programs derive from ``redis.Channel`` and replace class attributes and methods. Attributes become
options of the core. Methods that say how to connect are asked once. What publishes and what keeps
queues (``_put``, ``_new_queue``, ...) is called when it is replaced. What receives has no
counterpart: replacing it is an error, or it would silently do nothing.
"""

from __future__ import annotations

from ..._typing import Any, NoReturn
from ..native_virtual import CONSUMING

__all__ = ("is_replaced", "native_options", "refuse", "refuse_replaced", "settings", "snapshot")

#: Attributes of a channel that are options of the core, under the same name.
OPTIONS = (
    "sep",
    "ack_emulation",
    "unacked_key",
    "unacked_index_key",
    "unacked_mutex_key",
    "unacked_mutex_expire",
    "visibility_timeout",
    "renew_leases",
    "delivery_limit",
    "dead_letter_queue",
    "unacked_restore_interval",
    "unacked_restore_limit",
    "fanout_patterns",
    "global_keyprefix",
    "priority_steps",
    "queue_order_strategy",
    "keyprefix_queue",
    "keyprefix_fanout",
    "keyprefix_binding_permanent",
    "keyprefix_binding_deadlines",
)

#: Attributes of a channel that say how to connect.
CONNECTION = (
    "client_name",
    "connection_class",
    "connection_class_ssl",
    "socket_connect_timeout",
    "socket_keepalive",
    "socket_keepalive_options",
    "socket_timeout",
)

#: Attributes of a channel on a cluster.
CLUSTER = ("hash_tag", "sharded_fanout", "startup_nodes")

#: Attributes that cannot change once the channel is there.
FIXED = frozenset((*OPTIONS, *CONNECTION, *CLUSTER))

#: Names with which Kombu receives and puts back, or makes up keys: the core does not call them.
UNCALLED = (
    *sorted(CONSUMING),
    "_brpop_read",
    "_brpop_start",
    "_deliver_fanout_message",
    "_do_restore_message",
    "_get_publish_topic",
    "_get_publish_topics",
    "_get_subscribe_topic",
    "_get_subscribe_topics",
    "_handle_message",
    "_poll_error",
    "_q_for_pri",
    "_receive",
    "_receive_one",
    "_subscribe",
    "_unsubscribe_from",
    "_update_queue_cycle",
    "priority",
)

#: Methods of a channel that say how to connect, or with what.
ASKED = ("_connparams", "_create_client", "_get_client", "_get_pool", "client")


def snapshot(cls: type, *names: str) -> dict[str, Any]:
    """Return a class's methods as they are now, for :func:`is_replaced`; ``names`` adds some."""
    return {name: getattr(cls, name, None) for name in (*UNCALLED, *ASKED, *names)}


def is_replaced(channel: Any, ours: dict[str, Any], name: str) -> bool:
    """Whether a channel, or its class, has a method of its own.

    Arguments:
        channel: the channel.
        ours: our methods by name.
        name: the method's.
    """
    return name in vars(channel) or getattr(type(channel), name, None) is not ours.get(name)


def refuse_replaced(channel: Any, ours: dict[str, Any]) -> None:
    """Refuse a channel whose class has methods that nobody would call.

    Raises:
        NotImplementedError: naming them.
    """
    # What the channel itself was given was judged when it was given.
    found = [name for name in UNCALLED if getattr(type(channel), name, None) is not ours.get(name)]
    if found:
        refuse(channel, found)


def refuse(channel: Any, names: list[str]) -> NoReturn:
    """Say that a channel cannot have its own of something.

    Raises:
        NotImplementedError: always.
    """
    cls = type(channel)
    raise NotImplementedError(
        f"{cls.__module__}.{cls.__qualname__} has its own {', '.join(names)}: the native core "
        f"receives messages itself, records them in Redis and asks nothing of the channel for that"
    )


def settings(channel: Any) -> dict[str, Any]:
    """Return what the channels of a connection have in common."""
    names = [name for name in (*OPTIONS, *CONNECTION) if not name.startswith("connection_class")]
    names += [name for name in CLUSTER if hasattr(channel, name)]
    return {name: getattr(channel, name) for name in names}


def native_options(channel: Any) -> dict[str, Any]:
    """Return the options of the core that a channel's attributes stand for."""
    options = {name: getattr(channel, name) for name in OPTIONS}
    options["priority_steps"] = list(channel.priority_steps)
    return options
