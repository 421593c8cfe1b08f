"""A Redis server of the tests' own."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import quote

from .certificates import Authority
from .packages import find_program
from .process import Process, ServerFailed, free_port, temporary_folder
from .resp import RespClient, RespError


class RedisServer(Process):
    """redis-server on a free port of 127.0.0.1 with its data in a temporary folder.

    Parameters: `password` for the default user; `users` maps further names to ACL rules such as
    ``">secret ~* +@all"``; `tls` serves TLS alone, with a certificate of that authority, or of
    `certificate` (certificate and key files) when given; `appendonly` keeps data over `kill` and
    `restart`; `config` holds further settings of redis.conf, dashes in names allowed.
    """

    def __init__(
        self,
        *,
        password: str | None = None,
        users: Mapping[str, str] | None = None,
        tls: Authority | None = None,
        certificate: tuple[Path, Path] | None = None,
        appendonly: bool = False,
        config: Mapping[str, str] | None = None,
    ) -> None:
        self.folder = temporary_folder("redis")
        self.password = password
        self.users = dict(users or {})
        self.tls = tls
        self.certificate = certificate or (tls.issue("server") if tls else None)
        self.appendonly = appendonly
        self.config = dict(config or {})
        self.port = 0
        program = find_program("redis-server", "redis-server")
        super().__init__([program, self.folder / "redis.conf"], log=self.folder / "log")

    def url(self, db: int = 0, *, user: str = "", password: str | None = None) -> str:
        """The URL of database `db`, with the default user's password unless others are given."""
        secret = self.password if password is None else password
        login = f"{quote(user, safe='')}:{quote(secret, safe='')}@" if secret else ""
        if self.tls is None:
            return f"redis://{login}127.0.0.1:{self.port}/{db}"
        options = f"ssl_cert_reqs=required&ssl_ca_certs={quote(str(self.tls.ca), safe='')}"
        return f"rediss://{login}localhost:{self.port}/{db}?{options}"

    def start(self) -> None:
        """Starts the server, on its earlier port if it ran before, and waits until it answers."""
        first = self.port == 0
        for _ in range(5):
            if first:
                self.port = free_port()
            self._write_config()
            super().start()
            try:
                self.wait_until(self._answers, 30.0, f"redis-server on port {self.port}")
            except ServerFailed:
                taken = "Address already in use" in self.log_text()
                self.stop()
                if not (first and taken):
                    raise
            else:
                return
        raise ServerFailed("no free port for redis-server after five tries")

    def command(self, *words: str | bytes | int) -> Any:
        """One command on a connection of its own, as the default user in database 0."""
        with self.client() as client:
            return client.command(*words)

    def client(self) -> RespClient:
        """A connection of the harness's own."""
        ca = str(self.tls.ca) if self.tls else None
        return RespClient(self.port, password=self.password, tls_ca=ca)

    def restart(self) -> None:
        """Stops in order and starts again on the same port; data stays only with `appendonly`."""
        self.stop()
        self.start()

    def drop_clients(self) -> None:
        """Closes every other connection from the server's side (CLIENT KILL)."""
        for kind in ("normal", "pubsub"):
            self.command("CLIENT", "KILL", "TYPE", kind, "SKIPME", "yes")

    def remove(self) -> None:
        """Stops the server and removes its folder."""
        self.stop()
        shutil.rmtree(self.folder, ignore_errors=True)

    def __enter__(self) -> RedisServer:
        self.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self.remove()

    def _answers(self) -> bool:
        with contextlib.suppress(OSError, RespError):
            return self.command("PING") == b"PONG"
        return False

    def _write_config(self) -> None:
        lines = {
            "bind": "127.0.0.1",
            "port": str(self.port),
            "dir": str(self.folder),
            "save": '""',
            "appendonly": "yes" if self.appendonly else "no",
            "daemonize": "no",
        }
        if self.password is not None:
            escaped = self.password.replace("\\", "\\\\").replace('"', '\\"')
            lines["requirepass"] = f'"{escaped}"'
        if self.certificate is not None and self.tls is not None:
            lines |= {
                "port": "0",
                "tls-port": str(self.port),
                "tls-cert-file": str(self.certificate[0]),
                "tls-key-file": str(self.certificate[1]),
                "tls-ca-cert-file": str(self.tls.ca),
                "tls-auth-clients": "optional",
            }
        lines |= self.config
        text = [f"{name} {value}" for name, value in lines.items()]
        text += [f"user {name} on {rules}" for name, rules in self.users.items()]
        (self.folder / "redis.conf").write_text("\n".join(text) + "\n")
