"""What a channel reads from the URL and the transport options."""

from __future__ import annotations

import string
from typing import Any

from ...utils.encoding import safe_str
from ...utils.objects import cached_property
from .. import virtual
from . import _sdk

__all__ = ("CHARS_REPLACE_TABLE", "SQS_MAX_MESSAGES", "Settings", "maybe_int")

#: How the characters are replaced that a queue's name may not have.
CHARS_REPLACE_TABLE = {ord(char): ord("_") for char in string.punctuation if char not in "-_."}
CHARS_REPLACE_TABLE[ord(".")] = ord("-")

#: Most messages that SQS returns at once.
SQS_MAX_MESSAGES = 10

#: Most seconds that SQS waits for a message.
SQS_MAX_WAIT_TIME = 20

#: What the names of FIFO queues and topics end with.
FIFO_SUFFIX = ".fifo"

# Without it the number of deliveries would not be known, which the backoff policy counts with.
RECEIVE_COUNT = "ApproximateReceiveCount"


def maybe_int(x: Any) -> Any:
    """Return ``x`` as an integer; as it is if it is none."""
    try:
        return int(x)
    except (TypeError, ValueError):
        return x


def _attribute_names(names: Any) -> list[str]:
    """Return names in order, once each; ``ALL`` instead if that is among them."""
    if not isinstance(names, list):
        return []
    if any(str(name).upper() == "ALL" for name in names):
        return ["ALL"]
    return sorted(set(names))


class Settings(virtual.Channel):
    """The settings of a channel; see the package for what each option is."""

    default_region = "us-east-1"
    #: Seconds.
    default_visibility_timeout = 1800
    #: Seconds.
    default_wait_time_seconds = 10
    domain_format = "kombu%(vhost)s"

    # Also after close(), when `connection` is None: messages are acknowledged even then.
    _transport: Any

    def __init__(self, connection: Any, **kwargs: Any) -> None:
        self._transport = connection
        super().__init__(connection, **kwargs)

    @property
    def conninfo(self) -> Any:
        """The :class:`~kombu_rs.Connection`."""
        return self._transport.client

    @property
    def transport_options(self) -> dict[str, Any]:
        """The connection's transport options."""
        return self._transport.client.transport_options

    def _dictionary(self, name: str) -> dict[str, Any]:
        value = self.transport_options.get(name) or {}
        if not isinstance(value, dict):
            # Without the value: there may be credentials in it.
            raise ValueError(
                f"transport option {name} must be a dictionary, got {type(value).__name__}"
            )
        return value

    # Queues

    @cached_property
    def queue_name_prefix(self) -> str:
        """Begins the name of each queue and topic in AWS."""
        return self.transport_options.get("queue_name_prefix", "")

    @cached_property
    def predefined_queues(self) -> dict[str, Any]:
        """Settings of queues that are not to be created, by name."""
        return self._dictionary("predefined_queues")

    @cached_property
    def predefined_exchanges(self) -> dict[str, Any]:
        """Settings of topics that are not to be created, by exchange."""
        return self._dictionary("predefined_exchanges")

    @cached_property
    def supports_fanout(self) -> bool:
        """Whether fanout exchanges are SNS topics; without that they deliver nothing."""
        return bool(self.transport_options.get("supports_fanout", False))

    @cached_property
    def visibility_timeout(self) -> Any:
        """Seconds after which an unacknowledged message is delivered again; of new queues."""
        value = self.transport_options.get("visibility_timeout")
        return self.default_visibility_timeout if value is None else value

    @cached_property
    def wait_time_seconds(self) -> int:
        """Seconds that SQS waits for a message before it says that there is none; 0 to 20."""
        value = self.transport_options.get("wait_time_seconds", self.default_wait_time_seconds)
        seconds = maybe_int(value)
        if not isinstance(seconds, int) or not 0 <= seconds <= SQS_MAX_WAIT_TIME:
            raise ValueError(
                "transport option wait_time_seconds must be a number from 0 to "
                f"{SQS_MAX_WAIT_TIME}, got {value!r}"
            )
        return seconds

    @cached_property
    def sqs_base64_encoding(self) -> bool:
        """Whether bodies are sent in Base64."""
        return self.transport_options.get("sqs_base64_encoding", True)

    @cached_property
    def fetch_message_attributes(self) -> Any:
        """Which attributes to get with each message, as the option says it."""
        return self.transport_options.get("fetch_message_attributes")

    @property
    def get_message_attributes(self) -> dict[str, list[str]]:
        """Which attributes to get with each message, as SQS is asked for them."""
        wanted = self.fetch_message_attributes
        if not isinstance(wanted, dict):
            wanted = {"MessageSystemAttributeNames": wanted}
        system = _attribute_names(wanted.get("MessageSystemAttributeNames"))
        if system != ["ALL"]:
            system = sorted({*system, RECEIVE_COUNT})
        return {
            "MessageAttributeNames": _attribute_names(wanted.get("MessageAttributeNames")),
            "MessageSystemAttributeNames": system,
        }

    def entity_name(self, name: str, table: dict[int, int] = CHARS_REPLACE_TABLE) -> str:
        """Return the name of a queue or exchange as AWS takes it."""
        name = safe_str(name)
        if name.endswith(FIFO_SUFFIX):
            return name[: -len(FIFO_SUFFIX)].translate(table) + FIFO_SUFFIX
        return name.translate(table)

    def canonical_queue_name(self, queue_name: str) -> str:
        """Return a queue's name in AWS: legal, with the prefix."""
        return self.entity_name(self.queue_name_prefix + queue_name)

    # Servers

    @cached_property
    def region(self) -> str:
        """The region: the option's, boto3's, or :attr:`default_region`."""
        return (
            self.transport_options.get("region")
            or _sdk.boto3.Session().region_name
            or self.default_region
        )

    @cached_property
    def regioninfo(self) -> Any:
        """The option of that name."""
        return self.transport_options.get("regioninfo")

    @cached_property
    def is_secure(self) -> bool | None:
        """Whether to use TLS where the URL names a host."""
        return self.transport_options.get("is_secure")

    @cached_property
    def port(self) -> int | None:
        """The option of that name; the URL's port is what counts."""
        return self.transport_options.get("port")

    @cached_property
    def endpoint_url(self) -> str | None:
        """Where to send requests: the option's, the URL's host; None for AWS."""
        explicit = self.transport_options.get("endpoint_url")
        if explicit is not None:
            return explicit
        host = self.conninfo.hostname
        if not host:
            return None
        port = self.conninfo.port
        scheme = "https" if self.is_secure else "http"
        return f"{scheme}://{host}" if port is None else f"{scheme}://{host}:{port}"
