"""Our transports under stock Kombu, which loads them by the URL alone."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from servers.process import free_port

PROGRAM = Path(__file__).with_name("stock_program.py")


def run(case: str, url: str, **environment: str) -> None:
    """Runs a case of the program, which must come to its end."""
    done = subprocess.run(
        [sys.executable, "-W", "error", PROGRAM, case, url],
        env=os.environ | environment,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert (done.returncode, done.stdout) == (0, f"{case} done\n"), done.stderr


@pytest.fixture(params=["memory", "sqlite", "redis", "rabbitmq"])
def url(request: pytest.FixtureRequest) -> str:
    """A URL that names our transport, in one of stock Kombu's spellings."""
    if request.param == "memory":
        return "kombu-rs+memory://"
    return f"kombu-rs+{request.getfixturevalue(f'{request.param}_url')}"


@pytest.mark.parametrize("case", ["entities", "consume", "simple", "mixin"])
def test_what_every_transport_does(case: str, url: str) -> None:
    run(case, url)


@pytest.mark.parametrize("broker", ["memory", "redis", "rabbitmq"])
def test_remote_control(broker: str, request: pytest.FixtureRequest) -> None:
    plain = "memory://" if broker == "memory" else request.getfixturevalue(f"{broker}_url")
    run("pidbox", f"kombu-rs+{plain}")


@pytest.mark.parametrize("scheme", ["redis", "amqp"])
def test_errors_are_those_that_kombu_expects(scheme: str) -> None:
    run("errors", f"kombu-rs+{scheme}://user:secret@127.0.0.1:{free_port()}/0")


def test_errors_of_amqp(rabbitmq_url: str) -> None:
    run("amqp_errors", f"kombu-rs+{rabbitmq_url}")


def test_what_a_url_of_amqp_may_say(rabbitmq_url: str) -> None:
    run("amqp_options", f"kombu-rs+{rabbitmq_url}?heartbeat=7&confirm_publish=true&frame_max=8192")


@pytest.mark.parametrize("broker", ["redis", "rabbitmq"])
@pytest.mark.parametrize("case", ["entities", "alternates"])
def test_alternates(case: str, broker: str, request: pytest.FixtureRequest) -> None:
    there = request.getfixturevalue(f"{broker}_url")
    scheme = there.partition("://")[0]
    gone = [f"kombu-rs+{scheme}://127.0.0.1:{free_port()}//" for _ in range(2)]
    run(case, f"{gone[0]};kombu-rs+{there};{gone[1]}")


def test_a_bare_connection_needs_the_call_of_register() -> None:
    """Nothing of Kombu that loads entry points is imported; `register` does without them."""
    code = (
        "import kombu_rs; kombu_rs.register()\n"
        "from kombu import Connection\n"
        "with Connection('kombu-rs+memory://') as connection:\n"
        "    assert type(connection.transport).__module__ == 'kombu_rs.transport.native'\n"
    )
    subprocess.run([sys.executable, "-W", "error", "-c", code], check=True, timeout=60)


def test_kombu_alone_does_not_load_the_native_module() -> None:
    code = (
        "import kombu.serialization, sys\n"
        "assert 'kombu_rs._entry_point' in sys.modules\n"
        "assert 'kombu_rs._native' not in sys.modules\n"
        "assert 'kombu-rs' in __import__('kombu.transport').transport.TRANSPORT_ALIASES\n"
    )
    subprocess.run([sys.executable, "-W", "error", "-c", code], check=True, timeout=60)
