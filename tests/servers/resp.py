"""Just enough of the Redis protocol to look into a server without a client library."""

from __future__ import annotations

import socket
import ssl
from typing import Any


class RespError(RuntimeError):
    """An error reply of the server."""


class RespClient:
    """One blocking connection to a Redis server. Replies are bytes, int, list or None."""

    def __init__(
        self,
        port: int,
        *,
        password: str | None = None,
        tls_ca: str | None = None,
        timeout: float = 5.0,
    ) -> None:
        raw = socket.create_connection(("127.0.0.1", port), timeout)
        if tls_ca is not None:
            context = ssl.create_default_context(cafile=tls_ca)
            raw = context.wrap_socket(raw, server_hostname="localhost")
        self._socket = raw
        self._file = raw.makefile("rb")
        if password is not None:
            self.command("AUTH", password)

    def command(self, *words: str | bytes | int) -> Any:
        """Sends one command and returns its reply; an error reply raises RespError."""
        parts = [w if isinstance(w, bytes) else str(w).encode() for w in words]
        packed = b"".join(b"$%d\r\n%s\r\n" % (len(p), p) for p in parts)
        self._socket.sendall(b"*%d\r\n%s" % (len(parts), packed))
        return self._reply()

    def _reply(self) -> Any:
        line = self._file.readline()
        if not line:
            raise ConnectionError("the server closed the connection")
        kind, rest = line[:1], line[1:-2]
        if kind == b"+":
            return rest
        if kind == b"-":
            raise RespError(rest.decode())
        if kind == b":":
            return int(rest)
        if kind == b"$":
            if rest == b"-1":
                return None
            data = self._file.read(int(rest) + 2)
            return data[:-2]
        if kind == b"*":
            return None if rest == b"-1" else [self._reply() for _ in range(int(rest))]
        raise RespError(f"a reply that starts with {kind!r}")

    def close(self) -> None:
        """Closes the connection."""
        self._file.close()
        self._socket.close()

    def __enter__(self) -> RespClient:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()
