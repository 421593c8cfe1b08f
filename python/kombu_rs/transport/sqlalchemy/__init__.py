"""``sqla+DIALECT://`` and ``sqlalchemy+DIALECT://``: queues in the tables of an SQL database.

What stands behind the prefix is SQLAlchemy's URL: ``sqla+sqlite:///file.db``,
``sqla+postgresql://user:password@host/database``, ``sqla+mysql+pymysql://user:password@host/db``.
The layout of the tables is Kombu's (see :mod:`.models`), for which there are two engines:

- **Files of SQLite** are served natively. SQLAlchemy is not needed, waiting does not poll, and what
  a dead worker had taken comes back. A full disk stops consuming, too: a claim is written.
- **SQLAlchemy** serves everything else: other databases, SQLite in memory, and files of SQLite when
  there is a transport option that is an argument of ``create_engine`` (``connect_args``, ``echo``,
  ``pool_size``, ...). The native engine has none of these, and a setting that does nothing would
  be a trap. A :class:`Channel` or :class:`Transport` that a program derives, or a method of the
  channel that it replaces, works on SQLAlchemy as well, as those are its methods. It is polled:
  see ``polling_interval``.

Transport options:

- ``queue_tablename``, ``message_tablename``: names of the tables. Default: ``kombu_queue`` and
  ``kombu_message``.
- ``polling_interval``: seconds between looks for messages on SQLAlchemy. Default: 1.
- ``busy_timeout`` (seconds, default 10), ``synchronous`` (``"normal"`` or ``"full"``): files of
  SQLite on the native engine only.
- all arguments of :func:`sqlalchemy.create_engine`.
"""

from __future__ import annotations

from typing import Any

from .. import base, virtual
from ..native_virtual import Transport as _Native
from . import engines
from .channel import Channel
from .choice import reason_for_sqlalchemy

__all__ = ("Channel", "Transport")

#: The version of the layout and of the options, as Kombu counts it.
VERSION = (1, 4, 1)
__version__ = "1.4.1"

# The channel's own methods: a program that replaces one wants it called.
_METHODS = {name: value for name, value in vars(Channel).items() if not name.startswith("__")}


class _ConnectionErrors:
    """The transport's ``connection_errors``; SQLAlchemy is imported when they are asked for."""

    def __get__(self, obj: Any, cls: Any) -> tuple[type[BaseException], ...]:
        errors = _Native.connection_errors
        try:
            from sqlalchemy.exc import InterfaceError, OperationalError
        except ImportError:
            return errors
        return (*errors, OperationalError, InterfaceError)


class Transport(virtual.Transport):
    """Kombu's tables in an SQL database.

    Arguments:
        client: the connection. Its URL and options say whether the transport is the native one, a
            subclass.
    """

    Channel = Channel

    can_parse_url = True
    default_port = 0
    driver_type = "sql"
    driver_name = "sqlalchemy"

    #: Errors after which it helps to connect again.
    connection_errors = _ConnectionErrors()

    def __new__(cls, client: Any = None, **kwargs: Any) -> Any:
        chosen: Any = cls.class_for(client) if client is not None else cls
        if chosen is cls:
            return super().__new__(cls)
        return chosen.__new__(chosen, client, **kwargs)

    @classmethod
    def class_for(cls, client: Any) -> type[base.Transport]:
        """Return the native engine's class for files of SQLite, else this one.

        Arguments:
            client: the :class:`~kombu_rs.Connection`.
        """
        unchanged = cls is Transport and all(
            vars(Channel).get(name) is value for name, value in _METHODS.items()
        )
        if unchanged and cls.Channel is Channel and reason_for_sqlalchemy(client) is None:
            from .sqlite import SQLiteTransport

            return SQLiteTransport
        return cls

    def establish_connection(self) -> Any:
        """Connect to the database.

        Raises:
            ImportError: SQLAlchemy or the database's driver is not installed.
            sqlalchemy.exc.OperationalError: the database is not there, or refused us.
        """
        super().establish_connection()
        channel = self._avail_channels[-1]
        try:
            channel._open()[0].connect().close()
        except BaseException:
            self._avail_channels.remove(channel)
            channel.close()
            raise
        return self

    def as_uri(self, uri: str, include_password: bool = False, mask: str = "**") -> str:
        """Return ``uri``, by default with the password masked."""
        from ...utils.url import maybe_sanitize_url

        return uri if include_password else maybe_sanitize_url(uri, mask=mask)

    def driver_version(self) -> str:
        """Version of SQLAlchemy."""
        engines.require_sqlalchemy("the version of the driver is asked for")
        import sqlalchemy

        return sqlalchemy.__version__


def __getattr__(name: str) -> Any:
    # Kombu's names of what needs SQLAlchemy: it is imported when one is asked for.
    models = {"ModelBase", "class_registry", "metadata"}
    bases = {"MessageBase": "Message", "QueueBase": "Queue"}
    if name in models or name in bases:
        from . import models as module

        return getattr(module, bases.get(name, name))
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
