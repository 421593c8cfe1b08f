"""``mongodb://``: queues in a MongoDB database, with fanout through a capped collection.

It needs pymongo (``pip install kombu-rs[mongodb]``), and takes any URL that pymongo takes, among
them several hosts and ``mongodb+srv://``.

Collections, by their default names:

====================== ==========================================================================
``messages``           one document a message: ``queue``, ``priority`` (9 less the message's; the
                       lowest goes first), ``payload`` (JSON)
``messages.routing``   one document a binding: ``exchange``, ``routing_key``, ``pattern``, ``queue``
``messages.broadcast`` capped; what was published to fanout exchanges: ``queue`` (the exchange),
                       ``payload``. Consumers follow it with tailable cursors.
``messages.queues``    with the option ``ttl``: the arguments of each queue
====================== ==========================================================================

With ``ttl`` documents have ``expire_at``, and the server removes them when that has come.

Options in ``transport_options``: ``connect_timeout`` (seconds, default the driver's), ``ssl``
(default False), ``ttl`` (honour the expiration of messages and queues; default False),
``capped_queue_size`` (bytes of the broadcast collection, default 100000), ``calc_queue_size``
(count messages when asked for a queue's size; default True, else the answer is 0),
``default_hostname``, ``default_port``, ``default_database`` (where the URL names none),
``messages_collection``, ``routing_collection``, ``broadcast_collection``, ``queues_collection``.
"""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Iterator
from contextlib import suppress
from datetime import datetime, timedelta, timezone
from queue import Empty
from typing import Any
from urllib.parse import quote_plus

from ..exceptions import VersionMismatch
from ..utils.encoding import bytes_to_str
from ..utils.json import dumps, loads
from ..utils.objects import cached_property
from . import virtual
from ._libraries import missing
from .base import to_rabbitmq_queue_arguments

try:
    import pymongo
    from pymongo import CursorType, MongoClient, errors, uri_parser
except ImportError:  # the transport says so when it is used
    pymongo = None

__all__ = ("BroadcastCursor", "Channel", "Transport")

E_SERVER_VERSION = "Kombu requires MongoDB version 1.3+ (server is {0})"

E_NO_TTL_INDEXES = "Kombu requires MongoDB version 2.2+ (server is {0}) for TTL indexes support"

# Codes of errors after which a cursor is gone and another goes on from there: CursorNotFound,
# CappedPositionLost (the collection's end overtook it), CursorKilled.
LOST_CURSOR = frozenset({43, 136, 237})


class BroadcastCursor:
    """Follows what is published to a fanout exchange from now on.

    Arguments:
        cursor: a tailable cursor that was not used yet.
        query: the filter it was made with.
    """

    def __init__(self, cursor: Any, query: dict[str, Any] | None = None) -> None:
        self._cursor = cursor
        self._query = query or {}
        # How many documents are behind it, and the last of them.
        self._offset = 0
        self._last: Any = None
        # What a lost cursor had not read yet.
        self._unread: deque[Any] = deque()
        self.purge(rewind=False)

    def get_size(self) -> int:
        """How many documents are still to come."""
        return self._count() - self._offset

    def _count(self) -> int:
        # Of this exchange only: the collection is shared with all others.
        return self._cursor.collection.count_documents(self._query)

    def close(self) -> None:
        """Close the cursor."""
        self._cursor.close()

    def purge(self, rewind: bool = True) -> None:
        """Skip all documents that are there.

        Arguments:
            rewind: begin again; needed once the cursor was used.
        """
        if rewind:
            self._cursor.rewind()
        self._unread.clear()
        newest = self._cursor.collection.find_one(self._query, {"_id": 1}, sort=[("$natural", -1)])
        self._last = newest and newest["_id"]
        self._offset = self._count()
        self._cursor = self._cursor.skip(self._offset)

    def __iter__(self) -> Iterator[Any]:
        return self

    def __next__(self) -> Any:
        if not self._unread:
            try:
                return self._passed(next(self._cursor))
            except StopIteration:
                # The server ends a cursor that found the collection empty.
                if getattr(self._cursor, "alive", True):
                    raise
            except errors.OperationFailure as exc:
                if exc.code not in LOST_CURSOR:
                    raise
            self._resume()
        if not self._unread:
            raise StopIteration
        return self._passed(self._unread.popleft())

    next = __next__

    def put_back(self, payload: str) -> None:
        """Have a message come again, as the next one."""
        self._unread.appendleft({"_id": self._last, "payload": payload})
        self._offset -= 1

    def _passed(self, document: Any) -> Any:
        self._offset += 1
        self._last = document["_id"]
        return document

    def _resume(self) -> None:
        """Open a new cursor in place of a lost one, and keep what it has not delivered."""
        self._cursor.rewind()
        self._cursor.skip(0)
        behind = 0
        while True:
            try:
                document = next(self._cursor)
            except StopIteration:
                break
            self._unread.append(document)
            if document["_id"] == self._last:
                behind += len(self._unread)
                self._unread.clear()
        self._offset = behind


class Channel(virtual.Channel):
    """A channel on the collections of a database."""

    supports_fanout = True

    #: Exchanges of the queues that are bound to fanout exchanges.
    _fanout_queues: dict[str, str]

    ssl = False
    ttl = False
    connect_timeout: float | None = None
    capped_queue_size = 100000
    calc_queue_size = True

    default_hostname = "127.0.0.1"
    default_port = 27017
    default_database = "kombu_default"

    messages_collection = "messages"
    routing_collection = "messages.routing"
    broadcast_collection = "messages.broadcast"
    queues_collection = "messages.queues"

    from_transport_options = (
        *virtual.Channel.from_transport_options,
        "connect_timeout",
        "ssl",
        "ttl",
        "capped_queue_size",
        "default_hostname",
        "default_port",
        "default_database",
        "messages_collection",
        "routing_collection",
        "broadcast_collection",
        "queues_collection",
        "calc_queue_size",
    )

    def __init__(self, *vargs: Any, **kwargs: Any) -> None:
        super().__init__(*vargs, **kwargs)
        self._fanout_queues = self.connection.fanout_queues
        self._broadcast_cursors: dict[str, BroadcastCursor] = {}
        # Whether there is a server is seen now, not when the first message comes.
        self.client  # noqa: B018

    # Queues

    def _new_queue(self, queue: str, **kwargs: Any) -> None:
        if self.ttl:
            document = {
                "_id": queue,
                "options": kwargs,
                "expire_at": self._get_queue_expire(kwargs, "x-expires"),
            }
            self.queues.update_one({"_id": queue}, {"$set": document}, upsert=True)

    def _get(self, queue: str) -> dict[str, Any]:  # type: ignore[override]
        if queue in self._fanout_queues:
            document = next(self._get_broadcast_cursor(queue), None)
        else:
            document = self.messages.find_one_and_delete(
                {"queue": queue}, sort=[("priority", pymongo.ASCENDING)]
            )
        if self.ttl:
            self._update_queues_expire(queue)
        if document is None:
            raise Empty()
        return loads(bytes_to_str(document["payload"]))

    def _size(self, queue: str) -> int:
        if queue in self._fanout_queues:
            return self._get_broadcast_cursor(queue).get_size()
        if not self.calc_queue_size:
            return super()._size(queue)
        return self.messages.count_documents({"queue": queue})

    def _put(self, queue: str, message: dict[str, Any], **kwargs: Any) -> None:
        document = {
            "payload": dumps(message),
            "queue": queue,
            "priority": self._get_message_priority(message, reverse=True),
        }
        if self.ttl:
            expirations = (
                self._get_queue_expire(queue, "x-message-ttl"),
                self._get_message_expire(message),
            )
            document["expire_at"] = min((at for at in expirations if at is not None), default=None)
        self.messages.insert_one(document)

    def _put_fanout(
        self, exchange: str, message: dict[str, Any], routing_key: str, **kwargs: Any
    ) -> None:
        self.broadcast.insert_one({"payload": dumps(message), "queue": exchange})

    def _purge(self, queue: str) -> int:
        size = self._size(queue)
        if queue in self._fanout_queues:
            self._get_broadcast_cursor(queue).purge()
            return size
        result = self.messages.delete_many({"queue": queue})
        return size if self.calc_queue_size else result.deleted_count

    def queue_delete(self, queue: str, **kwargs: Any) -> None:  # type: ignore[override]
        """Delete a queue, its bindings and messages; with ``if_empty`` only without messages."""
        if kwargs.get("if_empty") and self._size(queue):
            return
        self.routing.delete_many({"queue": queue})
        if self.ttl:
            self.queues.delete_one({"_id": queue})
        if not any(self.state.queue_bindings(queue)):
            self._purge(queue)
        super().queue_delete(queue, **kwargs)
        self._forget_fanout(queue)

    def prepare_queue_arguments(self, arguments: dict[str, Any], **kwargs: Any) -> dict[str, Any]:
        """Return the arguments to declare a queue with, named as RabbitMQ names them."""
        return to_rabbitmq_queue_arguments(arguments, **kwargs)

    # Bindings

    def get_table(self, exchange: str) -> Any:
        """The bindings of an exchange: those declared here, and those of other clients."""
        declared = self.state.exchanges[exchange]["table"]
        stored = self.routing.find({"exchange": exchange})
        return frozenset(declared) | frozenset(
            (row["routing_key"], row["pattern"], row["queue"]) for row in stored
        )

    def _queue_bind(self, exchange: str, routing_key: str, pattern: Any, queue: str) -> None:
        if self.typeof(exchange).type == "fanout":
            self._create_broadcast_cursor(exchange, routing_key, pattern, queue)
            self._fanout_queues[queue] = exchange
        binding = _binding(exchange, routing_key, pattern, queue)
        document: dict[str, Any] = dict(binding)
        if self.ttl:
            document["expire_at"] = self._get_queue_expire(queue, "x-expires")
        self.routing.update_one(binding, {"$set": document}, upsert=True)

    def queue_unbind(
        self,
        queue: str,
        exchange: str | None = None,
        routing_key: str = "",
        arguments: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        """Remove a binding, also from the database."""
        exchange = exchange or "amq.direct"
        kind = self.typeof(exchange)
        super().queue_unbind(queue, exchange, routing_key, arguments, **kwargs)
        key, pattern, _ = kind.prepare_bind(queue, exchange, routing_key, arguments)
        self.routing.delete_many(_binding(exchange, key, pattern, queue))
        if self._fanout_queues.get(queue) == exchange:
            self._forget_fanout(queue)

    # Fanout

    def _get_broadcast_cursor(self, queue: str) -> BroadcastCursor:
        cursor = self._broadcast_cursors.get(queue)
        if cursor is None:
            # Bound on another channel of this connection.
            exchange = self._fanout_queues[queue]
            cursor = self._create_broadcast_cursor(exchange, None, None, queue)
        return cursor

    def _create_broadcast_cursor(
        self, exchange: str, routing_key: str | None, pattern: Any, queue: str
    ) -> BroadcastCursor:
        query = {"queue": exchange}
        cursor = self.broadcast.find(filter=query, cursor_type=CursorType.TAILABLE)
        self._broadcast_cursors[queue] = BroadcastCursor(cursor, query)
        return self._broadcast_cursors[queue]

    def _restore(self, message: Any) -> None:
        info = message.delivery_info
        for queue, exchange in self._fanout_queues.items():
            if exchange == info["exchange"] and queue in self._broadcast_cursors:
                # Each consumer has its own copy, which is of no use to others.
                payload = {**message.serializable(), "redelivered": True}
                self._broadcast_cursors[queue].put_back(dumps(payload))
                return
        super()._restore(message)

    def _forget_fanout(self, queue: str) -> None:
        self._fanout_queues.pop(queue, None)
        cursor = self._broadcast_cursors.pop(queue, None)
        if cursor is not None:
            cursor.close()

    # Connecting

    def _parse_uri(self, scheme: str = "mongodb://") -> tuple[str, str, dict[str, Any]]:
        """Return the URL for the driver, the database and the options.

        Arguments:
            scheme: of a URL that has none.
        """
        client = self.connection.client
        uri = client.hostname or ""
        if uri.startswith("srv://"):
            # The connection has taken mongodb+srv:// for a transport and its URL.
            uri = f"mongodb+{uri}"
        if "://" not in uri:
            uri = scheme + uri
        if uri.endswith("://"):
            uri += self.default_hostname
        head, rest = uri.split("://", 1)
        if client.userid and "@" not in rest:
            user = quote_plus(client.userid)
            if client.password:
                user += f":{quote_plus(client.password)}"
            uri = f"{head}://{user}@{rest}"

        options: dict[str, Any] = {}
        if self.ssl or client.ssl:
            options["ssl"] = True
        if isinstance(client.ssl, dict):
            options.update(client.ssl)
        if self.connect_timeout:
            options["connectTimeoutMS"] = options["connecttimeoutms"] = int(
                self.connect_timeout * 1000
            )
        # The driver validates the options itself; done twice, seconds would become milliseconds.
        parsed = uri_parser.parse_uri(uri, self._port(), validate=False)
        for name, value in parsed["options"].items():
            if isinstance(value, (list, tuple)) and len(value) == 1:
                value = value[0]
            options[name] = options[name.lower()] = value
        if "tls" in options:
            # The driver takes them for the same.
            options.pop("ssl", None)

        database = parsed["database"] or (client.virtual_host or "").strip("/")
        return uri, database or self.default_database, options

    def _port(self) -> int:
        """The port where the URL names none."""
        return self.connection.client.port or self.default_port

    def _prepare_client_options(self, options: dict[str, Any]) -> dict[str, Any]:
        """Return ``options`` as keywords for the driver's client."""
        return {name.lower(): value for name, value in options.items() if value is not None}

    def _open(self, scheme: str = "mongodb://") -> Any:
        """Connect; returns the database.

        Raises:
            VersionMismatch: the server is too old.
        """
        uri, database, options = self._parse_uri(scheme=scheme)
        client = MongoClient(host=uri, port=self._port(), **self._prepare_client_options(options))
        try:
            server = client.server_info()["version"]
            version = tuple(int(number) for number in re.findall(r"\d+", server)[:2])
            if version < (1, 3):
                raise VersionMismatch(E_SERVER_VERSION.format(server))
            if self.ttl and version < (2, 2):
                raise VersionMismatch(E_NO_TTL_INDEXES.format(server))
        except BaseException:
            client.close()
            raise
        return client[database]

    def _create_broadcast(self, database: Any) -> None:
        """Create the capped collection for fanout, if it is not there."""
        if self.broadcast_collection not in database.list_collection_names():
            with suppress(errors.CollectionInvalid):  # another client was faster
                database.create_collection(
                    self.broadcast_collection, size=self.capped_queue_size, capped=True
                )

    def _ensure_indexes(self, database: Any) -> None:
        """Create the indexes, if they are not there."""
        messages = database[self.messages_collection]
        messages.create_index([("queue", 1), ("priority", 1), ("_id", 1)], background=True)
        database[self.broadcast_collection].create_index([("queue", 1)])
        routing = database[self.routing_collection]
        routing.create_index([("queue", 1), ("exchange", 1)])
        if self.ttl:
            for collection in (messages, routing, database[self.queues_collection]):
                collection.create_index([("expire_at", 1)], expireAfterSeconds=0)

    def _create_client(self) -> Any:
        """Return the database, which all channels of a connection share."""
        database = self.connection.database
        if database is None:
            database = self._open()
            self._create_broadcast(database)
            self._ensure_indexes(database)
            self.connection.database = database
        return database

    def close(self) -> None:
        """Cancel the consumers, put unacknowledged messages back, and close."""
        super().close()
        while self._broadcast_cursors:
            self._broadcast_cursors.popitem()[1].close()

    @cached_property
    def client(self) -> Any:
        """The database."""
        return self._create_client()

    @cached_property
    def messages(self) -> Any:
        """The collection of messages."""
        return self.client[self.messages_collection]

    @cached_property
    def routing(self) -> Any:
        """The collection of bindings."""
        return self.client[self.routing_collection]

    @cached_property
    def broadcast(self) -> Any:
        """The capped collection of fanout messages."""
        return self.client[self.broadcast_collection]

    @cached_property
    def queues(self) -> Any:
        """The collection of queues' arguments; used with ``ttl`` only."""
        return self.client[self.queues_collection]

    # Expiration

    def _get_message_expire(self, message: dict[str, Any]) -> datetime | None:
        """When a message expires, by its own properties (milliseconds); None: never."""
        value = message.get("properties", {}).get("expiration")
        return None if value is None else self.get_now() + timedelta(milliseconds=int(value))

    def _get_queue_expire(self, queue: str | dict[str, Any], argument: str) -> datetime | None:
        """When something of a queue expires; None: never.

        Arguments:
            queue: its name, or what it was declared with.
            argument: the queue argument that says it, in milliseconds.
        """
        if isinstance(queue, str):
            document = self.queues.find_one({"_id": queue})
            if not document:
                return None
            options = document["options"]
        else:
            options = queue
        value = (options.get("arguments") or {}).get(argument)
        return None if value is None else self.get_now() + timedelta(milliseconds=int(value))

    def _update_queues_expire(self, queue: str) -> None:
        """Note that a queue was used: it expires later now."""
        expire_at = self._get_queue_expire(queue, "x-expires")
        if expire_at is not None:
            change = {"$set": {"expire_at": expire_at}}
            self.routing.update_many({"queue": queue}, change)
            self.queues.update_many({"_id": queue}, change)

    def get_now(self) -> datetime:
        """The time, in UTC."""
        return datetime.now(timezone.utc)


def _binding(exchange: str, routing_key: str, pattern: Any, queue: str) -> dict[str, Any]:
    return {"exchange": exchange, "queue": queue, "routing_key": routing_key, "pattern": pattern}


class Transport(virtual.Transport):
    """A transport over collections of a MongoDB database."""

    Channel = Channel

    can_parse_url = True
    polling_interval = 1
    default_port = Channel.default_port
    connection_errors = virtual.Transport.connection_errors + (
        (errors.ConnectionFailure,) if pymongo else ()
    )
    channel_errors = virtual.Transport.channel_errors + (
        (errors.ConnectionFailure, errors.OperationFailure) if pymongo else ()
    )
    driver_type = "mongodb"
    driver_name = "pymongo"

    implements = virtual.Transport.implements.extend(
        exchange_type=frozenset(["direct", "topic", "fanout"]),
    )

    #: The database, once connected.
    database: Any = None

    def __init__(self, client: Any, **kwargs: Any) -> None:
        super().__init__(client, **kwargs)
        #: Exchanges of the queues that are bound to fanout exchanges.
        self.fanout_queues: dict[str, str] = {}

    def establish_connection(self) -> Any:
        """Connect.

        Raises:
            ImportError: pymongo is not installed.
            VersionMismatch: the server is too old.
        """
        if pymongo is None:
            raise missing("mongodb", "pymongo", "mongodb")
        return super().establish_connection()

    def close_connection(self, connection: Any) -> None:
        """Close all channels, then the client."""
        try:
            super().close_connection(connection)
        finally:
            database, self.database = self.database, None
            if database is not None:
                database.client.close()

    def driver_version(self) -> str:
        """Version of pymongo."""
        return pymongo.__version__ if pymongo else "N/A"

    def as_uri(self, uri: str, include_password: bool = False, mask: str = "**") -> str:
        """Return ``uri``, by default with the password masked and without its options."""
        if include_password:
            return uri
        scheme, _, rest = uri.partition("://")
        if not rest:
            return f"{scheme}:///"
        place, _, path = rest.partition("?")[0].partition("/")
        credentials, at, hosts = place.rpartition("@")
        user, colon, _ = credentials.partition(":")
        shown = f"{user}:{mask}" if colon and mask else user
        return f"{scheme}://{shown}{at}{hosts}/{path}"
