"""The harness itself: what breaks things has to be reliable."""

from __future__ import annotations

import os
import random
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from servers import builds, debian, packages, reaper
from servers.builds import BUILDS
from servers.certificates import Authority
from servers.debian import UnpackFailed, unpack
from servers.packages import ServerMissing, find_program
from servers.process import wait_until
from servers.proxy import FaultProxy
from servers.rabbitmq import RabbitMQServer
from servers.redis import RedisServer
from servers.resp import RespClient, RespError

TESTS = Path(__file__).parents[2]

Connect = Callable[..., RespClient]


@pytest.fixture
def connect() -> Iterator[Connect]:
    """Opens clients that are closed after the test."""
    with ExitStack() as stack:
        yield lambda port, **options: stack.enter_context(RespClient(port, **options))


def test_data_survives_a_kill_with_appendonly(new_redis: Callable[..., RedisServer]) -> None:
    server = new_redis(appendonly=True)
    server.command("SET", "key", "value")
    port = server.port
    server.kill()
    assert not server.is_running()
    server.start()
    assert server.port == port
    assert server.command("GET", "key") == b"value"


def test_a_paused_server_keeps_its_connections(new_redis: Callable[..., RedisServer]) -> None:
    server = new_redis()
    with server.client() as client:
        server.pause()
        client._socket.settimeout(0.2)
        with pytest.raises(TimeoutError):
            client.command("PING")
    server.resume()
    assert server.command("PING") == b"PONG"


def test_passwords_users_and_tls(
    new_redis: Callable[..., RedisServer], authority: Authority
) -> None:
    server = new_redis(tls=authority, password='s e"c\\ret', users={"bob": ">builder ~* +@read"})
    assert server.command("PING") == b"PONG"
    assert server.url().startswith("rediss://:s%20e%22c%5Cret@localhost:")
    with (
        pytest.raises(RespError, match="NOAUTH"),
        RespClient(server.port, tls_ca=str(authority.ca)) as client,
    ):
        client.command("GET", "key")
    with server.client() as client:
        client.command("AUTH", "bob", "builder")
        with pytest.raises(RespError, match="NOPERM"):
            client.command("SET", "key", "value")


def test_a_missing_program_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packages.os, "geteuid", lambda: 1000)
    with pytest.raises(ServerMissing, match="run 'apt-get install no-such-package' as root"):
        find_program("no-such-program", "no-such-package")


def test_a_missing_build_says_how_to_install_it(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(builds, "_FOLDER", tmp_path)
    with pytest.raises(ServerMissing, match=r"valkey-9\.1 is not in .*: run 'make servers'"):
        RedisServer(build="valkey-9.1")
    monkeypatch.setattr(builds, "_BUILD", tmp_path)
    monkeypatch.setenv("KOMBU_RS_TEST_RABBITMQ_BUILD", "rabbitmq-4")
    with pytest.raises(ServerMissing, match=r"RabbitMQ 4 is not in .*: run 'make servers'"):
        RabbitMQServer()
    with pytest.raises(ServerMissing, match=r"no RabbitMQ 'rabbitmq-5': name 'rabbitmq' or"):
        RabbitMQServer(build="rabbitmq-5")


def test_a_newer_debian_that_cannot_be_had(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    folder = tmp_path / "tree"
    monkeypatch.setattr(debian, "ARCHIVE", f"file:{tmp_path}/archive")
    with pytest.raises(UnpackFailed, match="archive trixie Release"):
        unpack(folder, ["rabbitmq-server"])
    monkeypatch.setattr(debian, "KEYS", tmp_path / "keys")
    with pytest.raises(UnpackFailed, match="'apt-get install debian-archive-keyring' as root"):
        unpack(folder, ["rabbitmq-server"])


@pytest.mark.parametrize("build", BUILDS)
def test_a_build_is_what_its_name_says(build: str) -> None:
    with RedisServer(build=build) as server:
        info = dict(
            line.split(":", 1)
            for line in server.command("INFO", "server").decode().splitlines()
            if ":" in line
        )
    kind, _, version = build.partition("-")
    shown = info["valkey_version" if kind == "valkey" else "redis_version"]
    assert shown.startswith(f"{version}." if version else "")


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT, signal.SIGTERM])
def test_nothing_is_left_behind(how: signal.Signals) -> None:
    """However the test process ends, its servers end and their folders go."""
    script = (
        "import sys, time; from servers.redis import RedisServer\n"
        "server = RedisServer(); server.start()\n"
        "print(server.pid, server.folder, flush=True); time.sleep(60)\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", script],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        env=os.environ | {"PYTHONPATH": str(TESTS)},
    ) as run:
        assert run.stdout is not None
        pid, folder = run.stdout.readline().split()
        assert Path(folder).is_dir()
        run.send_signal(how)
    wait_until(lambda: not _runs(int(pid)), what="the server to end")
    wait_until(lambda: not Path(folder).exists(), what="the folder to go")


def _runs(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_proxy_cuts_resets_and_refuses(
    redis_server: RedisServer, new_proxy: Callable[[int], FaultProxy], connect: Connect
) -> None:
    proxy = new_proxy(redis_server.port)
    client = connect(proxy.port)
    assert client.command("PING") == b"PONG"
    assert proxy.passed("up") > 0
    assert proxy.passed("down") == len(b"+PONG\r\n")
    proxy.cut()
    with pytest.raises(ConnectionError):
        client.command("PING")
    client = connect(proxy.port)
    client.command("PING")
    proxy.reset()
    with pytest.raises(ConnectionResetError):
        client._socket.recv(1)
    proxy.refuse()
    with pytest.raises(ConnectionRefusedError):
        connect(proxy.port)
    proxy.heal()
    assert connect(proxy.port).command("PING") == b"PONG"


def test_proxy_swallows_holds_and_delays(
    redis_server: RedisServer, new_proxy: Callable[[int], FaultProxy], connect: Connect
) -> None:
    proxy = new_proxy(redis_server.port)
    client = connect(proxy.port, timeout=0.2)
    proxy.blackhole("down")
    with pytest.raises(TimeoutError):
        client.command("SET", "swallowed", "1")
    assert redis_server.command("GET", "swallowed") == b"1"
    proxy.heal()
    client._socket.sendall(b"*1\r\n$4\r\nPING\r\n")
    with pytest.raises(TimeoutError):
        client._socket.recv(1)  # a stream that has lost bytes stays dead
    client = connect(proxy.port, timeout=0.2)
    proxy.hold("up")
    with pytest.raises(TimeoutError):
        client.command("SET", "held", "1")
    assert redis_server.command("GET", "held") is None
    proxy.heal()
    wait_until(lambda: redis_server.command("GET", "held") == b"1", what="the held bytes")
    client = connect(proxy.port, timeout=0.2)
    proxy.delay(0.5, "down")
    with pytest.raises(TimeoutError):
        client.command("PING")


def test_proxy_cuts_in_the_middle_of_a_command(
    redis_server: RedisServer, new_proxy: Callable[[int], FaultProxy], connect: Connect
) -> None:
    proxy = new_proxy(redis_server.port)
    client = connect(proxy.port)
    proxy.cut_after(20)
    with pytest.raises(ConnectionError):
        client.command("SET", "key", "x" * 100)
    assert proxy.passed("up") == 20
    assert redis_server.command("GET", "key") is None


def test_proxy_leaves_connections_half_open(
    redis_server: RedisServer, new_proxy: Callable[[int], FaultProxy], connect: Connect
) -> None:
    proxy = new_proxy(redis_server.port)
    old = connect(proxy.port, timeout=0.2)
    assert old.command("PING") == b"PONG"
    proxy.half_open()
    with pytest.raises(TimeoutError):
        old.command("SET", "swallowed", "1")
    assert connect(proxy.port).command("PING") == b"PONG"
    assert redis_server.command("GET", "swallowed") is None


def test_proxy_half_closes(
    redis_server: RedisServer, new_proxy: Callable[[int], FaultProxy], connect: Connect
) -> None:
    proxy = new_proxy(redis_server.port)
    with socket.create_connection(("127.0.0.1", proxy.port), 5) as client:
        wait_until(lambda: proxy.open_connections == 1, what="the connection")
        proxy.half_close("down")
        assert client.recv(1) == b""
        client.sendall(b"*3\r\n$3\r\nSET\r\n$4\r\nhalf\r\n$1\r\n1\r\n")
        wait_until(lambda: redis_server.command("GET", "half") == b"1", what="the command")
        client.sendall(b"*1\r\n$4\r\nPING\r\n")  # what is answered is dropped
        client.sendall(b"*3\r\n$3\r\nSET\r\n$4\r\nhalf\r\n$1\r\n2\r\n")
        wait_until(lambda: redis_server.command("GET", "half") == b"2", what="another command")


def test_proxy_garbles_one_chunk(
    redis_server: RedisServer, new_proxy: Callable[[int], FaultProxy]
) -> None:
    proxy = new_proxy(redis_server.port)
    with socket.create_connection(("127.0.0.1", proxy.port), 5) as client:

        def answer() -> bytes:
            client.sendall(b"PING\r\n")
            return client.recv(100)

        assert answer() == b"+PONG\r\n"
        proxy.garble(random.Random(1), "down")
        garbage = answer()
        assert garbage != b"+PONG\r\n"
        assert len(garbage) == len(b"+PONG\r\n")
        assert answer() == b"+PONG\r\n"


def test_a_node_is_paused_and_killed_with_all_its_processes() -> None:
    with RabbitMQServer() as server:
        server.pause()
        states = [
            Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
            for pid in reaper.session_members(server.pid, reaper.start_time(server.pid) or 0)
        ]
        assert len(states) > 1
        assert set(states) == {"T"}
        server.resume()
        server.api("GET", "overview")
        server.kill()
        with pytest.raises(OSError):
            socket.create_connection(("127.0.0.1", server.port), 5)
        server.start()
