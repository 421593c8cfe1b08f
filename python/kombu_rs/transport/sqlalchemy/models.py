"""Kombu's two tables, as SQLAlchemy knows them; this module needs SQLAlchemy.

:class:`Queue` and :class:`Message` say what is in the tables; :func:`mapped_classes` makes classes
of them for tables of given names.

- ``kombu_queue(id, name)``
- ``kombu_message(id, visible, timestamp, payload, version, queue_id)``: a row is there to be taken
  while ``visible`` is true. Taking a message makes it invisible and writes the time; rows stay
  until their queue is purged.
"""

from __future__ import annotations

import datetime
import os
import threading
from typing import Any

from .._libraries import missing

try:
    from sqlalchemy import (
        BigInteger,
        Boolean,
        Column,
        DateTime,
        ForeignKey,
        Index,
        Integer,
        MetaData,
        Sequence,
        SmallInteger,
        String,
        Text,
    )
    from sqlalchemy.orm import declarative_base, declared_attr, relationship
except ImportError:
    raise missing("sqlalchemy", "SQLAlchemy 1.4.48 or later", "sqlalchemy") from None

__all__ = (
    "DialectSpecificInteger",
    "Message",
    "ModelBase",
    "Queue",
    "class_registry",
    "mapped_classes",
    "metadata",
)

#: Names of the tables unless transport options say otherwise.
QUEUE_TABLE = "kombu_queue"
MESSAGE_TABLE = "kombu_message"

#: Classes of the tables with these names.
class_registry: dict[str, Any] = {}
#: All tables.
metadata = MetaData()
ModelBase: Any = declarative_base(metadata=metadata, class_registry=class_registry)

#: The type of keys: SQL Server's sequences count in ``BIGINT``.
DialectSpecificInteger = Integer().with_variant(BigInteger(), "mssql")


# No annotations on the columns: SQLAlchemy would read them.


class Queue:
    """A queue.

    Arguments:
        name: at most 200 characters.
    """

    __table_args__ = {"sqlite_autoincrement": True, "mysql_engine": "InnoDB"}  # noqa: RUF012

    id = Column(
        DialectSpecificInteger,
        # Stock Kombu writes keys of these sequences, whatever the tables are called.
        Sequence("queue_id_sequence"),
        primary_key=True,
        autoincrement=True,
    )
    name = Column(String(200), unique=True)

    def __init__(self, name: str) -> None:
        self.name = name  # type: ignore[assignment]

    def __str__(self) -> str:
        return f"<Queue({self.name})>"

    # Without types of what is returned: SQLAlchemy would read them.
    @declared_attr
    def messages(cls: Any):  # type: ignore[no-untyped-def]
        """Its messages, taken ones included."""
        return relationship(lambda: cls._message_cls, backref="queue")


class Message:
    """A message.

    Arguments:
        payload: the envelope, JSON text.
        queue: the row of its queue.
    """

    id = Column(
        DialectSpecificInteger,
        Sequence("message_id_sequence"),
        primary_key=True,
        autoincrement=True,
    )
    visible = Column(Boolean, default=True, index=True)
    #: When it was taken.
    sent_at = Column(
        "timestamp", DateTime, nullable=True, index=True, onupdate=datetime.datetime.now
    )
    payload = Column(Text, nullable=False)
    version = Column(SmallInteger, nullable=False, default=1)

    # Where rows cannot be locked two workers may take the same one: one of them gets
    # StaleDataError.
    __mapper_args__ = {"version_id_col": version}  # noqa: RUF012

    def __init__(self, payload: str, queue: Any) -> None:
        self.payload = payload  # type: ignore[assignment]
        self.queue = queue

    def __str__(self) -> str:
        return f"<Message: {self.sent_at} {self.payload} {self.queue_id}>"

    @declared_attr
    def __table_args__(cls: Any):  # type: ignore[no-untyped-def]
        return (
            Index(f"ix_{cls.__tablename__}_timestamp_id", "timestamp", "id"),
            {"sqlite_autoincrement": True, "mysql_engine": "InnoDB"},
        )

    @declared_attr
    def queue_id(cls: Any):  # type: ignore[no-untyped-def]
        """The key of its queue."""
        return Column(
            DialectSpecificInteger,
            ForeignKey(f"{cls._queue_table}.id", name=f"FK_{cls.__tablename__}_queue"),
        )


_made: dict[tuple[str, str], tuple[Any, Any]] = {}
# Held by who forks, too: a child finds no pair of classes half made.
_making = threading.RLock()


def mapped_classes(queue_table: str, message_table: str) -> tuple[Any, Any]:
    """Return the classes of a queue's and of a message's row, made once for each pair of tables.

    Arguments:
        queue_table, message_table: names of the tables.

    Raises:
        ValueError: the names are the same, or one of them is in use as another kind of table.
    """
    names = (queue_table, message_table)
    if queue_table == message_table:
        raise ValueError("transport options queue_tablename and message_tablename must differ")
    with _making:
        if names not in _made:
            for name in names:
                if name in metadata.tables:
                    raise ValueError(
                        f"the table {name!r} is used in this process with another one already: "
                        f"queue_tablename and message_tablename go together"
                    )
            _made[names] = _make(*names)
        return _made[names]


def _make(queue_table: str, message_table: str) -> tuple[Any, Any]:
    base = ModelBase
    if (queue_table, message_table) != (QUEUE_TABLE, MESSAGE_TABLE):
        # Names of classes are unique within one base.
        base = declarative_base(metadata=metadata, class_registry={})
    shared = {"_queue_table": queue_table, "__module__": __package__}
    queue_cls: Any = type(base)(
        "Queue", (Queue, base), {"__tablename__": queue_table, "__doc__": Queue.__doc__, **shared}
    )
    queue_cls._message_cls = type(base)(
        "Message",
        (Message, base),
        {"__tablename__": message_table, "__doc__": Message.__doc__, **shared},
    )
    return queue_cls, queue_cls._message_cls


def _after_fork_in_child() -> None:
    global _making
    _making = threading.RLock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(
        before=lambda: _making.acquire(),
        after_in_parent=lambda: _making.release(),
        after_in_child=_after_fork_in_child,
    )
