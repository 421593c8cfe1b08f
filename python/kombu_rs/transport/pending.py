"""Transports that Kombu has and this package does not have yet.

A connection to one may be made, copied, shown and compared, as configuration code does.
Connecting raises :exc:`TransportNotAvailable`. No installed Kombu is used instead.
"""

from __future__ import annotations

from typing import Any, ClassVar, NoReturn

from ..exceptions import OperationalError
from . import base

__all__ = ("TransportNotAvailable",)


class TransportNotAvailable(OperationalError, NotImplementedError):
    """The transport exists in Kombu, and not in this package yet.

    Not one of a transport's ``connection_errors``: trying again does not help.
    """


class Pending(base.Transport):
    """What all of them share: the shape of a transport that cannot connect."""

    #: Parts of a URL that Kombu fills in when they are missing.
    defaults: ClassVar[dict[str, Any]] = {}

    def _refuse(self) -> NoReturn:
        from . import _available

        raise TransportNotAvailable(
            f"The transport {self._name()!r} is not available in kombu-rs yet. "
            f"Available: {', '.join(_available())}"
        )

    def _name(self) -> str:
        name = getattr(self.client, "transport_cls", None)
        return name if isinstance(name, str) else self.driver_type

    def establish_connection(self) -> NoReturn:
        """Raise :exc:`TransportNotAvailable`."""
        self._refuse()

    def verify_connection(self, connection: Any) -> bool:
        """Never connected."""
        return False

    def as_uri(self, uri: str, include_password: bool = False, mask: str = "**") -> str:
        """Return ``uri``, by default with the password masked."""
        from ..utils.url import maybe_sanitize_url

        return uri if include_password else maybe_sanitize_url(uri, mask=mask)

    @property
    def default_connection_params(self) -> dict[str, Any]:
        """Parts of a URL that Kombu fills in when they are missing."""
        return dict(self.defaults)


class AMQP(Pending):
    """RabbitMQ and other AMQP 0-9-1 brokers."""

    driver_type = "amqp"
    default_port = 5672
    implements = base.Transport.implements.extend(asynchronous=True, heartbeats=True)
    defaults: ClassVar[dict[str, Any]] = {
        "userid": "guest",
        "password": "guest",
        "port": 5672,
        "hostname": "localhost",
        "login_method": "PLAIN",
    }

    def get_manager(self, *args: Any, **kwargs: Any) -> Any:
        """RabbitMQ's management API, which is HTTP: see :mod:`kombu_rs.utils.amq_manager`."""
        from ..utils.amq_manager import get_manager

        return get_manager(self.client, *args, **kwargs)


class AMQPS(AMQP):
    """AMQP over TLS."""

    default_port = 5671
    defaults: ClassVar[dict[str, Any]] = {**AMQP.defaults, "port": 5671, "ssl": True}


class Local(Pending):
    """Transports whose URLs name no server."""

    defaults: ClassVar[dict[str, Any]] = {"port": None, "hostname": "localhost"}


class Kafka(Local):
    """Apache Kafka."""

    driver_type = "kafka"


class SQS(Pending):
    """Amazon SQS."""

    driver_type = "sqs"
    defaults: ClassVar[dict[str, Any]] = {"port": None}


class Zookeeper(Local):
    """ZooKeeper."""

    driver_type = "zookeeper"
    default_port = 2181
    defaults: ClassVar[dict[str, Any]] = {"port": 2181, "hostname": "localhost"}


class SLMQ(Local):
    """SoftLayer message queue."""

    driver_type = "slmq"


class Qpid(Pending):
    """Apache Qpid, AMQP 0-10."""

    driver_type = "qpid"
    defaults: ClassVar[dict[str, Any]] = {"hostname": "localhost", "port": 5672}


class Sentinel(Pending):
    """Redis Sentinel."""

    driver_type = "redis"
    default_port = 26379
    defaults: ClassVar[dict[str, Any]] = {"hostname": "localhost", "port": 26379}


class Consul(Local):
    """HashiCorp Consul."""

    driver_type = "consul"
    default_port = 8500
    defaults: ClassVar[dict[str, Any]] = {"port": 8500, "hostname": "localhost"}


class Etcd(Local):
    """etcd."""

    driver_type = "etcd"
    default_port = 2379
    defaults: ClassVar[dict[str, Any]] = {"port": 2379, "hostname": "localhost"}


class AzureStorageQueues(Pending):
    """Azure Storage Queues; its client reads the URL itself."""

    driver_type = "azurestoragequeues"
    can_parse_url = True


class AzureServiceBus(Pending):
    """Azure Service Bus; its client reads the URL itself."""

    driver_type = "azureservicebus"
    can_parse_url = True


class GCPubSub(Pending):
    """Google Cloud Pub/Sub; its client reads the URL itself."""

    driver_type = "gcpubsub"
    can_parse_url = True


class PGMQ(Pending):
    """PostgreSQL with pgmq; its client reads the URL itself."""

    driver_type = "pgmq"
    can_parse_url = True
