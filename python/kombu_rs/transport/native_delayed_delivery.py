"""Delayed delivery on RabbitMQ with queues alone, no plugin.

One exchange and one queue per bit of the delay: level *n* holds a message for 2**n seconds and
dead-letters it to level *n* - 1. A message's routing key says which levels it must wait at and
which it passes: 28 digits, then the key to deliver with at the end.
"""

from __future__ import annotations

import logging
import re
from typing import Any

from ..entity import Exchange, Queue, binding
from ..log import get_logger

logger: logging.Logger = get_logger("kombu.transport.native_delayed_delivery")

MAX_NUMBER_OF_BITS_TO_USE = 28
MAX_LEVEL = MAX_NUMBER_OF_BITS_TO_USE - 1
CELERY_DELAYED_DELIVERY_EXCHANGE = "celery_delayed_delivery"

_delay_prefix_re = re.compile(rf"^(?:[01]\.){{{MAX_NUMBER_OF_BITS_TO_USE}}}")


def _prefixed(name: str, prefix: str | None) -> str:
    return f"{prefix}_{name}" if prefix else name


def _celery_delayed_delivery_exchange(prefix: str | None = None) -> str:
    return _prefixed(CELERY_DELAYED_DELIVERY_EXCHANGE, prefix)


def level_name(level: int, prefix: str | None = None) -> str:
    """Name of the exchange and queue of a level.

    Arguments:
        level: the bit, 0 to 27.
        prefix: put before it, for several applications on one broker.

    Raises:
        ValueError: the level is negative.
    """
    if level < 0:
        raise ValueError("level must be a non-negative number")
    return _prefixed(f"celery_delayed_{level}", prefix)


def declare_native_delayed_delivery_exchanges_and_queues(
    connection: Any, queue_type: str, prefix: str | None = None
) -> None:
    """Declare all levels.

    Arguments:
        connection: to the broker.
        queue_type: ``"classic"`` or ``"quorum"``.
        prefix: as :func:`level_name`.

    Raises:
        ValueError: another ``queue_type``.
    """
    if queue_type not in ("classic", "quorum"):
        raise ValueError("queue_type must be either classic or quorum")

    channel = connection.channel()
    final = Exchange(_celery_delayed_delivery_exchange(prefix), type="topic").bind(channel)
    final.declare()
    below = final
    for level in range(MAX_NUMBER_OF_BITS_TO_USE):
        _declare_level(channel, level, below, queue_type, prefix)
        below = Exchange(level_name(level, prefix), type="topic").bind(channel)


def _declare_level(
    channel: Any, level: int, below: Any, queue_type: str, prefix: str | None
) -> None:
    """Declare one level, from which messages go on ``below``."""
    name = level_name(level, prefix)
    # The digits of the levels above stand before this level's.
    above = "*." * (MAX_LEVEL - level)
    exchange = Exchange(name, type="topic").bind(channel)
    exchange.declare()
    queue_arguments = {
        "x-queue-type": queue_type,
        "x-overflow": "reject-publish",
        "x-message-ttl": 2**level * 1000,
        "x-dead-letter-exchange": below.name,
    }
    if queue_type == "quorum":
        queue_arguments["x-dead-letter-strategy"] = "at-least-once"
    queue = Queue(
        name,
        queue_arguments=queue_arguments,
        bindings=[binding(exchange=exchange, routing_key=f"{above}1.#")],
    ).bind(channel)
    queue.declare()
    below.bind_to(exchange, routing_key=f"{above}0.#")


def bind_queue_to_native_delayed_delivery_exchange(
    connection: Any, queue: Any, prefix: str | None = None
) -> None:
    """Have delayed messages for the exchanges of ``queue`` delivered to them at the end.

    Arguments:
        connection: to the broker.
        queue: the queue that consumes them; its exchanges must not be direct.
        prefix: as :func:`level_name`.
    """
    channel = connection.channel()
    queue = queue.bind(channel)
    bindings = set()
    if queue.exchange:
        bindings.add((queue.exchange, queue.routing_key))
    elif queue.bindings:
        bindings.update((b.exchange, b.routing_key) for b in queue.bindings)

    for source, routing_key in bindings:
        exchange = source.bind(channel)
        if exchange.type == "direct":
            logger.warning(
                f"Exchange {exchange.name} is a direct exchange "
                "and native delayed delivery do not support direct exchanges.\n"
                "ETA tasks published to this exchange will "
                "block the worker until the ETA arrives."
            )
            continue
        # Whatever delay digits come before it.
        key = routing_key if routing_key.startswith("#") else f"#.{routing_key}"
        exchange.bind_to(_celery_delayed_delivery_exchange(prefix), routing_key=key)
        queue.bind_to(exchange.name, routing_key=key)


def calculate_routing_key(countdown: int, routing_key: str) -> str:
    """Return the key to publish with, for a message to come after ``countdown`` seconds.

    Arguments:
        countdown: whole seconds, at least 1.
        routing_key: the key to deliver with; a delay that it has already is replaced.

    Raises:
        ValueError: ``countdown`` is not positive, or there is no key.
    """
    if countdown < 1:
        raise ValueError("countdown must be a positive number")
    if countdown >= 2**MAX_NUMBER_OF_BITS_TO_USE:
        raise ValueError(
            f"countdown must be less than {2**MAX_NUMBER_OF_BITS_TO_USE} seconds, got {countdown}"
        )
    if not routing_key:
        raise ValueError("routing_key must be non-empty")
    destination = _delay_prefix_re.sub("", routing_key)
    digits = f"{countdown:0{MAX_NUMBER_OF_BITS_TO_USE}b}"
    return f"{'.'.join(digits)}.{destination}"
