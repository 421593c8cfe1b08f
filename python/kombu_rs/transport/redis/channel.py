"""A channel on Redis lists."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress

from ..._typing import Any
from ...exceptions import VersionMismatch
from ...utils.objects import cached_property
from ...utils.scheduling import cycle_by_name
from ...utils.uuid import uuid
from .. import native, native_virtual, virtual
from ..base import to_rabbitmq_queue_arguments
from . import hooks, parameters
from .qos import QoS

__all__ = ("Channel",)

#: Kombu's priority steps: a message's priority is rounded down to one of them.
PRIORITY_STEPS = [0, 3, 6, 9]

# The values of `queue_order_strategy`.
_QUEUE_ORDERS = ("round_robin", "priority", "sorted")

# The oldest redis-py that `Channel.client` is tested with.
_OLDEST_CLIENT = (6, 1, 0)


class _FromRedisPy:
    """A class attribute that is a class of redis-py; None where that is not installed.

    Arguments:
        module, name: where the class is.
    """

    def __init__(self, module: str, name: str) -> None:
        self._where = module, name

    def __get__(self, obj: Any, owner: type | None = None) -> Any:
        module, name = self._where
        try:
            return getattr(__import__(module, fromlist=[name]), name)
        except ImportError:
            return None


_UNIX = _FromRedisPy("redis", "UnixDomainSocketConnection")


class Channel(native_virtual.Channel):
    """A channel on Redis lists.

    The native core moves the messages. The attributes below are its settings, and may be set in a
    subclass or, if :attr:`from_transport_options` names them, as transport options. They are the
    same for all channels of a connection, and are read when it is made.

    ``channel.client`` is a client of redis-py, for commands of the program's own. Nothing here
    needs it.
    """

    QoS = QoS

    #: Between the name of a queue and a priority, and between the parts of a binding.
    sep = "\x06\x16"
    #: Keep messages until they are acknowledged.
    ack_emulation = True
    #: The hash of unacknowledged messages.
    unacked_key = "unacked"
    #: The sorted set that says since when they are.
    unacked_index_key = "unacked_index"
    #: The lock of the worker that restores messages: one at a time, stock workers included.
    unacked_mutex_key = "unacked_mutex"
    #: Seconds for which stock workers take that lock. After 5 of them ours go on without it.
    unacked_mutex_expire = 300
    #: Seconds after which an unacknowledged message is given to somebody else, if its worker is
    #: gone; with :attr:`renew_leases` switched off, in any case, as in Kombu.
    visibility_timeout: float = 3600
    #: Renew the claims of a living worker, so that its messages stay with it. Not in Kombu.
    renew_leases = True
    #: A message is delivered so many times at most; None for as many as it takes. Not in Kombu.
    delivery_limit: int | None = None
    #: Where messages go that were delivered too often: a queue, ``{queue}`` in it stands for the
    #: one that they come from. None for ``{queue}.dead``. Needs :attr:`delivery_limit`. Nothing to
    #: do with Kombu's ``deadletter_queue``, which gets what no queue is bound for.
    dead_letter_queue: str | None = None
    #: How many of them at a time; None for all.
    unacked_restore_limit: int | None = None
    #: Seconds between looks for them.
    unacked_restore_interval: float = 10
    #: Kombu looks each so many intervals only; the core looks every time.
    unacked_restore_throttle = 10
    #: Before the channels of fanout exchanges: True for :attr:`keyprefix_fanout`, False for
    #: nothing, or a text.
    fanout_prefix: bool | str = True
    #: Fanout exchanges take the routing key into account.
    fanout_patterns = True
    #: Before every key and channel.
    global_keyprefix = ""
    #: In which order queues are asked: ``round_robin``, ``priority`` (as they were consumed from)
    #: or ``sorted``.
    queue_order_strategy = "round_robin"
    #: The set of an exchange's bindings.
    keyprefix_queue = "_kombu.binding.%s"
    #: Those of them that do not expire.
    keyprefix_binding_permanent = "_kombu.binding_permanent.%s"
    #: Until when the others are kept.
    keyprefix_binding_deadlines = "_kombu.binding_deadlines"
    #: Before the channels of fanout exchanges; ``{db}`` is the number of the database.
    keyprefix_fanout = "/{db}."
    #: Priorities that have lists of their own; a message's is rounded down to one of them.
    priority_steps = PRIORITY_STEPS

    #: Seconds that a reply may take; None for the core's 15.
    socket_timeout: float | None = None
    #: Seconds that connecting may take; None for the connection's ``connect_timeout``.
    socket_connect_timeout: float | None = None
    #: Whether to send TCP keepalives; None for yes.
    socket_keepalive: bool | None = None
    #: ``TCP_KEEPIDLE`` and so on, by name or number.
    socket_keepalive_options: dict[str, Any] | None = None
    #: Most connections of :attr:`client`. Another number, or one that is given as a transport
    #: option or in the URL, is also how many links to the server the whole process may have.
    max_connections: int | None = 10
    #: After so many seconds of silence a connection is asked for a sign of life; 0: never. Where
    #: the core waits for messages it is 2 at most.
    health_check_interval: float = 25
    #: Whether :attr:`client` tries again after a timeout. The core does not; but as it may be
    #: meant for publishing, batches are off then, as in Kombu.
    retry_on_timeout: Any = None
    #: How the server lists the connection.
    client_name: str | None = None

    #: redis-py's class of connections, for :attr:`client`.
    connection_class: Any = _FromRedisPy("redis", "Connection")
    #: The same with TLS.
    connection_class_ssl: Any = _FromRedisPy("redis", "SSLConnection")

    #: Transport options that set attributes.
    from_transport_options: tuple[str, ...] = (
        "body_encoding",
        "deadletter_queue",
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
        "unacked_restore_limit",
        "unacked_restore_interval",
        "unacked_restore_throttle",
        "fanout_prefix",
        "fanout_patterns",
        "global_keyprefix",
        "socket_timeout",
        "socket_connect_timeout",
        "socket_keepalive",
        "socket_keepalive_options",
        "queue_order_strategy",
        "max_connections",
        "health_check_interval",
        "retry_on_timeout",
        "priority_steps",
        "client_name",
    )

    # Our own methods, to tell whether a subclass has others.
    _ours: dict[str, Any]
    _opened = False
    _pool: Any = None
    _async_pool: Any = None

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        transport = self.connection
        #: Queues that go with their last consumer.
        self.auto_delete_queues: set[str] = set()
        #: Queues bound to fanout exchanges that are consumed from.
        self.active_fanout_queues: set[str] = set()
        # Exchange and pattern of each queue bound to a fanout exchange, and the way back.
        self._fanout_queues: dict[str, tuple[str, str]] = {}
        self._fanout_to_queue: dict[str, str] = {}
        # Milliseconds after which a queue expires.
        self._expires: dict[str, int] = {}
        self._restore_calls = 0
        try:
            self._read_options()
            self._queue_cycle = self._cycle_class()()
            transport._set_up(self)
        except BaseException:
            transport._forget_channel(self)
            raise
        self._opened = True

    def _read_options(self) -> None:
        if not self.ack_emulation:
            # For Kombu's eyes; the core keeps no claims then. Not as if somebody replaced it.
            vars(self)["QoS"] = virtual.QoS
        if isinstance(self.fanout_prefix, str):
            self.keyprefix_fanout = self.fanout_prefix
        elif not self.fanout_prefix:
            self.keyprefix_fanout = ""

    def _cycle_class(self) -> Any:
        strategy = self.queue_order_strategy
        if strategy not in _QUEUE_ORDERS:
            raise ValueError(
                f"queue_order_strategy must be one of {', '.join(_QUEUE_ORDERS)}, "
                f"got {strategy!r}: the native core knows no other"
            )
        return cycle_by_name(strategy)

    def _on_replaced(self, name: str) -> None:
        if name in native_virtual.CONSUMING:
            hooks.refuse(self, [name])
        super()._on_replaced(name)

    def __setattr__(self, name: str, value: Any) -> None:
        if name in hooks.FIXED and self._opened and value != getattr(self, name, value):
            raise AttributeError(
                f"{name} is a setting of the native core and was read when the connection was "
                f"made: set it as a transport option or in a subclass of Channel"
            )
        super().__setattr__(name, value)

    # -- how to connect

    def _native_parameters(self) -> tuple[str, dict[str, Any]]:
        """URL and options of the core. Hooks of a subclass are asked; redis-py is not needed."""
        hooks.refuse_replaced(self, self._ours)
        client = self.connection.client
        if self._pool_is_replaced():
            url, options = parameters.from_pool(self.pool)
        else:
            named, secure = self._own_parameters()
            url, options = parameters.endpoint(named, secure)
        options.update(parameters.url_options(client))
        timeout = getattr(client, "connect_timeout", None)
        if timeout:
            options.setdefault("socket_connect_timeout", timeout)
        if "max_connections" in (client.transport_options or {}) or (
            self.max_connections != Channel.max_connections
        ):
            options["max_connections"] = self.max_connections
        options.update(hooks.native_options(self))
        return url, options

    def _pool_is_replaced(self) -> bool:
        return hooks.is_replaced(self, self._ours, "_get_pool")

    def _credentials(self) -> tuple[str | None, str | None] | None:
        """User and password as they are now, or None where they never change."""
        if self._pool_is_replaced():
            named = self.pool.connection_kwargs
        else:
            named, _ = self._own_parameters()
        if named.get("credential_provider") is None and not callable(
            self.connection.client.password
        ):
            return None
        return parameters.credentials(named)

    def _own_parameters(self) -> tuple[dict[str, Any], bool]:
        """How to connect, in the words of redis-py, and whether it is with TLS."""
        secure = self._is_secure()
        if hooks.is_replaced(self, self._ours, "_connparams"):
            named = self._connparams()
            secure = parameters.is_secure(named.get("connection_class")) or secure
        else:
            own = "connection_class_ssl" if secure else "connection_class"
            found = next(vars(c)[own] for c in type(self).__mro__ if own in vars(c))
            if not isinstance(found, _FromRedisPy):
                parameters.is_secure(getattr(self, own))  # refuses what we cannot have
            named = parameters.connection_parameters(self)
        parameters.refuse_unknown(named, parameters.url_options(self.connection.client))
        self._fill_in_database(named.get("db"))
        return named, secure

    def _is_secure(self) -> bool:
        client = self.connection.client
        return bool(client.ssl) or getattr(client, "transport_cls", None) == "rediss"

    def _fill_in_database(self, db: Any) -> None:
        if not self._opened:
            self.keyprefix_fanout = self.keyprefix_fanout.replace("{db}", str(db or 0))

    def _connparams(self, asynchronous: bool = False) -> dict[str, Any]:
        """How to connect, as redis-py's connections take it. A subclass may change it.

        Arguments:
            asynchronous: Kombu's; the same here.
        """
        named = parameters.connection_parameters(self)
        if "path" in named:
            named["connection_class"] = _UNIX.__get__(None)
        else:
            secure = self._is_secure()
            named["connection_class"] = (
                self.connection_class_ssl if secure else self.connection_class
            )
        return named

    def _prepare_virtual_host(self, vhost: Any) -> int:
        return parameters.database(vhost)

    def _process_credential_provider(
        self, credential_provider: Any, connparams: dict[str, Any]
    ) -> None:
        """Put a credential provider in the place of user and password.

        Raises:
            ImportError: it, or redis-py, is not there.
            ValueError: it is not a ``redis.CredentialProvider``.
        """
        from . import CredentialProvider

        provider = parameters.resolve_provider(credential_provider, CredentialProvider)
        connparams.pop("username", None)
        connparams.pop("password", None)
        connparams["credential_provider"] = provider

    # -- a client of redis-py

    def _get_client(self) -> Any:
        """The class of :attr:`client`.

        Raises:
            ImportError: redis-py is not installed.
            VersionMismatch: it is too old.
        """
        redis = _redis_py()
        if redis.VERSION < _OLDEST_CLIENT:
            wanted = ".".join(map(str, _OLDEST_CLIENT))
            raise VersionMismatch(
                f"channel.client needs redis-py {wanted} or later, installed is "
                f"{redis.__version__}: pip install -U redis"
            )
        if self.global_keyprefix:
            from functools import partial

            from .prefixed import PrefixedStrictRedis

            return partial(PrefixedStrictRedis, global_keyprefix=self.global_keyprefix)
        return redis.Redis

    def _get_response_error(self) -> type[Exception]:
        """The error for commands that the server refuses."""
        _redis_py()
        from redis.exceptions import ResponseError

        return ResponseError

    @cached_property
    def Client(self) -> Any:
        """The class of :attr:`client`."""
        return self._get_client()

    @cached_property
    def ResponseError(self) -> type[Exception]:
        """The error for commands that the server refuses."""
        return self._get_response_error()

    def _get_pool(self, asynchronous: bool = False) -> Any:
        """A pool of connections for :attr:`client`. A subclass may return its own: then the core
        connects to where that would."""
        named = self._connparams(asynchronous=asynchronous)
        self._fill_in_database(named.get("db"))
        return _redis_py().ConnectionPool(**named)

    @property
    def pool(self) -> Any:
        """The connections of redis-py."""
        if self._pool is None:
            self._pool = self._get_pool()
        return self._pool

    @property
    def async_pool(self) -> Any:
        """The connections of :attr:`client`."""
        if self._async_pool is None:
            self._async_pool = self._get_pool(asynchronous=True)
        return self._async_pool

    def _create_client(self, asynchronous: bool = False) -> Any:
        return self.Client(connection_pool=self.async_pool if asynchronous else self.pool)

    @cached_property
    def client(self) -> Any:
        """A client of redis-py on the same database, for commands of the program's own."""
        return self._create_client(asynchronous=True)

    @cached_property
    def subclient(self) -> Any:
        """An object of redis-py for subscriptions of the program's own."""
        return self._create_client(asynchronous=True).pubsub()

    @contextmanager
    def conn_or_acquire(self, client: Any = None) -> Iterator[Any]:
        """``client``, or a client of redis-py, for the time of a ``with`` block."""
        yield client or self._create_client()

    def _has_own_client(self) -> bool:
        return any(
            hooks.is_replaced(self, self._ours, name)
            for name in ("_get_client", "_create_client", "client")
        )

    def _disconnect_pools(self) -> None:
        pools = self._pool, self._async_pool
        self._pool = self._async_pool = None
        for pool in pools:
            if pool is not None:
                pool.disconnect()

    def _close_clients(self) -> None:
        for name in ("client", "subclient"):
            close = getattr(vars(self).pop(name, None), "close", None)
            if close is not None:
                with suppress(Exception):  # whatever it has: it is given up
                    close()

    # -- names of keys

    def priority(self, n: int) -> int:
        """The step that a priority is rounded down to."""
        below = [step for step in self.priority_steps if step <= n]
        return max(below) if below else self.priority_steps[-1]

    def _q_for_pri(self, queue: str, pri: int) -> str:
        step = self.priority(pri)
        return f"{queue}{self.sep}{step}" if step else queue

    def _get_publish_topic(self, exchange: str, routing_key: str) -> str:
        if routing_key and self.fanout_patterns:
            return f"{self.keyprefix_fanout}{exchange}/{routing_key}"
        return f"{self.keyprefix_fanout}{exchange}"

    def _get_publish_topics(self, exchange: str, routing_key: str) -> list[str]:
        return [self._get_publish_topic(exchange, routing_key)]

    def _get_subscribe_topic(self, queue: str) -> str:
        exchange, routing_key = self._fanout_queues[queue]
        return self._get_publish_topic(exchange, routing_key)

    def _get_subscribe_topics(self, queue: str) -> list[str]:
        exchange, routing_key = self._fanout_queues[queue]
        return self._get_publish_topics(exchange, routing_key)

    def _next_delivery_tag(self) -> str:
        return uuid()

    # -- queues

    def get_table(self, exchange: str) -> list[Any]:
        """The bindings of an exchange, of all workers: routing key, pattern and queue."""
        prepare = self.typeof(exchange).prepare_bind
        return [
            prepare(queue, exchange, routing_key, arguments)
            for queue, routing_key, arguments in self._store.bindings(exchange)
        ]

    def queue_declare(self, queue: str | None = None, passive: bool = False, **kwargs: Any) -> Any:
        """Declare a queue; see :meth:`kombu_rs.transport.native.Channel.queue_declare`."""
        if self._has_own(native_virtual.KEEPING):
            return virtual.Channel.queue_declare(self, queue, passive, **kwargs)
        declared = native.Channel.queue_declare(self, queue, passive, **kwargs)
        if not passive:
            self._note_queue(declared.queue, **kwargs)
        return declared

    def _new_queue(self, queue: str, auto_delete: bool = False, **kwargs: Any) -> None:
        """Declare a queue."""
        self._queue_declare(queue, False, auto_delete=auto_delete, **kwargs)
        self._note_queue(queue, auto_delete, **kwargs)

    def _note_queue(self, queue: str, auto_delete: bool = False, **kwargs: Any) -> None:
        if auto_delete:
            self.auto_delete_queues.add(queue)
        expires = self._get_queue_expire(kwargs)
        if expires is not None:
            self._expires[queue] = expires

    def _get_queue_expire(self, args: dict[str, Any] | None) -> int | None:
        """Milliseconds after which a queue expires, from how it is declared; None for never."""
        try:
            return int(args["arguments"]["x-expires"])  # type: ignore[index]
        except (KeyError, TypeError, ValueError):
            return None

    def _binding_ttl(self, queue: str) -> int:
        """Milliseconds for which the bindings of an expiring queue are kept."""
        from . import BINDING_EXPIRES_FACTOR, MIN_BINDING_TTL

        return max(self._expires[queue] * BINDING_EXPIRES_FACTOR, MIN_BINDING_TTL)

    def _queue_bind(self, exchange: str, *meta: Any) -> None:
        """Note a binding to a fanout exchange."""
        routing_key, _, queue = meta
        if self.typeof(exchange).type == "fanout":
            self._fanout_queues[queue] = (exchange, (routing_key or "").replace("#", "*"))

    def queue_delete(
        self, queue: str, if_unused: bool = False, if_empty: bool = False, **kwargs: Any
    ) -> Any:
        """Delete a queue; returns how many messages went with it."""
        count = super().queue_delete(queue, if_unused, if_empty, **kwargs)
        self.auto_delete_queues.discard(queue)
        self._expires.pop(queue, None)
        exchange, _ = self._fanout_queues.pop(queue, ("", ""))
        if self._fanout_to_queue.get(exchange) == queue:
            del self._fanout_to_queue[exchange]
        return count

    def basic_consume(  # type: ignore[override]
        self,
        queue: str,
        no_ack: bool | None = False,
        callback: Any = None,
        consumer_tag: Any = None,
        *args: Any,
        **kwargs: Any,
    ) -> str:
        """Consume from a queue: ``callback(message)`` is called for each message."""
        if queue in self._fanout_queues:
            exchange, _ = self._fanout_queues[queue]
            self.active_fanout_queues.add(queue)
            self._fanout_to_queue[exchange] = queue
            self.connection._subscribed()
        tag = super().basic_consume(queue, no_ack, callback, consumer_tag, *args, **kwargs)
        self._update_queue_cycle()
        return tag

    def basic_cancel(self, consumer_tag: Any, **kwargs: Any) -> None:
        """Stop consuming. Messages that were fetched ahead go back to the queue."""
        super().basic_cancel(str(consumer_tag), **kwargs)
        self.active_fanout_queues.intersection_update(self._active_queues)
        self._update_queue_cycle()

    @property
    def active_queues(self) -> list[str]:
        """Queues that are consumed from, those of fanout exchanges not counted."""
        queues = dict.fromkeys(self._active_queues)  # several consumers may have the same
        return [queue for queue in queues if queue not in self.active_fanout_queues]

    def _update_queue_cycle(self) -> None:
        self._queue_cycle.update(self.active_queues)

    def prepare_queue_arguments(
        self, arguments: dict[str, Any] | None, **kwargs: Any
    ) -> dict[str, Any]:
        """Return the arguments to declare a queue with: ``expires`` becomes ``x-expires``."""
        return to_rabbitmq_queue_arguments(arguments, **kwargs)

    # -- upkeep

    @property
    def qos(self) -> Any:
        """The prefetch limit and the unacknowledged messages."""
        if self._qos is None:
            vars(self)["_qos"] = QoS(self)
        return self._qos

    def _is_settled_here(self, delivery_tag: Any) -> bool:
        return self._qos is not None and delivery_tag in self._qos._delivered

    @property
    def brpop_timeout(self) -> float:
        """The transport's; the core waits without polling."""
        return self.connection.brpop_timeout

    @property
    def supports_batch_publish(self) -> bool:
        """Whether messages can be collected and sent together: not past what was replaced, and not
        if they may be sent twice."""
        settings = getattr(self._pool, "connection_kwargs", None) or {}
        may_send_twice = (
            self.retry_on_timeout
            or parameters.url_options(self.connection.client).get("retry_on_timeout")
            or any(settings.get(name) for name in ("retry_on_timeout", "retry_on_error", "retry"))
        )
        return super().supports_batch_publish and not may_send_twice

    def replay_dead_letters(self, queue: str, limit: int | None = None) -> int:
        """Move dead letters back to the queues that they came from, the oldest first.

        Each is moved in one step, so that nothing is lost or doubled when this is interrupted, and
        may be delivered :attr:`delivery_limit` times again. Those that do not say where they came
        from, in the header ``x-last-death-queue``, stay.

        Arguments:
            queue: the queue of dead letters.
            limit: move so many at most; None for all that are there now.

        Returns:
            How many were moved.

        Raises:
            ValueError: ``limit`` is negative.
        """
        if limit is not None and limit < 0:
            raise ValueError(f"limit must be a number from 0 on or None, got {limit!r}")
        return self._replay(queue, limit)

    def sweep_bindings(self, limit: int = 100) -> None:
        """Drop the bindings of expiring queues that nobody has used for long.

        Channels that consume from such queues do it by themselves, every minute.

        Arguments:
            limit: look at so many exchanges at most.
        """
        self._sweep(limit)

    def close(self) -> None:
        """Close the channel: consumers end, unacknowledged messages go back to their queues, queues
        of fanout exchanges that are to be deleted with their consumers are."""
        transport = self.connection
        if transport is None:
            return
        try:
            if not self.closed and transport._is_connected():
                with suppress(*transport.connection_errors, *transport.channel_errors):
                    for queue in self.auto_delete_queues.intersection(self._fanout_queues):
                        self.queue_delete(queue)
            super().close()
        finally:
            self._close_clients()
            self._disconnect_pools()


def _redis_py() -> Any:
    try:
        import redis
    except ImportError:
        raise ImportError(
            "channel.client and channel.pool are redis-py's, which is not installed: "
            "pip install redis. (The transport itself does not need it.)"
        ) from None
    return redis


Channel._native_class = Channel
Channel._ours = hooks.snapshot(Channel)
