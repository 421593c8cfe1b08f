"""From a connection and a channel's attributes to the URL and the options of the native core.

Two vocabularies meet here. Kombu's hooks (``Channel._connparams``, ``Channel._get_pool``) speak
redis-py's: the keyword arguments of its connections. The core has a URL and options.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping

from ..._typing import Any
from ...utils.imports import symbol_by_name
from ...utils.url import safequote, url_to_parts

__all__ = ("connection_parameters", "database", "endpoint")

#: Where the server is when nobody says.
DEFAULT_HOST = "127.0.0.1"
DEFAULT_PORT = 6379

# What connections of redis-py are told and the core understands under the same name.
_SAME = (
    "client_name",
    "health_check_interval",
    "socket_timeout",
    "socket_connect_timeout",
    "socket_keepalive",
    "socket_keepalive_options",
)

# The others that they take. What has no meaning here does no harm, as in a pool of redis-py's.
_KNOWN = frozenset(
    {
        *_SAME,
        "cache",
        "cache_config",
        "command_packer",
        "connection_class",
        "credential_provider",
        "db",
        "decode_responses",
        "driver_info",
        "encoding",
        "encoding_errors",
        "event_dispatcher",
        "host",
        "lib_name",
        "lib_version",
        "maint_notifications_config",
        "max_connections",
        "parser_class",
        "password",
        "path",
        "port",
        "protocol",
        "redis_connect_func",
        "retry",
        "retry_on_error",
        "retry_on_timeout",
        "socket_read_size",
        "socket_type",
        "username",
    }
)


def refuse_unknown(named: Mapping[str, Any], options: Collection[str] = ()) -> None:
    """Raise for what connections of redis-py do not take, as they do.

    Arguments:
        named: what a connection would be made with.
        options: more that may be there.

    Raises:
        TypeError: it names the argument, and how it is spelt for TLS.
    """
    for name in named:
        if name in _KNOWN or name in options or name.startswith("ssl_"):
            continue
        if name in (
            "ca_certs",
            "ca_path",
            "ca_data",
            "certfile",
            "keyfile",
            "cert_reqs",
            "ciphers",
        ):
            raise TypeError(f"Redis takes no argument {name!r}: it is spelt 'ssl_{name}'")
        raise TypeError(
            f"connections to Redis take no argument {name!r}; those of TLS begin with 'ssl_', and "
            f"others are {', '.join(sorted(_SAME))}"
        )


def database(vhost: Any) -> int:
    """Return the number of a database from what a URL has behind the host.

    Raises:
        ValueError: it is not a number.
    """
    if isinstance(vhost, int):
        return vhost
    text = (vhost or "").strip("/")
    if not text:
        return 0
    try:
        return int(text)
    except ValueError:
        raise ValueError(f"the database of a Redis URL must be a number, got {vhost!r}") from None


def connection_parameters(channel: Any) -> dict[str, Any]:
    """Return how to connect, in the words of redis-py's connections.

    Arguments:
        channel: whose attributes and connection (``channel.connection.client``) say it.

    Raises:
        ValueError: the database is not a number; the credential provider is none.
        ImportError: the credential provider cannot be imported.
    """
    client = channel.connection.client
    parameters: dict[str, Any] = {
        "host": client.hostname or DEFAULT_HOST,
        "port": client.port or channel.connection.default_port,
        "username": client.userid,
        "password": _secret(client.password),
        "max_connections": channel.max_connections,
        "socket_timeout": channel.socket_timeout,
        "socket_connect_timeout": channel.socket_connect_timeout,
        "socket_keepalive": channel.socket_keepalive,
        "socket_keepalive_options": channel.socket_keepalive_options,
        "health_check_interval": channel.health_check_interval,
        "retry_on_timeout": channel.retry_on_timeout,
        "client_name": channel.client_name,
    }
    if isinstance(client.ssl, Mapping):
        parameters.update(client.ssl)
    provider = getattr(client, "credential_provider", None)
    vhost = client.virtual_host
    if "://" in parameters["host"]:
        url, query = _from_url(parameters.pop("host"), parameters.pop("port"))
        vhost = query.pop("virtual_host", url.pop("virtual_host", None))
        provider = query.pop("credential_provider", provider)
        if "path" in url:
            # What is about TCP alone, redis-py's unix sockets do not take.
            for name in [name for name in parameters if name.startswith("socket_")]:
                if name != "socket_timeout":
                    del parameters[name]
        parameters.update(url)
        parameters.update(query)
    if provider:
        channel._process_credential_provider(provider, parameters)
    parameters["db"] = channel._prepare_virtual_host(vhost)
    return parameters


def _secret(password: Any) -> Any:
    return password() if callable(password) else password


def _from_url(url: str, port: int) -> tuple[dict[str, Any], dict[str, Any]]:
    """Take apart a URL that the connection has left whole: what it says, and its query."""
    parts = url_to_parts(url)
    named: dict[str, Any] = {"username": parts.username, "password": parts.password}
    if parts.scheme == "socket":
        named["path"] = "/" + (parts.path or "").lstrip("/")
    else:
        named["host"] = parts.hostname or DEFAULT_HOST
        named["port"] = parts.port or port
        named["virtual_host"] = parts.path
    return named, dict(parts.query)


def url_options(client: Any) -> dict[str, Any]:
    """Return the options in the URL that the connection has left whole, if it has."""
    hostname = client.hostname or ""
    if "://" not in hostname:
        return {}
    query = dict(url_to_parts(hostname).query)
    for name in ("virtual_host", "credential_provider"):
        query.pop(name, None)
    return query


def resolve_provider(provider: Any, wanted: Any) -> Any:
    """Return an instance of a credential provider.

    Arguments:
        provider: an instance, or the name of a class (``"package.module.Class"``).
        wanted: redis-py's class that it must be of.

    Raises:
        ImportError: there is no such class.
        ValueError: it is not a credential provider.
    """
    if isinstance(provider, str):
        provider = symbol_by_name(provider)()
    if not isinstance(provider, wanted):
        raise ValueError(
            f"Credential provider {provider!r} is not an instance of redis.CredentialProvider"
        )
    return provider


def credentials(parameters: Mapping[str, Any]) -> tuple[str | None, str | None]:
    """Return user and password: a credential provider's, if there is one.

    Arguments:
        parameters: as redis-py's connections take them.
    """
    username, password = parameters.get("username"), parameters.get("password")
    provider = parameters.get("credential_provider")
    if provider is not None:
        given = provider.get_credentials()
        username, password = given if len(given) == 2 else (None, *given)
    return username or None, None if password is None else str(password)


def endpoint(parameters: Mapping[str, Any], secure: bool) -> tuple[str, dict[str, Any]]:
    """Return the URL and the connection's options for the core.

    Arguments:
        parameters: as redis-py's connections take them.
        secure: speak TLS.

    Raises:
        ValueError, NotImplementedError: one of them cannot be had here.
    """
    if parameters.get("redis_connect_func"):
        raise NotImplementedError(
            "redis_connect_func is called by redis-py's connections: the native Redis transport "
            "opens its links itself"
        )
    username, password = credentials(parameters)
    options = {name: parameters[name] for name in _SAME if parameters.get(name) is not None}
    tls = {
        name: _plain(value)
        for name, value in parameters.items()
        if name.startswith("ssl_") and value is not None
    }
    if secure:
        options["ssl"] = True
        options.update(tls)
    login = ""
    if password or username:
        login = f"{safequote(username or '')}:{safequote(str(password or ''))}@"
    db = int(parameters.get("db") or 0)
    path = parameters.get("path")
    if path:
        from urllib.parse import quote

        return f"redis+socket://{login}{quote(str(path))}?virtual_host={db}", options
    host = str(parameters.get("host") or "localhost")
    if ":" in host and not host.startswith("["):
        host = f"[{host}]"
    elif "/" in host:
        host = safequote(host)
    return f"redis://{login}{host}:{parameters.get('port') or DEFAULT_PORT}/{db}", options


def from_pool(pool: Any) -> tuple[str, dict[str, Any]]:
    """Return URL and options for where the connections of a pool of redis-py would go.

    Raises:
        TypeError: it is not such a pool.
        NotImplementedError: its connections are of a class that cannot be had here.
    """
    parameters = getattr(pool, "connection_kwargs", None)
    if not isinstance(parameters, Mapping):
        raise TypeError(
            f"{type(pool).__name__} is no connection pool of redis-py: the native Redis transport "
            f"asks its connection_kwargs where to connect"
        )
    secure = is_secure(getattr(pool, "connection_class", None))
    url, options = endpoint(parameters, secure)
    manager = getattr(pool, "sentinel_manager", None)
    sentinels = getattr(manager, "sentinels", None)
    if manager is not None and isinstance(sentinels, list):
        where = [sentinel.connection_pool.connection_kwargs for sentinel in sentinels]
        options.update(
            sentinels=[[node["host"], node["port"]] for node in where],
            master_name=pool.service_name,
            min_other_sentinels=manager.min_other_sentinels,
            sentinel_kwargs=plain_options(manager.sentinel_kwargs),
        )
        url = as_sentinel(url)
    return url, options


def as_sentinel(url: str) -> str:
    """Return a Redis URL with the scheme for sentinels."""
    return "sentinel" + url[len("redis") :]


def as_cluster(url: str) -> str:
    """Return a Redis URL with the scheme for clusters."""
    return "rediscluster" + url[len("redis") :]


def is_secure(connection_class: Any) -> bool:
    """Whether connections of a class speak TLS.

    Raises:
        NotImplementedError: it is not one of redis-py's.
    """
    if not isinstance(connection_class, type):
        return False
    for cls in connection_class.__mro__[:-1]:
        if cls.__module__.partition(".")[0] not in ("redis", "kombu_rs", "typing"):
            raise NotImplementedError(
                f"connection_class {connection_class.__module__}.{connection_class.__qualname__}: "
                f"the native Redis transport opens its links itself and has no use for a class "
                f"of connections"
            )
    return any(cls.__name__ == "SSLConnection" for cls in connection_class.__mro__)


def plain_options(options: Mapping[str, Any] | None) -> dict[str, Any]:
    return {name: _plain(value) for name, value in (options or {}).items()}


def _plain(value: Any) -> Any:
    """A value without the enums of the ssl module, and of a type that the core can read."""
    if isinstance(value, int) and not isinstance(value, bool):
        return int(value)
    if isinstance(value, bytes):
        return value.decode("ascii", "replace")
    if value is None or isinstance(value, (str, bool, float, list, tuple, dict)):
        return value
    return str(value)


def sentinel_nodes(client: Any, default_port: int) -> list[list[Any]]:
    """Return host and port of all sentinels that the URLs of a connection name."""
    return _nodes(client, default_port, ("sentinel://",))


def cluster_nodes(client: Any, default_port: int) -> list[list[Any]]:
    """Return host and port of all nodes of a cluster that the URLs of a connection name."""
    return _nodes(client, default_port, ("rediscluster://", "redisclusters://"))


def _nodes(client: Any, default_port: int, schemes: tuple[str, ...]) -> list[list[Any]]:
    nodes: list[list[Any]] = []
    for url in client.alt or ():
        if url and url.startswith(schemes):
            parts = url_to_parts(url)
            nodes.append([parts.hostname or "localhost", parts.port or default_port])
    return nodes or [[client.hostname or "localhost", client.port or default_port]]
