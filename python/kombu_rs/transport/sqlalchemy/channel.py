"""Queues in the tables of any database that SQLAlchemy reaches."""

from __future__ import annotations

import os
from collections.abc import Callable
from queue import Empty
from typing import Any, ClassVar, TypeVar

from ...log import get_logger
from ...utils.encoding import bytes_to_str
from ...utils.json import dumps, loads
from ...utils.objects import cached_property
from .. import virtual
from . import engines
from .choice import database_url, engine_options, reason_for_sqlalchemy

__all__ = ("Channel",)

T = TypeVar("T")

logger = get_logger("kombu.transport.sqlalchemy")

# How often to begin a transaction anew that lost against another one.
_CONFLICTS = 10

# Since when locked rows can be skipped.
_SKIP_LOCKED = {"postgresql": (9, 5), "mysql": (8, 0, 1), "mariadb": (10, 6), "oracle": (0,)}


def _row_lock(dialect: Any) -> dict[str, bool]:
    """Arguments of ``with_for_update``: workers skip each other's rows where the server can."""
    name = "mariadb" if getattr(dialect, "is_mariadb", False) else dialect.name
    since = _SKIP_LOCKED.get(name)
    version = tuple(n for n in dialect.server_version_info or () if isinstance(n, int))
    return {"skip_locked": True} if since is not None and version >= since else {}


def _is_conflict(error: Exception) -> bool:
    """Whether a transaction was undone in favour of another, and may be begun anew."""
    from sqlalchemy.exc import DBAPIError
    from sqlalchemy.orm.exc import StaleDataError

    if isinstance(error, StaleDataError):
        return True  # rows could not be locked, and the other one was quicker
    if not isinstance(error, DBAPIError):
        return False
    # SQLSTATE class 40: transaction rollback. MySQL's drivers have the number of the deadlock.
    driver: Any = error.orig
    state = getattr(driver, "sqlstate", None) or getattr(driver, "pgcode", None) or ""
    code = driver.args[0] if getattr(driver, "args", None) else None
    return str(state).startswith("40") or code in ("40001", 1213)


class Channel(virtual.Channel):
    """A channel on the tables.

    Arguments:
        connection: the :class:`~kombu_rs.transport.sqlalchemy.Transport`.
    """

    #: Engines and session factories of the process.
    _engines: ClassVar[dict[Any, tuple[Any, Any]]] = engines.known

    _session: Any = None
    # Which process opened the session.
    _session_pid = 0
    # What is known of the tables in the session's database.
    _tables: engines.Tables | None = None

    #: Names of the tables.
    queue_tablename: str
    message_tablename: str

    def __init__(self, connection: Any, **kwargs: Any) -> None:
        self._configure_entity_tablenames(connection.client.transport_options or {})
        super().__init__(connection, **kwargs)

    def _configure_entity_tablenames(self, opts: dict[str, Any]) -> None:
        self.queue_tablename = opts.get("queue_tablename", "kombu_queue")
        self.message_tablename = opts.get("message_tablename", "kombu_message")

    @cached_property
    def _classes(self) -> tuple[Any, Any]:
        engines.require_sqlalchemy(self._reason())
        from .models import mapped_classes

        return mapped_classes(self.queue_tablename, self.message_tablename)

    @cached_property
    def queue_cls(self) -> Any:
        """The class of a queue's row."""
        return self._classes[0]

    @cached_property
    def message_cls(self) -> Any:
        """The class of a message's row."""
        return self._classes[1]

    def _reason(self) -> str:
        return reason_for_sqlalchemy(self.connection.client) or "the tables are asked for as rows"

    # Engine and session

    def _engine_from_config(self) -> Any:
        """Make an engine as the connection's URL and transport options say."""
        from sqlalchemy import create_engine

        client = self.connection.client
        return create_engine(database_url(client), **engine_options(client))

    def _open(self) -> tuple[Any, Any]:
        """Return the engine and its session factory, made once in a process.

        Raises:
            ImportError: SQLAlchemy or the database's driver is not installed.
            ArgumentError: SQLAlchemy cannot read the URL.
            TypeError: ``create_engine`` does not know a transport option.
        """
        engines.require_sqlalchemy(self._reason())
        from sqlalchemy.orm import sessionmaker

        client = self.connection.client
        key = engines.engine_key(database_url(client), engine_options(client))
        with engines.mutex:
            if key not in self._engines:
                engine = self._engine_from_config()
                self._engines[key] = (engine, sessionmaker(bind=engine))
            return self._engines[key]

    @property
    def session(self) -> Any:
        """The session; the tables are made when they are missing.

        On a server they are looked for once in a process, and again after an error.
        """
        if self._session is None or self._session_pid != os.getpid():
            if self._session is not None:
                engines.set_aside(self._session)
            engine, factory = self._open()
            self._make_tables(engine)
            self._session, self._session_pid = factory(), os.getpid()
        return self._session

    def _make_tables(self, engine: Any) -> None:
        from sqlalchemy.exc import DatabaseError

        from .models import metadata

        names = (self.queue_tablename, self.message_tablename)
        tables = [cls.__table__ for cls in self._classes]
        known = self._tables = engines.tables_of(engine)
        if names in known.made:
            return
        # Of this engine alone: a server that does not answer keeps nobody else waiting.
        with known.lock:
            if names in known.made:
                return
            try:
                metadata.create_all(engine, tables=tables)
            except DatabaseError:
                # Another process may have been making them.
                metadata.create_all(engine, tables=tables)
            # Not of SQLite: a file may be deleted, and a database in memory is one thread's.
            if engine.dialect.name != "sqlite":
                known.made.add(names)

    def _in_transaction(self, work: Callable[[Any], T]) -> T:
        """Return ``work(session)``, committed; what failed is undone.

        Reading ends with a commit as well: the database must show something new the next time,
        and a connection that is back in the pool is none of a forked child's.
        """
        session, tried = self.session, 0
        while True:
            try:
                result = work(session)
                session.commit()
                return result
            except BaseException as exc:
                session.rollback()
                tried += 1
                again = tried < _CONFLICTS and isinstance(exc, Exception) and _is_conflict(exc)
                if not again:
                    if self._tables is not None:
                        # Somebody may have dropped the tables.
                        self._tables.made.clear()
                    raise

    # What virtual channels are made of

    def _find(self, session: Any, queue: str) -> Any:
        return session.query(self.queue_cls).filter(self.queue_cls.name == queue).first()

    def _get_or_create(self, queue: str) -> Any:
        """The row of a queue."""
        from sqlalchemy.exc import IntegrityError

        session = self.session
        found = self._find(session, queue)
        if found is None:
            found = self.queue_cls(queue)
            session.add(found)
            try:
                session.commit()
            except IntegrityError:  # another worker made it just now
                session.rollback()
                found = self._find(session, queue)
                if found is None:
                    raise
            except BaseException:
                session.rollback()
                raise
        return found

    def _new_queue(self, queue: str, **kwargs: Any) -> None:
        self._in_transaction(lambda session: self._get_or_create(queue))

    def _has_queue(self, queue: str, **kwargs: Any) -> bool:
        return self._in_transaction(lambda session: self._find(session, queue) is not None)

    def _query_all(self, queue: str) -> Any:
        """A query for all messages of a queue, those included that were taken."""
        from sqlalchemy import select

        queue_cls, message_cls = self._classes
        queue_id = select(queue_cls.id).where(queue_cls.name == queue).scalar_subquery()
        return self.session.query(message_cls).filter(message_cls.queue_id == queue_id)

    def _ready(self, queue: str) -> Any:
        from sqlalchemy import true

        return self._query_all(queue).filter(self.message_cls.visible == true())

    def _put(self, queue: str, payload: Any, **kwargs: Any) -> None:  # type: ignore[override]
        text = dumps(payload)

        def add(session: Any) -> None:
            session.add(self.message_cls(text, self._get_or_create(queue)))

        self._in_transaction(add)

    def _get(self, queue: str, timeout: float | None = None) -> Any:
        while True:
            row = self._take(queue)
            if row is None:
                raise Empty()
            number, payload = row
            try:
                return loads(bytes_to_str(payload))
            except ValueError as exc:
                logger.error(
                    "message %s of queue %r cannot be read and is set aside (%s, id %s): %s",
                    number,
                    queue,
                    self.message_tablename,
                    number,
                    exc,
                )

    def _take(self, queue: str) -> tuple[int, Any] | None:
        """Make the next message invisible; returns its key and payload."""

        def take(session: Any) -> tuple[int, Any] | None:
            message = self._lock_next(session, queue)
            if message is None:
                return None
            message.visible = False
            return message.id, message.payload

        return self._in_transaction(take)

    def _lock_next(self, session: Any, queue: str) -> Any:
        from sqlalchemy import text

        connection = session.connection()
        dialect = connection.dialect
        if dialect.name == "sqlite" and not connection.connection.in_transaction:
            # It has no locks on rows: one writer at a time, from before it looks.
            session.execute(text("BEGIN IMMEDIATE TRANSACTION"))
        return self._next(queue, _row_lock(dialect)).first()

    def _next(self, queue: str, row_lock: dict[str, bool]) -> Any:
        message_cls = self.message_cls
        return (
            self._ready(queue)
            .with_for_update(**row_lock)
            .with_hint(message_cls, "WITH (UPDLOCK, READPAST, ROWLOCK)", "mssql")
            .order_by(message_cls.sent_at, message_cls.id)
            .limit(1)
        )

    def _size(self, queue: str) -> int:
        return self._in_transaction(lambda session: self._ready(queue).count())

    def _purge(self, queue: str) -> int:
        def purge(session: Any) -> int:
            pending = self._ready(queue).delete(synchronize_session=False)
            self._query_all(queue).delete(synchronize_session=False)
            return pending

        return self._in_transaction(purge)

    def close(self) -> None:
        """Close the channel and give the session's connection back, also when closing fails."""
        try:
            super().close()
        finally:
            self._close_session()

    def _close_session(self) -> None:
        session, self._session = self._session, None
        if session is not None:
            if self._session_pid == os.getpid():
                session.close()
            else:
                engines.set_aside(session)
