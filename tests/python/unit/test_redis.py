"""The parts of ``kombu_rs.transport.redis`` that need no server."""

from __future__ import annotations

import ssl
from types import SimpleNamespace

import pytest
import redis

from kombu_rs import Connection
from kombu_rs.transport import redis as module
from kombu_rs.transport.redis import hooks, parameters


def client(**parts):
    return SimpleNamespace(
        **{
            "hostname": None,
            "port": None,
            "userid": None,
            "password": None,
            "virtual_host": "/",
            "ssl": None,
            "alt": [],
            **parts,
        }
    )


class Settings:
    """What :func:`parameters.connection_parameters` asks of a channel."""

    max_connections = 10
    socket_timeout = socket_connect_timeout = socket_keepalive = socket_keepalive_options = None
    health_check_interval = 25
    retry_on_timeout = client_name = None
    _prepare_virtual_host = staticmethod(parameters.database)

    def __init__(self, **parts):
        self.connection = SimpleNamespace(client=client(**parts), default_port=6379)

    def _process_credential_provider(self, provider, named):
        named["credential_provider"] = parameters.resolve_provider(
            provider, redis.CredentialProvider
        )


class Known(redis.CredentialProvider):
    def get_credentials(self):
        return ("known",)


@pytest.mark.parametrize(
    ("vhost", "number"), [(None, 0), ("", 0), ("/", 0), ("//", 0), ("/12", 12), ("3", 3), (4, 4)]
)
def test_database(vhost, number):
    assert parameters.database(vhost) == number


def test_a_database_is_a_number():
    with pytest.raises(ValueError, match="'/jobs'"):
        parameters.database("/jobs")


@pytest.mark.parametrize(
    ("parts", "url"),
    [
        ({}, "redis://127.0.0.1:6379/0"),
        ({"hostname": "h", "port": 7, "virtual_host": "/5"}, "redis://h:7/5"),
        ({"hostname": "::1", "password": "p@ss/"}, "redis://:p%40ss%2F@[::1]:6379/0"),
        ({"hostname": "h", "userid": "me", "password": lambda: "x"}, "redis://me:x@h:6379/0"),
        ({"hostname": "redis://a:b@h:8/2"}, "redis://a:b@h:8/2"),
        (
            {"hostname": "socket://:foo@/run/redis.sock?virtual_host=3"},
            "redis+socket://:foo@/run/redis.sock?virtual_host=3",
        ),
        ({"hostname": "h", "credential_provider": Known()}, "redis://:known@h:6379/0"),
        ({"hostname": "redis://h?credential_provider=nowhere.Provider"}, ImportError),
        ({"hostname": "h", "credential_provider": "abc.ABC"}, ValueError),
    ],
)
def test_where_to_connect(parts, url):
    if not isinstance(url, str):
        with pytest.raises(url):
            parameters.connection_parameters(Settings(**parts))
        return
    assert parameters.endpoint(parameters.connection_parameters(Settings(**parts)), False)[0] == url


def test_options_of_tls_and_sockets():
    settings = Settings(ssl={"ssl_cert_reqs": ssl.CERT_REQUIRED, "ssl_ca_certs": "/ca.pem"})
    settings.socket_timeout, settings.client_name = 3, "me"
    named = parameters.connection_parameters(settings)
    assert (named["ssl_ca_certs"], named["health_check_interval"]) == ("/ca.pem", 25)
    _, options = parameters.endpoint(named, True)
    assert options == {
        "client_name": "me",
        "health_check_interval": 25,
        "socket_timeout": 3,
        "ssl": True,
        "ssl_ca_certs": "/ca.pem",
        "ssl_cert_reqs": 2,
    }
    assert type(options["ssl_cert_reqs"]) is int
    assert "ssl" not in parameters.endpoint(named, False)[1]
    with pytest.raises(NotImplementedError, match="redis_connect_func"):
        parameters.endpoint({"redis_connect_func": print}, False)


def test_pools_of_redis_py():
    pool = redis.ConnectionPool.from_url("rediss://me:pw@h:7/3")
    url, options = parameters.from_pool(pool)
    assert (url, options["ssl"]) == ("redis://me:pw@h:7/3", True)
    with pytest.raises(TypeError, match="object is no connection pool"):
        parameters.from_pool(object())

    class Own(redis.Connection):
        pass

    Own.__module__ = "program"
    with pytest.raises(NotImplementedError, match="program"):
        parameters.from_pool(redis.ConnectionPool(connection_class=Own))


def test_sentinels_are_all_urls():
    url = "sentinel://a;sentinel://u:p@b:1;sentinel://c"
    alternates = Connection(url, transport_options={"master_name": "m"}).alt
    nodes = parameters.sentinel_nodes(client(hostname="a", alt=alternates), 26379)
    assert nodes == [["a", 26379], ["b", 1], ["c", 26379]]
    assert parameters.sentinel_nodes(client(port=5), 26379) == [["localhost", 5]]


def test_replaced_methods_are_found():
    class Base:
        def _connparams(self): ...

        def _get_pool(self): ...

    ours = hooks.snapshot(Base)

    class Derived(Base):
        def _get_pool(self): ...

    assert not hooks.is_replaced(Base(), ours, "_get_pool")
    assert hooks.is_replaced(Derived(), ours, "_get_pool")
    assert not hooks.is_replaced(Derived(), ours, "_connparams")
    one = Base()
    one._connparams = dict
    assert hooks.is_replaced(one, ours, "_connparams")


def test_prefixes():
    mixin = module.GlobalKeyPrefixMixin()
    mixin.global_keyprefix = "p:"
    for args, prefixed in [
        (["LLEN", "a"], ["LLEN", "p:a"]),
        (["LPUSH", b"a", b"x"], ["LPUSH", b"p:a", b"x"]),
        (["DEL", "a", "b"], ["DEL", "p:a", "p:b"]),
        (["BRPOP", "a", "b", 1], ["BRPOP", "p:a", "p:b", 1]),
        (["EVALSHA", "sha", 1, "a", "x"], ["EVALSHA", "sha", 1, "p:a", "x"]),
        (["PING"], ["PING"]),
    ]:
        assert mixin._prefix_args(args) == prefixed


def test_a_mutex_is_held_by_one():
    log = []

    class Lock:
        def __init__(self, name, timeout):
            log.append((name, timeout))
            self.free = name == "free"

        def acquire(self, blocking):
            assert blocking is False
            return self.free

        def release(self):
            log.append("released")
            raise redis.exceptions.LockNotOwnedError("it took too long")

    clients = SimpleNamespace(lock=Lock)
    with module.Mutex(clients, "free", 5):
        pass
    with pytest.raises(module.MutexHeld), module.Mutex(clients, "held", 5):
        pytest.fail("somebody else has it")
    assert log == [("free", 5), "released", ("held", 5)]


def test_names_of_redis_py_are_there():
    assert module.redis is redis
    assert module.exceptions is redis.exceptions
    assert module.CredentialProvider is redis.CredentialProvider
    assert issubclass(module.PrefixedStrictRedis, redis.Redis)
    assert module.Channel.connection_class is redis.Connection
    assert module.SentinelChannel.connection_class_ssl is module.SentinelManagedSSLConnection
    assert module.get_redis_ConnectionError() is redis.exceptions.ConnectionError
    errors = module.get_redis_error_classes()
    assert redis.exceptions.TimeoutError in errors.connection_errors
    assert redis.exceptions.DataError in errors.channel_errors
    with pytest.raises(AttributeError, match="nothing"):
        _ = module.nothing


def test_the_poller_hands_on_to_the_transport():
    class Transport:
        drained = read = 0

        def fileno(self):
            return 7

        def drain_events(self, connection, timeout):
            assert (connection, timeout) == (self, 3)
            self.drained += 1

        def on_readable(self, loop):
            self.read += 1

    class Channel:
        unacked_restore_limit = None
        active_queues = ("q",)

        def __init__(self, transport):
            self.connection = transport
            self.restored = []
            self.qos = SimpleNamespace(restore_visible=lambda num: self.restored.append(num))

    poller = module.MultiChannelPoller()
    transport = Transport()
    channels = [Channel(transport), Channel(transport)]
    for channel in channels:
        poller.add(channel)
    assert poller.fds == {7: transport}
    poller.get(timeout=3)
    poller.handle_event(7, module.READ)
    poller.on_readable(8)
    assert (transport.drained, transport.read) == (1, 1)
    channels[1].active_queues = ()
    poller.maybe_restore_messages()
    assert [channel.restored for channel in channels] == [[None], []]
    poller.discard(channels[0])
    poller.close()
    assert poller.fds == {}
