"""A RabbitMQ node of the tests' own."""

from __future__ import annotations

import base64
import contextlib
import http.client
import json
import os
import shutil
import signal
import socket
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from typing import Any
from urllib.parse import quote
from uuid import uuid4

from . import reaper
from .builds import RABBITMQ_4, find_rabbitmq
from .certificates import Authority
from .packages import find_program
from .process import Process, ServerFailed, free_port, temporary_folder, wait_until


class RabbitMQServer(Process):
    """RabbitMQ with its management API on free ports of 127.0.0.1, data in a temporary folder.

    It brings its own epmd (Erlang's name service), on a free port too: no other node on the
    machine is asked or disturbed. `tls` adds a TLS listener with a certificate of that authority;
    `config` holds further settings of rabbitmq.conf, `plugins` further plugins; `build` is one of
    ``servers.builds``.
    """

    def __init__(
        self,
        *,
        tls: Authority | None = None,
        config: Mapping[str, str] | None = None,
        plugins: Sequence[str] = (),
        build: str = "",
    ) -> None:
        self.folder = temporary_folder("rabbitmq")
        self.tls = tls
        self.config = dict(config or {})
        self.plugins = ("rabbitmq_management", *plugins)
        self.port = self.tls_port = self.management_port = self._distribution_port = 0
        self._certificate = tls.issue("rabbitmq") if tls else None
        self._names: Process | None = None
        self._scripts, self._needs = find_rabbitmq(build)
        program = f"{self._scripts}/rabbitmq-server"
        super().__init__([program], log=self.folder / "log", cwd=self.folder)

    def url(self, vhost: str = "/", *, tls: bool = False) -> str:
        """The URL of a virtual host, as the user guest."""
        where = f"guest:guest@localhost:{self.tls_port}" if tls else f"localhost:{self.port}"
        return f"{'amqps' if tls else 'amqp'}://{where}/{quote(vhost, safe='')}"

    def start(self) -> None:
        """Starts the node, on its earlier ports if it ran before, and waits until it answers."""
        if not self.port:
            self.port, self.management_port, self._distribution_port = (
                free_port() for _ in range(3)
            )
            self.tls_port = free_port() if self.tls else 0
        if self._names is None:
            self._start_names()
        self._write_config()
        super().start()
        self.wait_until(self._answers, 120.0, f"RabbitMQ on port {self.port}")

    def stop(self, timeout: float = 30.0) -> None:
        """Stops the node in order; what it keeps stays on disk."""
        if self.is_running():
            self.resume()
        super().stop(timeout)

    def restart(self) -> None:
        """Stops in order and starts again on the same ports; what is durable stays."""
        self.stop()
        self.start()

    # The process is a shell whose child is the node.

    def kill(self) -> None:
        """SIGKILL to the node, as when its machine dies; `start` starts it again."""
        reaper.kill_session(self.pid, self._started)
        self.wait()
        # Its many threads end one by one, and the last one closes its sockets.
        wait_until(lambda: not self._listens(), what="the node to be gone")

    def pause(self) -> None:
        """SIGSTOP: its sockets stay open, nothing moves."""
        self._signal_all(signal.SIGSTOP)

    def resume(self) -> None:
        """SIGCONT."""
        self._signal_all(signal.SIGCONT)

    def _signal_all(self, number: signal.Signals) -> None:
        for pid in reaper.session_members(self.pid, self._started):
            os.kill(pid, number)

    def set_internal(self, **settings: int) -> None:
        """Sets what rabbitmq.conf has no name for, until the node stops."""
        for name, value in settings.items():
            self.ctl("eval", f"application:set_env(rabbit, {name}, {value}).")

    def remove(self) -> None:
        """Stops everything and removes the folder."""
        self.stop()
        if self._names is not None:
            self._names.stop()
            self._names = None
        shutil.rmtree(self.folder, ignore_errors=True)

    def new_vhost(self) -> str:
        """Makes an empty virtual host that guest may use; returns its name."""
        name = f"test-{uuid4().hex[:12]}"
        self.api("PUT", f"vhosts/{name}")
        everything = {"configure": ".*", "write": ".*", "read": ".*"}
        self.api("PUT", f"permissions/{name}/guest", everything)
        return name

    def delete_vhost(self, name: str) -> None:
        """Removes a virtual host with all that is in it; its connections are closed."""
        self.api("DELETE", f"vhosts/{name}")

    @contextlib.contextmanager
    def vhost(self) -> Iterator[str]:
        """An empty virtual host, by its name; it is removed afterwards."""
        name = self.new_vhost()
        try:
            yield name
        finally:
            self.delete_vhost(name)

    def drop_clients(self, vhost: str) -> None:
        """Closes every connection to a virtual host from the node's side, as an operator does.

        The node takes some seconds to list a new connection: this waits until it lists one.
        """
        listed = self.wait_until(
            lambda: self.api("GET", f"vhosts/{vhost}/connections"), 30.0, f"a client of {vhost}"
        )
        for facts in listed:
            with contextlib.suppress(ServerFailed):  # it may have gone by itself
                self.api("DELETE", f"connections/{quote(facts['name'], safe='')}")

    def ctl(self, *arguments: str) -> str:
        """Runs ``rabbitmqctl`` on the node; returns what it prints."""
        done = subprocess.run(
            [f"{self._scripts}/rabbitmqctl", "--quiet", *arguments],
            env=self.env,
            cwd=self.folder,
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
        )
        if done.returncode:
            raise ServerFailed(f"rabbitmqctl {' '.join(arguments)}: {done.stdout}{done.stderr}")
        return done.stdout

    def api(self, method: str, path: str, body: Any = None) -> Any:
        """One request to the management API; returns what its JSON says."""
        connection = http.client.HTTPConnection("127.0.0.1", self.management_port, timeout=30)
        login = base64.b64encode(b"guest:guest").decode()
        headers = {"Authorization": f"Basic {login}", "Content-Type": "application/json"}
        with contextlib.closing(connection):
            connection.request(method, f"/api/{path}", json.dumps(body) if body else None, headers)
            answer = connection.getresponse()
            text = answer.read()
        if answer.status >= 300:
            raise ServerFailed(f"{method} /api/{path}: {answer.status} {text.decode()[:500]}")
        return json.loads(text) if text else None

    def __enter__(self) -> RabbitMQServer:
        self.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self.remove()

    def _answers(self) -> bool:
        with contextlib.suppress(OSError, http.client.HTTPException, ServerFailed):
            self.api("GET", "overview")
            return self._listens()
        return False

    def _listens(self) -> bool:
        with contextlib.suppress(OSError):
            socket.create_connection(("127.0.0.1", self.port), 5).close()
            return True
        return False

    def _start_names(self) -> None:
        port = free_port()
        self._names = Process(
            [find_program("epmd", "erlang-base"), "-port", str(port), "-address", "127.0.0.1"],
            log=self.folder / "epmd.log",
        )
        self._names.start()
        names = self._names

        def answers() -> bool:
            with contextlib.suppress(OSError):
                socket.create_connection(("127.0.0.1", port), 5).close()
                return True
            return False

        names.wait_until(answers, 10.0, f"epmd on port {port}")
        self.env = (
            os.environ
            | self._needs
            | {
                "HOME": str(self.folder),
                "ERL_EPMD_PORT": str(port),
                "ERL_EPMD_ADDRESS": "127.0.0.1",
                "RABBITMQ_NODENAME": "test@localhost",
                "RABBITMQ_DIST_PORT": str(self._distribution_port),
                "RABBITMQ_MNESIA_BASE": str(self.folder / "mnesia"),
                "RABBITMQ_LOG_BASE": str(self.folder / "logs"),
                "RABBITMQ_LOGS": "-",
                "RABBITMQ_PID_FILE": str(self.folder / "pid"),
                "RABBITMQ_ENABLED_PLUGINS_FILE": str(self.folder / "plugins"),
                "RABBITMQ_CONFIG_FILE": str(self.folder / "rabbitmq"),
                "RABBITMQ_CONF_ENV_FILE": os.devnull,
                # Idle schedulers sleep at once: the machine has other work.
                "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": (
                    "-kernel inet_dist_use_interface {127,0,0,1} +sbwt none +sbwtdcpu none"
                ),
            }
        )

    def _write_config(self) -> None:
        lines = {
            "listeners.tcp.1": f"127.0.0.1:{self.port}",
            "management.tcp.ip": "127.0.0.1",
            "management.tcp.port": str(self.management_port),
        }
        if self._certificate is not None and self.tls is not None:
            lines |= {
                "listeners.ssl.1": f"127.0.0.1:{self.tls_port}",
                "ssl_options.cacertfile": str(self.tls.ca),
                "ssl_options.certfile": str(self._certificate[0]),
                "ssl_options.keyfile": str(self._certificate[1]),
                "ssl_options.verify": "verify_peer",
                "ssl_options.fail_if_no_peer_cert": "false",
            }
        lines |= self.config
        text = "".join(f"{name} = {value}\n" for name, value in lines.items())
        (self.folder / "rabbitmq.conf").write_text(text)
        (self.folder / "plugins").write_text(f"[{','.join(self.plugins)}].\n")


def rabbitmq_of_tomorrow(**options: Any) -> RabbitMQServer:
    """RabbitMQ 4 without what it calls deprecated and programs use.

    A prefetch limit for a whole channel is one for each consumer there, and queues that are neither
    durable nor exclusive are refused.
    """
    denied = ("global_qos", "transient_nonexcl_queues")
    config = {f"deprecated_features.permit.{name}": "false" for name in denied}
    return RabbitMQServer(build=RABBITMQ_4, config=config, **options)
