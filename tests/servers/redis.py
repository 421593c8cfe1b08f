"""A Redis server of the tests' own."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import quote

from .builds import SYSTEM, find_build
from .certificates import Authority
from .process import Process, ServerFailed, free_port, temporary_folder
from .resp import RespClient, RespError


class RedisServer(Process):
    """redis-server on a free port of 127.0.0.1 with its data in a temporary folder.

    Parameters: `password` for the default user; `users` maps further names to ACL rules such as
    ``">secret ~* +@all"``; `tls` serves TLS alone, with a certificate of that authority, or of
    `certificate` (certificate and key files) when given; `appendonly` keeps data over `kill` and
    `restart`; `config` holds further settings of redis.conf, dashes in names allowed; `unknown` are
    commands that the server does not know; `build` is one of `servers.builds`.
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
        unknown: Iterable[str] = (),
        build: str = SYSTEM,
    ) -> None:
        self.folder = temporary_folder("redis")
        self.password = password
        self.users = dict(users or {})
        self.tls = tls
        self.certificate = certificate or (tls.issue("server") if tls else None)
        self.appendonly = appendonly
        self.config = dict(config or {})
        self.unknown = tuple(unknown)
        self.port = 0
        super().__init__([find_build(build), self.folder / "redis.conf"], log=self.folder / "log")

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
        text += [f'rename-command {command} ""' for command in self.unknown]
        text += [f"user {name} on {rules}" for name, rules in self.users.items()]
        (self.folder / "redis.conf").write_text("\n".join(text) + "\n")


class Sentinel(Process):
    """redis-server as a sentinel on a free port of 127.0.0.1, watching one master.

    Parameters: `master` and its `name`; `password` for the sentinel itself; `down_after`: seconds
    of silence after which the master counts as down.
    """

    def __init__(
        self,
        master: RedisServer,
        name: str = "mymaster",
        *,
        password: str | None = None,
        down_after: float = 0.5,
    ) -> None:
        self.folder = temporary_folder("sentinel")
        self.master = master
        self.name = name
        self.password = password
        self.down_after = down_after
        self.port = 0
        program = find_build(SYSTEM)
        config = self.folder / "sentinel.conf"
        super().__init__([program, config, "--sentinel"], log=self.folder / "log")

    def url(self, db: int = 0) -> str:
        """The URL of database `db` of the master."""
        return f"sentinel://127.0.0.1:{self.port}/{db}"

    def start(self) -> None:
        """Starts the sentinel and waits until it knows its master."""
        self.port = free_port()
        lines = [
            "bind 127.0.0.1",
            f"port {self.port}",
            f"dir {self.folder}",
            f"sentinel monitor {self.name} 127.0.0.1 {self.master.port} 1",
            f"sentinel down-after-milliseconds {self.name} {int(self.down_after * 1000)}",
            f"sentinel failover-timeout {self.name} 3000",
        ]
        if self.password is not None:
            lines.append(f'requirepass "{self.password}"')
        (self.folder / "sentinel.conf").write_text("\n".join(lines) + "\n")
        super().start()
        self.wait_until(self._knows, 30.0, f"the sentinel on port {self.port}")

    def command(self, *words: str | bytes | int) -> Any:
        """One command on a connection of its own."""
        with RespClient(self.port, password=self.password) as client:
            return client.command(*words)

    def master_port(self) -> int:
        """The port of the server that it takes for the master."""
        return int(self.command("SENTINEL", "GET-MASTER-ADDR-BY-NAME", self.name)[1])

    def replicas(self) -> int:
        """How many replicas it knows that are ready to take over."""
        known = self.command("SENTINEL", "REPLICAS", self.name)
        replicas = [dict(zip(fields[::2], fields[1::2], strict=True)) for fields in known]
        return sum(replica[b"master-link-status"] == b"ok" for replica in replicas)

    def remove(self) -> None:
        """Stops it and removes its folder."""
        self.stop()
        shutil.rmtree(self.folder, ignore_errors=True)

    def __enter__(self) -> Sentinel:
        self.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self.remove()

    def _knows(self) -> bool:
        with contextlib.suppress(OSError, RespError):
            return self.master_port() == self.master.port
        return False
