"""A broker of plain folders: one file for each message, one for each exchange.

Processes that share the folders, stock Kombu's among them, share the queues::

    Connection("filesystem://", transport_options={
        "data_folder_in": "data", "data_folder_out": "data", "control_folder": "control"})

On disk:

* A message is ``{milliseconds}_{uuid}.{queue}.msg`` in ``data_folder_out``, as JSON. It is written
  under another name (``.tmp`` at the end) and renamed when it is complete. Names sort in the order
  of publishing, by a clock that starts anew when the machine does.
* An exchange's bindings are ``{exchange}.exchange`` in ``control_folder``: a JSON list of
  ``[routing_key, pattern, queue]``, edited in place under an exclusive lock (``flock``).
* Whoever removes a message's file has the message. It comes back when it is rejected or its
  channel closed, at its old place; a process that is killed loses what it had not acknowledged.
* A message that cannot be read is renamed (``.unreadable`` at the end) and told once.

Transport options:

* ``data_folder_in``: the folder that queues are read from; default ``data_in``.
* ``data_folder_out``: the folder that messages are published to; default ``data_out``. Both must
  exist. Producer and consumer either use the same folder for both, or each other's.
* ``control_folder``: the folder of the bindings; default ``control``; made when it is missing.
* ``store_processed``: keep the file of a message that was taken; default False.
* ``processed_folder``: where to; default ``processed``; made when it is missing.
* ``polling_interval``: seconds between two looks for messages; default 1.0.
"""

from __future__ import annotations

import errno
import fcntl
import os
import re
import shutil
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import suppress
from fcntl import LOCK_EX, LOCK_NB, LOCK_SH
from pathlib import Path
from queue import Empty
from time import monotonic_ns, time
from typing import Any, NamedTuple

from ..exceptions import ChannelError
from ..utils.encoding import str_to_bytes
from ..utils.json import dumps, loads
from ..utils.objects import cached_property
from ..utils.uuid import uuid
from . import virtual

__all__ = ("Channel", "Transport", "exchange_queue_t", "lock", "unlock")

VERSION = (1, 0, 0)
__version__ = ".".join(map(str, VERSION))

#: What an exchange may be called: its name is a file's.
EXCHANGE_NAME_RE = re.compile(r"\A[A-Za-z0-9._-]+\Z")

#: Names that are devices on Windows, whatever follows after a dot.
WIN_RESERVED_NAMES = frozenset(
    ["CON", "PRN", "AUX", "NUL", "CONIN$", "CONOUT$"]
    + [port + number for port in ("COM", "LPT") for number in "123456789\xb9\xb2\xb3"]
)

_TEMPORARY = ".tmp"
_UNREADABLE = ".unreadable"

# Seconds for which a file without a lock may yet be one that stock Kombu is about to write: it
# makes the file under its final name, then locks it, then writes.
_GRACE = 10.0


class exchange_queue_t(NamedTuple):
    """A row of an exchange's table; what there is not is an empty string."""

    routing_key: str
    pattern: str
    queue: str


class TakenMessage(dict[str, Any]):
    """A message that was taken, and from where."""

    queue = ""
    file_name = ""


def lock(file: Any, flags: int) -> None:
    """Lock an open file among processes; waits for others unless ``flags`` say ``LOCK_NB``."""
    fcntl.flock(file.fileno(), flags)


def unlock(file: Any) -> None:
    """Undo :func:`lock`."""
    fcntl.flock(file.fileno(), fcntl.LOCK_UN)


def _new_stem() -> str:
    """The part of a file's name before the queue: sorts after those that were made before."""
    milliseconds, rest = divmod(monotonic_ns(), 1_000_000)
    return f"{milliseconds}_{rest:05x}{uuid()[5:]}"


def _age(name: str) -> tuple[float, str]:
    """The key to sort the names of files by: as numbers, the digits are not always as many."""
    milliseconds = name.partition("_")[0]
    return (int(milliseconds) if milliseconds.isdecimal() else float("inf")), name


def _read_rows(path: Any, data: bytes) -> list[exchange_queue_t]:
    if not data.strip():  # made, and not written yet
        return []
    try:
        return [exchange_queue_t(*map(_text, row)) for row in loads(data)]
    except Exception as exc:  # also what decoders raise that programs have registered
        raise ChannelError(f"{str(path)!r} is not a table of bindings: {exc}") from exc


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError(f"expected text, got {value!r}")
    return value


class Channel(virtual.Channel):
    """A channel over folders.

    Arguments:
        connection: the :class:`Transport`.
    """

    supports_fanout = True

    def __init__(self, connection: Any, **kwargs: Any) -> None:
        super().__init__(connection, **kwargs)
        # What the last look into the folder found and nobody has tried yet, by queue.
        self._found: dict[str, deque[str]] = {}

    # Exchanges

    def _is_valid_exchange_name(self, exchange: Any) -> bool:
        if exchange == "":
            return True
        return (
            isinstance(exchange, str)
            and EXCHANGE_NAME_RE.match(exchange) is not None
            and exchange.strip(".") != ""
            and exchange.partition(".")[0].upper() not in WIN_RESERVED_NAMES
        )

    def _exchange_file(self, exchange: Any) -> Any:
        """The file of an exchange's bindings.

        Raises:
            ChannelError: its name cannot be that of a file in every system.
        """
        if not self._is_valid_exchange_name(exchange):
            raise ChannelError(f"Invalid exchange name: {exchange!r}")
        return self.control_folder / f"{exchange}.exchange"

    def get_table(self, exchange: str) -> list[Any]:
        """The bindings of an exchange; none when there is no such exchange.

        Raises:
            ChannelError: its name is invalid, or its file cannot be read.
        """
        path = self._exchange_file(exchange)
        try:
            with path.open("rb") as file:
                lock(file, LOCK_SH)
                try:
                    data = file.read()
                finally:
                    unlock(file)
        except FileNotFoundError:
            return []
        except OSError as exc:
            raise ChannelError(f"Cannot read {str(path)!r}: {exc}") from exc
        return _read_rows(path, data)

    def _edit_table(
        self,
        exchange: str,
        edit: Callable[[list[exchange_queue_t]], list[exchange_queue_t]],
        create: bool = False,
    ) -> None:
        """Replace the bindings of an exchange by ``edit(bindings)``, while nobody else does."""
        path = self._exchange_file(exchange)
        flags = os.O_CREAT if create else 0
        try:
            if create and not path.exists():
                self._create_table(path)
            # Never truncated by opening it: others may be reading.
            with open(
                path, "r+b", buffering=0, opener=lambda p, f: os.open(p, f | flags, 0o666)
            ) as file:
                lock(file, LOCK_EX)
                try:
                    data = file.read()
                    rows = _read_rows(path, data)
                    edited = edit(rows)
                    if edited != rows or not data:
                        self._rewrite(file, str_to_bytes(dumps(edited)), len(data))
                finally:
                    unlock(file)
        except OSError as exc:
            if isinstance(exc, FileNotFoundError) and not create:
                return
            raise ChannelError(f"Cannot open {str(path)!r}: {exc}") from exc

    def _create_table(self, path: Any) -> None:
        # At once with a table in it: stock Kombu fails on an empty file.
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(f"{uuid()}{_TEMPORARY}")
        temporary.write_bytes(b"[]")
        try:
            # Where there are no hard links the file is made by opening it.
            with suppress(OSError):
                os.link(temporary, path)
        finally:
            temporary.unlink()

    def _rewrite(self, file: Any, data: bytes, old_size: int) -> None:
        # One write that leaves JSON (with spaces after it) even if it is the last thing we do.
        padded = data.ljust(old_size)
        file.seek(0)
        if file.write(padded) != len(padded):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        file.truncate(len(data))

    def _queue_bind(self, exchange: str, *meta: Any) -> None:
        row = exchange_queue_t(*(value or "" for value in meta))
        self._edit_table(exchange, lambda rows: rows if row in rows else [*rows, row], create=True)

    def queue_bind(
        self,
        queue: str,
        exchange: str | None = None,
        routing_key: str = "",
        arguments: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        """Bind a queue to an exchange.

        Raises:
            ChannelError: there is no such exchange, or its file cannot be written.
        """
        exchange = exchange or "amq.direct"
        known = self.state.has_binding(queue, exchange, routing_key)
        super().queue_bind(queue, exchange, routing_key, arguments, **kwargs)
        if known:
            # To this process, which may know it from another folder; and files can be deleted.
            kind = self.typeof(exchange)
            self._queue_bind(exchange, *kind.prepare_bind(queue, exchange, routing_key, arguments))

    def queue_unbind(
        self,
        queue: str,
        exchange: str | None = None,
        routing_key: str = "",
        arguments: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        """Remove a binding."""
        exchange = exchange or "amq.direct"
        self.state.binding_delete(queue, exchange, routing_key)
        self._edit_table(
            exchange,
            lambda rows: [
                r for r in rows if (r.routing_key, r.queue) != (routing_key or "", queue)
            ],
        )

    def exchange_delete(self, exchange: str, if_unused: bool = False, nowait: bool = False) -> None:
        """Delete an exchange with its bindings, and the queues bound to it that are empty."""
        super().exchange_delete(exchange, if_unused, nowait)
        # Not the file: others may be waiting for its lock.
        self._edit_table(exchange, lambda rows: [])

    # Messages

    def _put(self, queue: str, message: Any, **kwargs: Any) -> None:
        self._write(self.data_folder_out, f"{_new_stem()}.{queue}.msg", message)

    def _put_fanout(self, exchange: str, message: Any, routing_key: str, **kwargs: Any) -> None:
        for queue in dict.fromkeys(row.queue for row in self.get_table(exchange)):
            self._put(queue, message, **kwargs)

    def _write(self, folder: Any, name: str, message: Any) -> None:
        data = str_to_bytes(dumps(message))
        path = os.path.join(folder, name)
        temporary = path + _TEMPORARY
        try:
            if os.sep in name or "\0" in name:
                raise ValueError(f"not the name of a file: {name!r}")
            try:
                with open(temporary, "xb") as file:
                    lock(file, LOCK_EX)  # says that its writer lives, see _purge
                    try:
                        file.write(data)
                        file.flush()
                        os.rename(temporary, path)
                    finally:
                        unlock(file)
            except BaseException:
                with suppress(OSError):
                    os.unlink(temporary)
                raise
        except (OSError, ValueError) as exc:
            raise ChannelError(f"Cannot add file {path!r} to directory: {exc}") from exc

    def _restore(self, message: Any) -> None:
        """Put a delivered message back to where it was taken from, and to no other queue."""
        raw = message._raw
        if not isinstance(raw, TakenMessage):
            super()._restore(message)
            return
        payload = message.serializable()
        payload["redelivered"] = True
        self._write(self.data_folder_in, raw.file_name, payload)
        self._found.pop(raw.queue, None)

    def _get(self, queue: str, timeout: float | None = None) -> Any:
        for name in self._candidates(queue):
            message = self._take(queue, name)
            if message is not None:
                return message
        raise Empty()

    def _files(self, ending: str) -> list[str]:
        """The files in ``data_folder_in`` that are called ``{anything without a dot}{ending}``."""
        with os.scandir(self.data_folder_in) as entries:
            return [
                entry.name
                for entry in entries
                if entry.name.endswith(ending)
                and "." not in entry.name[: -len(ending)]
                and entry.is_file()
            ]

    def _candidates(self, queue: str) -> Iterator[str]:
        """The files of a queue's messages, the oldest first. Ends after a fresh look."""
        while found := self._found.get(queue):
            yield found.popleft()
        found = deque(sorted(self._files(f".{queue}.msg"), key=_age))
        if found:
            self._found[queue] = found
        while found:
            yield found.popleft()
        self._found.pop(queue, None)

    def _take(self, queue: str, name: str) -> TakenMessage | None:
        """Take a message; None when another was quicker or it is not written yet."""
        path = os.path.join(self.data_folder_in, name)
        try:
            with open(path, "rb") as file:
                data = file.read()
        except FileNotFoundError:
            return None
        except OSError as exc:
            raise self._set_aside(path, queue, exc) from exc
        try:
            payload = loads(data)
        except Exception as exc:  # also what decoders raise that programs have registered
            if self._may_be_written(path):
                return None
            raise self._set_aside(path, queue, exc) from exc
        try:
            payload["properties"]["delivery_tag"]
            message = TakenMessage(payload)
        except (KeyError, TypeError) as exc:
            raise self._set_aside(path, queue, f"no message: {exc!r}") from exc
        if not self._claim(path, name):
            return None
        message.queue, message.file_name = queue, name
        return message

    def _may_be_written(self, path: str) -> bool:
        """Whether the file of an incomplete message has a writer, or is gone."""
        try:
            with open(path, "rb") as file:
                lock(file, LOCK_SH | LOCK_NB)
                unlock(file)
                return time() - os.fstat(file.fileno()).st_mtime < _GRACE
        except (BlockingIOError, FileNotFoundError):
            return True

    def _set_aside(self, path: str, queue: str, why: object) -> ChannelError:
        """Keep a file that is no message from being tried again; returns the error to raise."""
        try:
            os.rename(path, path + _UNREADABLE)
            where = f"it is now {path + _UNREADABLE!r}"
        except OSError as exc:
            where = f"and it cannot be renamed ({exc})"
        return ChannelError(f"Cannot read file {path!r} from queue {queue!r} ({why}); {where}")

    def _claim(self, path: str, name: str) -> bool:
        """Remove a message's file; False when another was quicker."""
        try:
            if self.store_processed:
                self._keep(path, name)
            else:
                os.unlink(path)
        except FileNotFoundError:
            return False
        except OSError as exc:
            raise ChannelError(f"Cannot take file {path!r} from its folder: {exc}") from exc
        return True

    def _keep(self, path: str, name: str) -> None:
        os.makedirs(self.processed_folder, exist_ok=True)
        kept = os.path.join(self.processed_folder, name)
        try:
            os.rename(path, kept)
        except OSError as exc:
            if exc.errno != errno.EXDEV:
                raise
            # Another file system. Of all who copy it, the one who removes it has it.
            copy = f"{kept}.{uuid()}{_TEMPORARY}"
            shutil.copy2(path, copy)
            try:
                os.unlink(path)
            except OSError:
                os.unlink(copy)
                raise
            os.rename(copy, kept)

    def _size(self, queue: str) -> int:
        return len(self._files(f".{queue}.msg"))

    def _purge(self, queue: str) -> int:
        self._found.pop(queue, None)
        removed = 0
        for name in self._files(f".{queue}.msg"):
            with suppress(FileNotFoundError):
                os.unlink(os.path.join(self.data_folder_in, name))
                removed += 1
        # What writers left that were killed.
        for name in self._files(f".{queue}.msg{_TEMPORARY}"):
            path = os.path.join(self.data_folder_in, name)
            if not self._may_be_written(path):
                with suppress(FileNotFoundError):
                    os.unlink(path)
        return removed

    def queue_delete(
        self, queue: str, if_unused: bool = False, if_empty: bool = False, **kwargs: Any
    ) -> None:
        """Delete a queue and its bindings; with ``if_empty`` only without messages.

        Also bindings that another process made.
        """
        if if_empty and self._size(queue):
            return
        self._delete(queue)
        self.state.queue_bindings_delete(queue)

    def _delete(self, queue: str, exchange: str | None = None, *meta: Any, **kwargs: Any) -> None:
        self._purge(queue)
        if exchange is not None:
            exchanges = [exchange]
        else:
            files = self.control_folder.glob("*.exchange")
            exchanges = [file.name.removesuffix(".exchange") for file in files]
        for name in filter(self._is_valid_exchange_name, exchanges):
            self._edit_table(name, lambda rows: [row for row in rows if row.queue != queue])

    # Options

    @property
    def transport_options(self) -> dict[str, Any]:
        """The connection's transport options."""
        return self.connection.client.transport_options

    def _folder(self, option: str, default: str) -> Any:
        value = self.transport_options.get(option, default)
        if not isinstance(value, (str, os.PathLike)):
            raise ValueError(f"transport option {option} must be the path of a folder: {value!r}")
        return value

    @cached_property
    def data_folder_in(self) -> Any:
        """The folder that queues are read from."""
        return self._folder("data_folder_in", "data_in")

    @cached_property
    def data_folder_out(self) -> Any:
        """The folder that messages are published to."""
        return self._folder("data_folder_out", "data_out")

    @cached_property
    def store_processed(self) -> Any:
        """Whether the files of messages that were taken are kept."""
        return self.transport_options.get("store_processed", False)

    @cached_property
    def processed_folder(self) -> Any:
        """The folder where they are kept."""
        return self._folder("processed_folder", "processed")

    @property
    def control_folder(self) -> Any:
        """The folder of the bindings."""
        return Path(self._folder("control_folder", "control"))


class Transport(virtual.Transport):
    """Folders as a broker.

    Arguments:
        client: the :class:`~kombu_rs.Connection`.
    """

    Channel = Channel

    implements = virtual.Transport.implements.extend(
        asynchronous=False,
        exchange_type=frozenset(["direct", "topic", "fanout"]),
    )

    #: Exchanges and bindings that this process declared.
    global_state = virtual.BrokerState()

    default_port = 0
    driver_type = "filesystem"
    driver_name = "filesystem"

    def __init__(self, client: Any, **kwargs: Any) -> None:
        super().__init__(client, **kwargs)
        self.state = self.global_state

    def driver_version(self) -> str:
        """There is no driver: ``N/A``."""
        return "N/A"
