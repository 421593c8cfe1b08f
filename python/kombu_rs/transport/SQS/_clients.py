"""boto3 clients of a channel, and the credentials they get."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone
from typing import Any, Literal
from weakref import WeakKeyDictionary

from ...asynchronous.crew import LIMIT
from . import _sdk
from ._settings import Settings
from .exceptions import UndefinedQueueException

__all__ = ("Clients", "remember_client", "short_lived", "undefined_queue")

_SUPPORTED_BOTO_SERVICES = Literal["sqs", "sns"]

#: Seconds that AWS lets assumed credentials live when nothing else is said; its minimum too.
STS_TOKEN_TIMEOUT = 900

# How each client was made: (service, arguments), to make another like it.
_recipes: WeakKeyDictionary[Any, tuple[str, dict[str, Any]]] = WeakKeyDictionary()


def _make_client(service: str, arguments: dict[str, Any]) -> Any:
    credentials = arguments["credentials"]
    # A session of its own: boto3's default one is not for more than one thread.
    client = _sdk.boto3.session.Session(**credentials).client(service, **arguments["client"])
    _recipes[client] = service, arguments
    return client


def short_lived(client: Any, config: Any) -> Any:
    """Return a client like ``client`` with the settings of ``config`` on top of its own.

    Returns:
        ``client`` itself if it is not known how it was made.
    """
    try:
        service, arguments = _recipes[client]
    except (KeyError, TypeError):
        return client
    own = arguments["client"]["config"]
    changed = {**arguments["client"], "config": own.merge(config)}
    return _make_client(service, {**arguments, "client": changed})


class Clients(Settings):
    """Makes clients, and keeps them."""

    #: Of clients that give messages back while something ends: seconds are few, tries are one.
    release_client_config: Any = _sdk.Config and _sdk.Config(
        connect_timeout=5, read_timeout=5, retries={"total_max_attempts": 1}
    )

    # The client for queues that are not predefined.
    _sqs: Any = None

    @property
    def _predefined_queue_clients(self) -> dict[str, Any]:
        return self._transport._predefined_queue_clients

    @property
    def _predefined_queue_async_clients(self) -> dict[Any, Any]:
        return self._transport._predefined_queue_async_clients

    @property
    def sts_expiration(self) -> datetime | None:
        """When the credentials of predefined queues, if assumed, have to be renewed."""
        return self._transport._sts_expiration

    @sts_expiration.setter
    def sts_expiration(self, value: datetime | None) -> None:
        self._transport._sts_expiration = value

    def _new_boto_client(
        self,
        service: _SUPPORTED_BOTO_SERVICES,
        region: str | None,
        access_key_id: str | None,
        secret_access_key: str | None,
        session_token: str | None = None,
        config: Any = None,
    ) -> Any:
        """Make a client.

        Arguments:
            service: of which service.
            region: where.
            access_key_id, secret_access_key, session_token: credentials; None: as boto3 finds them.
            config (botocore.config.Config): on top of the transport option ``client-config``.
        """
        # Threads that wait for messages share the client; each has a connection.
        merged = _sdk.Config(max_pool_connections=LIMIT + 4).merge(
            _sdk.Config(**self._dictionary("client-config"))
        )
        client: dict[str, Any] = {
            "config": merged if config is None else merged.merge(config),
            "use_ssl": True if self.is_secure is None else bool(self.is_secure),
        }
        if self.endpoint_url is not None:
            client["endpoint_url"] = self.endpoint_url
        credentials = {
            "region_name": region,
            "aws_access_key_id": access_key_id,
            "aws_secret_access_key": secret_access_key,
            "aws_session_token": session_token,
        }
        return _make_client(service, {"credentials": credentials, "client": client})

    def new_sqs_client(
        self,
        region: str | None,
        access_key_id: str | None,
        secret_access_key: str | None,
        session_token: str | None = None,
    ) -> Any:
        """Make a client of SQS; subclasses may make it otherwise.

        Arguments:
            region: where.
            access_key_id, secret_access_key, session_token: credentials; None: as boto3 finds them.
        """
        return self._new_boto_client(
            service="sqs",
            region=region,
            access_key_id=access_key_id,
            secret_access_key=secret_access_key,
            session_token=session_token,
        )

    def _new_release_client(self, client: Any) -> Any:
        """Return a client like ``client`` with :attr:`release_client_config`.

        What a subclass's :meth:`new_sqs_client` made is returned as it is: only that knows how.
        """
        if type(self).new_sqs_client is not Clients.new_sqs_client:
            return client
        return short_lived(client, self.release_client_config)

    def sqs(self, queue: str | None = None) -> Any:
        """Return the boto3 client for a queue.

        Arguments:
            queue: its name in AWS; matters when queues are predefined.

        Raises:
            UndefinedQueueException: queues are predefined, and it is not among them.
        """
        if queue is not None and self.predefined_queues:
            try:
                settings = self.predefined_queues[queue]
            except KeyError:
                raise undefined_queue(queue) from None
            if self.transport_options.get("sts_role_arn"):
                return self._handle_sts_session(queue, settings)
            client = self._predefined_queue_clients.get(queue)
            if client is None:
                client = self._predefined_queue_clients[queue] = self._new_predefined_client(
                    settings
                )
            return client
        if self._sqs is None:
            self._sqs = self._shared_client()
        return self._sqs

    def _shared_client(self) -> Any:
        """Return the client that the channels of a connection share."""
        clients = self._transport._clients
        if self.region not in clients:
            clients[self.region] = self.new_sqs_client(
                region=self.region,
                access_key_id=self.conninfo.userid,
                secret_access_key=self.conninfo.password,
            )
        return clients[self.region]

    def _new_predefined_client(self, settings: dict[str, Any]) -> Any:
        arguments = {
            "region": settings.get("region", self.region),
            "access_key_id": settings.get("access_key_id", self.conninfo.userid),
            "secret_access_key": settings.get("secret_access_key", self.conninfo.password),
        }
        if settings.get("session_token"):
            arguments["session_token"] = settings["session_token"]
        return self.new_sqs_client(**arguments)

    # Assumed roles

    @staticmethod
    def is_sts_token_refresh_required(
        name: Any, client_map: dict[str, Any], expire_time: datetime | None = None
    ) -> bool:
        """Return whether a client's credentials have to be renewed.

        Arguments:
            name: the queue or exchange it is for.
            client_map: clients by such names.
            expire_time: when their credentials expire.
        """
        return name not in client_map or _has_expired(expire_time)

    def _handle_sts_session(self, queue: str, q: dict[str, Any]) -> Any:
        """Return the client of a predefined queue, with credentials that are still good."""
        clients = self._predefined_queue_clients
        if self.is_sts_token_refresh_required(queue, clients, self.sts_expiration):
            return self._new_predefined_queue_client_with_sts_session(
                queue, q.get("region", self.region)
            )
        return clients[queue]

    def _new_predefined_queue_client_with_sts_session(self, queue: str, region: str) -> Any:
        credentials = self.get_sts_credentials()
        client = self.new_sqs_client(
            region=region,
            access_key_id=credentials["AccessKeyId"],
            secret_access_key=credentials["SecretAccessKey"],
            session_token=credentials["SessionToken"],
        )
        self.sts_expiration = remember_client(
            self._predefined_queue_clients,
            queue,
            client,
            self.sts_expiration,
            credentials["Expiration"],
        )
        # They have the old clients.
        self._predefined_queue_async_clients.clear()
        return client

    def get_sts_credentials(self) -> dict[str, Any]:
        """Assume the role of the transport options, and return its credentials."""
        options = self.transport_options
        return self.generate_sts_session_token_with_buffer(
            options.get("sts_role_arn"),
            options.get("sts_token_timeout", STS_TOKEN_TIMEOUT),
            options.get("sts_token_buffer_time", 0),
        )

    def generate_sts_session_token_with_buffer(
        self, role_arn: Any, token_expiry_seconds: int, token_buffer_seconds: int = 0
    ) -> dict[str, Any]:
        """As :meth:`generate_sts_session_token`, with an earlier ``Expiration``.

        Arguments:
            token_buffer_seconds: how much earlier; ignored if the credentials would then never be
                good.
        """
        credentials = self.generate_sts_session_token(role_arn, token_expiry_seconds)
        if 0 < token_buffer_seconds < token_expiry_seconds:
            credentials["Expiration"] -= timedelta(seconds=token_buffer_seconds)
        return credentials

    @staticmethod
    def generate_sts_session_token(role_arn: str, token_expiry_seconds: int) -> dict[str, Any]:
        """Assume a role.

        Arguments:
            role_arn: which.
            token_expiry_seconds: how long its credentials live; 900 at least.

        Returns:
            ``AccessKeyId``, ``SecretAccessKey``, ``SessionToken`` and ``Expiration``.
        """
        answer = _sdk.boto3.client("sts").assume_role(
            RoleArn=role_arn, RoleSessionName="Celery", DurationSeconds=token_expiry_seconds
        )
        return answer["Credentials"]


def remember_client(
    clients: dict[str, Any],
    name: str,
    client: Any,
    expiration: datetime | None,
    new_expiration: Any,
) -> Any:
    """Keep a client with new credentials, and return when the first of all has to be renewed.

    Clients whose credentials have expired are dropped.

    Arguments:
        clients: by queue or exchange.
        name: whose ``client`` is.
        expiration: of the clients that are there.
        new_expiration: of ``client``.
    """
    if expiration is None or _has_expired(expiration):
        clients.clear()
    first = min(expiration, new_expiration) if clients and expiration else new_expiration
    clients[name] = client
    return first


def _has_expired(moment: datetime | None) -> bool:
    if moment is None:
        return True
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=timezone.utc)
    return moment < datetime.now(timezone.utc)


def undefined_queue(queue: str) -> UndefinedQueueException:
    """Return the error of a queue that is not among the predefined ones."""
    return UndefinedQueueException(
        f"Queue with name {queue!r} must be defined in 'predefined_queues'."
    )
