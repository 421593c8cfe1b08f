"""``pgmq://``: queues in PostgreSQL, by its extension pgmq.

It needs the client libraries pgmq and psycopg (``pip install kombu-rs[pgmq]``), and a URL such as
``pgmq://user:password@host:5432/database``.

A message is read with a visibility timeout, deleted when it is acknowledged, and visible again
when that did not happen in time. Topic and fanout exchanges are bindings of pgmq's own, below
``kombu.topic.EXCHANGE.`` and at ``kombu.fanout.EXCHANGE``; bindings to direct exchanges are known
to the connection that declared them.

Message properties: ``DelaySeconds`` (deliver so much later), ``MessageGroupId`` (for
``fifo_mode``). Queue arguments: ``x-pgmq-fifo-index``, ``x-pgmq-partitioned``,
``x-pgmq-partition-interval``, ``x-pgmq-retention-interval``.

Options in ``transport_options``:

=============================== =================================================================
``conn_string``                 connect with this instead of the URL
``queue_name_prefix``           put before the names of all queues
``visibility_timeout``          seconds; default 1800
``wait_time_seconds``           let the server wait for a message so long, while one queue is
                                consumed; 0: do not. Default 10. With several queues it does not
                                wait, or those would have to wait for each other.
``poll_interval_ms``            how often the server looks meanwhile; default 100
``polling_interval``            seconds between looks that found nothing; default 1
``init_extension``              create the extension if it is not there; default True
``pool_size``                   connections; default 10
``pool_timeout``                seconds to wait for one; default the driver's
``fifo_mode``                   ``grouped`` or ``round_robin``: messages of a group in order
``use_notify``                  be woken by the server between looks; default False. pgmq does
                                not tell of queues whose names have capital letters.
``notify_throttle_interval_ms`` how often at most; default 250
=============================== =================================================================
"""

from __future__ import annotations

import hashlib
import re
import string
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from queue import Empty
from time import monotonic, sleep
from typing import Any

from ..log import get_logger
from ..utils.encoding import safe_str
from ..utils.objects import cached_property
from ..utils.scheduling import FairCycle
from ..utils.url import safequote, sanitize_url
from . import virtual
from ._channels import NoAckQueues, QueuesWithoutBindings, WithOptions
from ._pgmq_notify import NotifyWaiter as _NotifyWaiter
from .virtual.exchange import STANDARD_EXCHANGE_TYPES, TopicExchange

try:
    import psycopg
    from pgmq import PGMQueue
except ImportError:  # the transport says so when it is used
    psycopg = PGMQueue = None

__all__ = ("Channel", "PGMQTopicExchange", "Transport")

logger = get_logger("kombu.transport.pgmq")

DEFAULT_PORT = 5432

#: How many messages are read at once.
PGMQ_MAX_MESSAGES = 10

#: Where bindings of fanout and of topic exchanges begin.
FANOUT_TOPIC_PREFIX = "kombu.fanout"
TOPIC_PREFIX = "kombu.topic"

PUNCTUATIONS_TO_REPLACE = frozenset(string.punctuation) - {"_"}
CHARS_REPLACE_TABLE = {ord(char): ord("_") for char in PUNCTUATIONS_TO_REPLACE}

#: The client's methods to read in order, by ``fifo_mode``.
FIFO_READ_METHODS = {"grouped": "read_grouped", "round_robin": "read_grouped_rr"}

# The header by which pgmq groups messages.
FIFO_GROUP_HEADER = "x-pgmq-group"

# pgmq's limit.
MAX_QUEUE_NAME = 47

# Characters of exchange names that are not in pgmq's routing keys.
EXCHANGE_ESCAPES = {"-": "--", ".": "-d-", "*": "-s-", "#": "-h-"}

MISSING = (
    "the transport 'pgmq' needs pgmq and psycopg: pip install 'kombu-rs[pgmq]' "
    "(the same libraries as: pip install kombu[pgmq])"
)

# What Kombu's transport notes about a message while it is delivered.
DELIVERY_INFO = ("pgmq_message", "pgmq_msg_id", "pgmq_queue")


def _whole(options: dict[str, Any], name: str, default: int) -> int:
    """An option as a whole number; what is empty is the default."""
    value = options.get(name)
    if value is None or value == "":
        return default
    try:
        return int(float(value))
    except (TypeError, ValueError, OverflowError):
        raise ValueError(f"transport option {name!r} must be a number, got {value!r}") from None


class PGMQTopicExchange(TopicExchange):
    """A topic exchange whose bindings the server knows."""

    def deliver(self, message: Any, exchange: str, routing_key: str, **kwargs: Any) -> None:
        """Have the server put a message into the queues that get it."""
        self.channel._put_topic(exchange, message, routing_key, **kwargs)


class Channel(NoAckQueues, QueuesWithoutBindings, WithOptions):
    """A channel on pgmq's queues."""

    supports_fanout = True

    exchange_types = {**STANDARD_EXCHANGE_TYPES, "topic": PGMQTopicExchange}  # noqa: RUF012

    default_visibility_timeout = 1800
    default_wait_time_seconds = 10
    default_init_extension = True
    default_pool_size = 10
    default_poll_interval_ms = 100
    default_notify_throttle_interval_ms = 250

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        if PGMQueue is None:
            raise ImportError(MISSING)
        super().__init__(*args, **kwargs)
        # Whose notifications were switched on here.
        self._notifying: set[str] = set()

    # Names

    def entity_name(self, name: str, table: dict[int, int] = CHARS_REPLACE_TABLE) -> str:
        """Return ``name`` as a name that pgmq takes.

        What would be too long for it ends in a digest of the whole.
        """
        entity = safe_str(name).translate(table)
        if len(entity) <= MAX_QUEUE_NAME:
            return entity
        digest = hashlib.sha256(name.encode("utf-8", "surrogatepass")).hexdigest()[:12]
        return f"{entity[: MAX_QUEUE_NAME - 13]}_{digest}"

    def canonical_queue_name(self, queue_name: str) -> str:
        """Return the name of a queue in pgmq, with the prefix."""
        return self.entity_name(self.queue_name_prefix + queue_name)

    def _queue_name(self, queue: str) -> str:
        return self.canonical_queue_name(queue)

    def _encode_exchange(self, exchange: str) -> str:
        """Return the name of an exchange as one word of a pgmq routing key."""

        def escape(char: str) -> str:
            if char == "_" or (char.isascii() and char.isalnum()):
                return char
            return EXCHANGE_ESCAPES.get(char) or f"-x{ord(char):02x}-"

        return "".join(map(escape, exchange)) or "_"

    def _fanout_topic_key(self, exchange: str) -> str:
        return f"{FANOUT_TOPIC_PREFIX}.{self._encode_exchange(exchange)}"

    def _topic_key(self, exchange: str, routing_key: str) -> str:
        return f"{TOPIC_PREFIX}.{self._encode_exchange(exchange)}.{routing_key}"

    def _binding(self, exchange: str, routing_key: str) -> str | None:
        """The pattern of a binding in pgmq; None for what it does not route."""
        kind = self.typeof(exchange).type
        if kind == "fanout":
            return self._fanout_topic_key(exchange)
        if kind == "topic" and routing_key:
            return self._topic_key(exchange, routing_key)
        return None

    @contextmanager
    def _existing(self, queue: str) -> Iterator[None]:
        """Tell of a missing table as of a missing queue."""
        try:
            yield
        except psycopg.errors.UndefinedTable:
            raise self._not_found("pgmq", "queue", queue) from None

    # Queues

    def _new_queue(self, queue: str, **kwargs: Any) -> None:
        name = self.canonical_queue_name(queue)
        arguments = kwargs.get("arguments") or {}
        if arguments.get("x-pgmq-partitioned"):
            self.pgmq.create_partitioned_queue(
                name,
                arguments.get("x-pgmq-partition-interval", 10000),
                arguments.get("x-pgmq-retention-interval", 100000),
            )
        else:
            self.pgmq.create_queue(name)
        if arguments.get("x-pgmq-fifo-index") or self.fifo_mode:
            self.pgmq.create_fifo_index(name)
        self._maybe_enable_notify(queue, name)

    def _maybe_enable_notify(self, queue: str, queue_name: str | None = None) -> None:
        """With the option ``use_notify`` have the server tell of messages in a queue."""
        if not self.use_notify:
            return
        name = queue_name or self.canonical_queue_name(queue)
        if name not in self._notifying:
            self.pgmq.enable_notify(name, throttle_interval_ms=self.notify_throttle_interval_ms)
            self._notifying.add(name)
        self.connection._register_notify_queue(name)

    def _has_queue(self, queue: str, **kwargs: Any) -> bool:
        name = self.canonical_queue_name(queue)
        return any(record.queue_name == name for record in self.pgmq.list_queues())

    def _delete(self, queue: str, *args: Any, **kwargs: Any) -> None:
        name = self.canonical_queue_name(queue)
        self._notifying.discard(name)
        self.pgmq.drop_queue(name)

    def _purge(self, queue: str) -> int:
        with self._existing(queue):
            return self.pgmq.purge(self.canonical_queue_name(queue))

    def _size(self, queue: str) -> int:
        with self._existing(queue):
            return self.pgmq.metrics(self.canonical_queue_name(queue)).queue_length

    # Bindings

    def _queue_bind(self, exchange: str, routing_key: str, pattern: Any, queue: str) -> None:
        binding = self._binding(exchange, routing_key)
        if binding is not None:
            self._new_queue(queue)
            self.pgmq.bind_topic(binding, self.canonical_queue_name(queue))

    def queue_unbind(
        self,
        queue: str,
        exchange: str | None = None,
        routing_key: str = "",
        arguments: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        """Remove a binding, also from the server."""
        super().queue_unbind(queue, exchange, routing_key, arguments, **kwargs)
        binding = exchange and self._binding(exchange, routing_key)
        if binding:
            self.pgmq.unbind_topic(binding, self.canonical_queue_name(queue))

    # Publishing

    def _pgmq_send_kwargs(self, message: dict[str, Any]) -> dict[str, Any]:
        """What to tell pgmq of a message besides the message: its headers and delay."""
        properties = message.get("properties") or {}
        headers = dict(message.get("headers") or {})
        if "MessageGroupId" in properties:
            headers["MessageGroupId"] = properties["MessageGroupId"]
            if self.fifo_mode:
                headers.setdefault(FIFO_GROUP_HEADER, str(properties["MessageGroupId"]))
        options: dict[str, Any] = {"headers": headers} if headers else {}
        try:
            delay = int(properties["DelaySeconds"])
        except (KeyError, TypeError, ValueError, OverflowError):
            delay = 0
        if delay > 0:
            options["delay"] = delay
        return options

    def _put(self, queue: str, message: dict[str, Any], **kwargs: Any) -> None:
        name = self.canonical_queue_name(queue)
        with self._existing(queue):
            self.pgmq.send(name, message, **self._pgmq_send_kwargs(message))

    def _put_fanout(
        self, exchange: str, message: dict[str, Any], routing_key: str, **kwargs: Any
    ) -> None:
        self._send_topic(self._fanout_topic_key(exchange), message)

    def _put_topic(
        self, exchange: str, message: dict[str, Any], routing_key: str, **kwargs: Any
    ) -> None:
        self._send_topic(self._topic_key(exchange, routing_key), message)

    def _send_topic(self, key: str, message: dict[str, Any]) -> None:
        options = self._pgmq_send_kwargs(message)
        if "headers" in options:
            # pgmq has no such function with headers alone.
            options.setdefault("delay", 0)
        self.pgmq.send_topic(key, message, **options)

    # Consuming

    def basic_consume(
        self, queue: str, no_ack: bool, callback: Any, consumer_tag: str, *args: Any, **kwargs: Any
    ) -> None:
        """Start a consumer."""
        self._maybe_enable_notify(queue)
        super().basic_consume(queue, no_ack, callback, consumer_tag, *args, **kwargs)

    def drain_events(
        self, timeout: float | None = None, callback: Any = None, **kwargs: Any
    ) -> Any:
        """Deliver messages of one queue.

        Raises:
            queue.Empty: there are none, or none may be delivered.
        """
        return super().drain_events(timeout=timeout, callback=callback)

    def _poll(self, cycle: Any, callback: Any, timeout: float | None = None) -> Any:
        return cycle.get(callback, timeout=timeout)

    def _reset_cycle(self) -> None:
        self._cycle = FairCycle(self._get_bulk, self._active_queues, Empty)

    def _normalize_messages(self, result: Any) -> list[Any]:
        """The client returns a message, several, or None."""
        if result is None:
            return []
        return list(result) if isinstance(result, (list, tuple)) else [result]

    def _fifo_read_method(self) -> str | None:
        return FIFO_READ_METHODS[self.fifo_mode] if self.fifo_mode else None

    def _receive_messages(
        self,
        queue: str,
        qty: int = 1,
        *,
        poll: bool = False,
        timeout: float | None = None,
        no_ack: bool = False,
    ) -> list[Any]:
        """Read messages of a queue.

        Arguments:
            queue: its name.
            qty: how many at most.
            poll: let the server wait for them.
            timeout: how long at most, in seconds.
            no_ack: delete them at once.
        """
        name = self.canonical_queue_name(queue)
        with self._existing(queue):
            if no_ack or queue in self._noack_queues:
                return self._normalize_messages(self.pgmq.pop(name, qty=qty))
            method = self._fifo_read_method() or "read"
            options = {"vt": self.visibility_timeout, "qty": qty}
            seconds = self.wait_time_seconds if poll else 0
            if timeout is not None:
                # The server waits for whole seconds.
                seconds = min(seconds, int(timeout))
            if seconds > 0:
                method += "_with_poll"
                options.update(max_poll_seconds=seconds, poll_interval_ms=self.poll_interval_ms)
            return self._normalize_messages(getattr(self.pgmq, method)(name, **options))

    def _pgmq_message_to_python(self, pgmq_message: Any, queue: str) -> dict[str, Any]:
        """Return what was published, with what is needed to acknowledge it."""
        payload = pgmq_message.message
        if queue not in self._noack_queues:
            payload["properties"].setdefault("delivery_info", {}).update(
                pgmq_queue=self.canonical_queue_name(queue),
                pgmq_msg_id=pgmq_message.msg_id,
                pgmq_message={"msg_id": pgmq_message.msg_id, "read_ct": pgmq_message.read_ct},
            )
        return payload

    def _pgmq_messages_to_python(self, messages: list[Any], queue: str) -> list[dict[str, Any]]:
        return [self._pgmq_message_to_python(message, queue) for message in messages]

    def _get_bulk(
        self,
        queue: str,
        callback: Any = None,
        timeout: float | None = None,
        max_if_unlimited: int = PGMQ_MAX_MESSAGES,
    ) -> None:
        """Deliver messages of a queue: as many as may be, and at most as are read at once.

        Arguments:
            queue: its name.
            callback: called with a message and the queue; default: the consumer.
            timeout: how long the server may wait for the first, in seconds.
            max_if_unlimited: how many without a limit.

        Raises:
            queue.Empty: there are none, or none may be delivered.
        """
        quantity = self._get_message_estimate(max_if_unlimited)
        messages = []
        if quantity > 0:
            poll = self.connection._polls_one_queue()
            messages = self._receive_messages(queue, quantity, poll=poll, timeout=timeout)
        if not messages:
            raise Empty()
        deliver = callback or self.connection._deliver
        delivered = 0
        try:
            for payload in self._pgmq_messages_to_python(messages, queue):
                delivered += 1
                deliver(payload, queue)
        finally:
            if delivered < len(messages) and queue not in self._noack_queues:
                # The consumer failed, and has not seen these: others may have them now.
                ids = [message.msg_id for message in messages[delivered:]]
                self.pgmq.set_vt(self.canonical_queue_name(queue), ids, 0)

    def _get(
        self, queue: str, timeout: float | None = None, no_ack: bool = False
    ) -> dict[str, Any]:
        """Take a message.

        Raises:
            queue.Empty: there is none.
        """
        messages = self._receive_messages(queue, 1, timeout=timeout, no_ack=no_ack)
        if not messages:
            raise Empty()
        return self._pgmq_message_to_python(messages[0], queue)

    def _get_message_estimate(self, max_if_unlimited: int = PGMQ_MAX_MESSAGES) -> int:
        """How many messages to read."""
        allowed = self.qos.can_consume_max_estimate()
        if allowed is None:
            return max_if_unlimited
        return min(allowed, PGMQ_MAX_MESSAGES)

    # Acknowledging

    def basic_ack(self, delivery_tag: Any, multiple: bool = False) -> None:
        """Acknowledge a delivery.

        Raises:
            NotImplementedError: ``multiple``.
        """
        if multiple:
            raise NotImplementedError("pgmq acknowledges one message at a time, not multiple")
        self._settle(delivery_tag, self.pgmq.delete)
        super().basic_ack(delivery_tag)

    def basic_reject(self, delivery_tag: Any, requeue: bool = False) -> None:
        """Reject a delivery; with ``requeue`` it is visible again at once."""
        try:
            self.qos.get(delivery_tag)
        except KeyError:
            super().basic_reject(delivery_tag, requeue=requeue)
            return
        self._settle(delivery_tag, self._show if requeue else self.pgmq.delete)
        self.qos.ack(delivery_tag)

    def _settle(self, delivery_tag: Any, how: Any) -> None:
        """Call ``how`` with the queue and the id of a delivered message."""
        try:
            info = self.qos.get(delivery_tag).delivery_info
        except KeyError:
            return
        if "pgmq_msg_id" in info:
            # A queue that was deleted has no message to settle.
            with suppress(psycopg.errors.UndefinedTable):
                how(info["pgmq_queue"], info["pgmq_msg_id"])

    def _show(self, name: str, msg_id: int) -> None:
        self.pgmq.set_vt(name, msg_id, 0)

    def _restore(
        self, message: Any, unwanted_delivery_info: tuple[str, ...] = DELIVERY_INFO
    ) -> None:
        info = message.delivery_info
        if "pgmq_msg_id" in info:
            with suppress(psycopg.errors.UndefinedTable):
                self._show(info["pgmq_queue"], info["pgmq_msg_id"])
            return
        for name in unwanted_delivery_info:
            info.pop(name, None)
        super()._restore(message)

    # Settings

    @property
    def pgmq(self) -> Any:
        """pgmq's client."""
        return self.connection._get_pgmq_client()

    @cached_property
    def queue_name_prefix(self) -> str:
        """Put before the names of all queues."""
        return self.transport_options.get("queue_name_prefix") or ""

    @cached_property
    def visibility_timeout(self) -> int:
        """Seconds that a message is invisible after it was read."""
        default = self.default_visibility_timeout
        return _whole(self.transport_options, "visibility_timeout", default)

    @cached_property
    def wait_time_seconds(self) -> int:
        """Seconds that the server waits for a message."""
        options = self.transport_options
        legacy = _whole(options, "max_poll_seconds", self.default_wait_time_seconds)
        return _whole(options, "wait_time_seconds", legacy)

    @cached_property
    def init_extension(self) -> bool:
        """Whether to create the extension."""
        return self.transport_options.get("init_extension", self.default_init_extension)

    @cached_property
    def pool_size(self) -> int:
        """How many connections to the server there may be."""
        return _whole(self.transport_options, "pool_size", self.default_pool_size)

    @cached_property
    def poll_interval_ms(self) -> int:
        """How often the server looks while it waits."""
        return _whole(self.transport_options, "poll_interval_ms", self.default_poll_interval_ms)

    @cached_property
    def fifo_mode(self) -> str | None:
        """How to keep the order within groups, if at all.

        Raises:
            ValueError: there is no such way.
        """
        mode = self.transport_options.get("fifo_mode")
        if mode is not None and mode not in FIFO_READ_METHODS:
            raise ValueError(
                f"Invalid fifo_mode {mode!r}; expected one of {sorted(FIFO_READ_METHODS)}"
            )
        return mode

    @cached_property
    def use_notify(self) -> bool:
        """Whether the server tells of messages."""
        return bool(self.transport_options.get("use_notify"))

    @cached_property
    def notify_throttle_interval_ms(self) -> int:
        """How often at most it does."""
        default = self.default_notify_throttle_interval_ms
        return _whole(self.transport_options, "notify_throttle_interval_ms", default)


class Transport(virtual.Transport):
    """A transport over pgmq.

    Raises:
        ImportError: pgmq or psycopg is not installed.
    """

    Channel = Channel

    implements = virtual.Transport.implements.extend(
        exchange_type=frozenset(["direct", "topic", "fanout"]),
    )

    can_parse_url = False
    default_port = DEFAULT_PORT
    driver_type = "pgmq"
    driver_name = "pgmq"
    connection_errors = virtual.Transport.connection_errors + (
        (psycopg.OperationalError, psycopg.InterfaceError) if psycopg else ()
    )

    def __init__(self, client: Any, **kwargs: Any) -> None:
        if PGMQueue is None:
            raise ImportError(MISSING)
        super().__init__(client, **kwargs)
        self._pgmq_client: Any = None
        self._notify_waiter: Any = None

    # Connecting

    def _get_pgmq_client(self) -> Any:
        """pgmq's client, made when it is first needed."""
        if self._pgmq_client is None:
            self._pgmq_client = self._create_pgmq_client()
        return self._pgmq_client

    def _create_pgmq_client(self) -> Any:
        # Nothing for users to mind: what it returns is used rightly here.
        warnings.filterwarnings("ignore", r"list_queues\(\) now returns", UserWarning)
        client, options = self.client, self.client.transport_options or {}
        channel = self.Channel
        if options.get("conn_string"):
            where = {"conn_string": options["conn_string"]}
        else:
            where = {
                "host": _libpq(client.hostname or "localhost"),
                "port": str(client.port or self.default_port),
                "database": _libpq((client.virtual_host or "").strip("/") or "postgres"),
                "username": _libpq(client.userid or "postgres"),
                "password": _libpq(client.password or ""),
            }
        pgmq = PGMQueue(
            **where,
            vt=_whole(options, "visibility_timeout", channel.default_visibility_timeout),
            init_extension=False,  # after the timeout below has been set
            pool_size=_whole(options, "pool_size", channel.default_pool_size),
        )
        try:
            self._apply_pool_timeout(pgmq, options)
            if options.get("init_extension", channel.default_init_extension):
                pgmq._init_extensions()
        except BaseException:
            pgmq.close()
            raise
        return pgmq

    def _apply_pool_timeout(self, client: Any, transport_options: dict[str, Any]) -> None:
        timeout = transport_options.get("pool_timeout")
        if timeout is not None and timeout != "":
            try:
                client.pool.timeout = float(timeout)
            except (TypeError, ValueError):
                raise ValueError(
                    f"transport option 'pool_timeout' must be a number, got {timeout!r}"
                ) from None

    def establish_connection(self) -> Any:
        """Connect."""
        self._get_pgmq_client().list_queues()
        return super().establish_connection()

    def close_connection(self, connection: Any) -> None:
        """Close all channels, then the connections to the server."""
        try:
            super().close_connection(connection)
        finally:
            waiter, self._notify_waiter = self._notify_waiter, None
            client, self._pgmq_client = self._pgmq_client, None
            if waiter is not None:
                waiter.close()
            if hasattr(client, "close"):
                client.close()
            elif client is not None and client.pool is not None:
                client.pool.close()

    def verify_connection(self, connection: Any) -> bool:
        """Whether the server answers."""
        try:
            self._get_pgmq_client().list_queues()
        except Exception as exc:
            logger.debug("the server does not answer: %s", exc)
            return False
        return True

    # Waiting

    def _register_notify_queue(self, queue_name: str) -> None:
        if self.client.transport_options.get("use_notify"):
            self._get_notify_waiter().register(queue_name)

    def _get_notify_waiter(self) -> _NotifyWaiter:
        if self._notify_waiter is None:
            self._notify_waiter = _NotifyWaiter(self._get_pgmq_client().config.dsn)
        return self._notify_waiter

    def _polls_one_queue(self) -> bool:
        """Whether the server may wait for a message: no other queue waits meanwhile."""
        return len(self._callbacks) <= 1

    def drain_events(  # type: ignore[override]
        self, connection: Any, timeout: float | None = None
    ) -> None:
        """Deliver messages of one queue, waiting for them.

        Raises:
            socket.timeout: none came in time.
        """
        started = monotonic()
        while True:
            try:
                self.cycle.get(self._deliver, timeout=timeout)
                return
            except Empty:
                if timeout is not None and monotonic() - started >= timeout:
                    raise TimeoutError() from None
            pause = self.polling_interval
            if pause is None:
                continue
            if timeout is not None:
                pause = min(pause, timeout - (monotonic() - started))
                if pause <= 0:
                    raise TimeoutError()
            self._pause(pause)

    def _pause(self, seconds: float) -> None:
        """Wait, or until the server tells of a message."""
        if self._notify_waiter is None:
            sleep(seconds)
            return
        started = monotonic()
        if not self._notify_waiter.wait(seconds):
            # It returns early when it cannot listen.
            sleep(max(seconds - (monotonic() - started), 0))

    def driver_version(self) -> str:
        """Version of pgmq's client."""
        import pgmq

        return getattr(pgmq, "__version__", "Unknown")

    @classmethod
    def as_uri(cls, uri: str, include_password: bool = False, mask: str = "**") -> str:
        """Return ``uri``, by default with the password masked."""
        if include_password or "://" not in uri:
            return uri
        return sanitize_url(uri, mask=safequote(mask))


def _libpq(value: str) -> str:
    """Quote a value for a connection string, which the client puts together from it."""
    if re.search(r"[\s'\\]", value):
        escaped = re.sub(r"(['\\])", r"\\\1", value)
        return f"'{escaped}'"
    return value
