"""Transport options of Pub/Sub."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

from ...log import get_logger
from ...utils.objects import cached_property
from .._channels import WithOptions
from .._cloud import number_option

__all__ = ("ACK_MODIFY_BATCH_SIZE", "Options", "check_options")

#: Pub/Sub takes requests of up to 512 KiB; an id has some 200 bytes.
ACK_MODIFY_BATCH_SIZE = 1000

#: The limits of the options that are numbers; Pub/Sub's own where it has some.
LIMITS: dict[str, dict[str, float]] = {
    "wait_time_seconds": {"above": 0},
    "retry_timeout_seconds": {"above": 0},
    "ack_deadline_seconds": {"least": 10, "most": 600},
    "bulk_max_messages": {"least": 1, "most": 1000},
    "ack_modify_batch_size": {"least": 1},
}

logger: logging.Logger = get_logger("kombu.transport.gcpubsub")


def check_options(options: Mapping[str, Any]) -> None:
    """Look at all options that are numbers.

    Raises:
        ValueError: one is not, or out of its limits; names it.
    """
    for name, limits in LIMITS.items():
        number_option(options, name, 0, **limits)


class Options(WithOptions):
    """A channel that has them. They were checked when the connection was made."""

    default_wait_time_seconds = 10
    default_ack_deadline_seconds = 240
    default_expiration_seconds = 86400
    default_retry_timeout_seconds = 300
    default_bulk_max_messages = 32
    default_enable_exactly_once_delivery = False

    @cached_property
    def queue_name_prefix(self) -> str:
        """What goes before the names of all subscriptions."""
        return self.transport_options.get("queue_name_prefix", "kombu-")

    @cached_property
    def wait_time_seconds(self) -> Any:
        """Seconds that a request waits for messages."""
        return self.transport_options.get("wait_time_seconds", self.default_wait_time_seconds)

    @cached_property
    def retry_timeout_seconds(self) -> Any:
        """Seconds that a request is tried again."""
        return self.transport_options.get(
            "retry_timeout_seconds", self.default_retry_timeout_seconds
        )

    @cached_property
    def ack_deadline_seconds(self) -> Any:
        """Seconds that a lease lasts."""
        return number_option(
            self.transport_options,
            "ack_deadline_seconds",
            self.default_ack_deadline_seconds,
            **LIMITS["ack_deadline_seconds"],
        )

    @cached_property
    def expiration_seconds(self) -> float:
        """Seconds after which an unused subscription is removed."""
        value = self.transport_options.get("expiration_seconds", self.default_expiration_seconds)
        try:
            return float(value)
        except (TypeError, ValueError):
            logger.warning(
                "transport option 'expiration_seconds' must be a number, got %r: %s is used",
                value,
                self.default_expiration_seconds,
            )
            return float(self.default_expiration_seconds)

    @cached_property
    def bulk_max_messages(self) -> Any:
        """How many messages a request takes at most."""
        return self.transport_options.get("bulk_max_messages", self.default_bulk_max_messages)

    @cached_property
    def enable_exactly_once_delivery(self) -> bool:
        """Whether subscriptions are made so."""
        return self.transport_options.get(
            "enable_exactly_once_delivery", self.default_enable_exactly_once_delivery
        )

    @cached_property
    def ack_modify_batch_size(self) -> int:
        """How many leases a request extends at most."""
        return number_option(
            self.transport_options,
            "ack_modify_batch_size",
            ACK_MODIFY_BATCH_SIZE,
            **LIMITS["ack_modify_batch_size"],
        )
