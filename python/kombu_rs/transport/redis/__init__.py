"""``redis://``, ``rediss://``, ``sentinel://``, ``rediscluster://`` and ``redisclusters://``.

The native core speaks with the server: no redis-py is needed, and keys, messages and fanout
channels are those of Kombu, so that its workers and ours share queues.

URLs: ``redis://[USER:PASSWORD@]HOST[:PORT][/DATABASE]``, ``rediss://`` for TLS,
``redis+socket:///PATH?virtual_host=DATABASE``,
``sentinel://HOST[:PORT][/DATABASE][;sentinel://...]`` with the transport option ``master_name``,
``rediscluster://[USER:PASSWORD@]HOST[:PORT][;rediscluster://...]`` for a cluster, see
:class:`ClusterChannel`, and ``redisclusters://`` for one with TLS.

The transport options are the attributes of :class:`Channel` that
:attr:`Channel.from_transport_options` names.

Messages that were delivered and not acknowledged:

- While a worker lives it renews its claims, and ``visibility_timeout`` says how soon the messages
  of a dead one come back. ``renew_leases=False`` gives it the meaning that it has in Kombu: what
  takes longer is delivered again, even if somebody is still working on it.
- The header ``x-delivery-count`` counts the deliveries that came to nothing: absent at first, then
  1 and so on. It counts what comes back when a claim has expired, when a message is rejected or
  recovered with ``requeue=True``, or when a channel is closed that has delivered it; not what was
  only fetched ahead, and not what a stock worker puts back.
- With ``delivery_limit=N`` a message is delivered at most N times; then it is moved to the queue
  ``{queue}.dead``, or what ``dead_letter_queue`` says, which can be consumed from like any other.
  Its headers say why and where it comes from, in RabbitMQ's words: ``x-death``,
  ``x-first-death-queue``, ``x-last-death-reason`` (``delivery_limit``) and so on. (RabbitMQ's
  ``delivery-limit`` counts how often a message comes back: there it is delivered once more.) All
  workers of a queue should have the same limit. A queue of dead letters has none.
- ``kombu-rs replay URL QUEUE`` and :meth:`Channel.replay_dead_letters` move dead letters back.
- One worker at a time restores expired claims, stock ones included (``unacked_mutex_key``), a few
  at a time, so that others are hardly slowed down.

Names of redis-py (``redis``, ``exceptions``,
``CredentialProvider``, ``PrefixedStrictRedis``, ...) are imported when they are asked for.
"""

from __future__ import annotations

from ..._deferred import deferred
from ..._native import PublishBatch
from ..._typing import Any
from ...log import get_logger
from ...utils.eventio import ERR, READ
from .channel import PRIORITY_STEPS, Channel
from .clusters import ClusterChannel, ClusterTransport
from .errors import error_classes_t, get_redis_ConnectionError, get_redis_error_classes
from .keyprefix import GlobalKeyPrefixMixin
from .mutex import Mutex, MutexHeld
from .parameters import DEFAULT_PORT
from .poller import MultiChannelPoller
from .qos import QoS
from .sentinels import SentinelChannel, SentinelTransport
from .transport import Transport

__all__ = (
    "DEFAULT_PORT",
    "ERR",
    "PRIORITY_STEPS",
    "READ",
    "Channel",
    "ClusterChannel",
    "ClusterTransport",
    "GlobalKeyPrefixMixin",
    "MultiChannelPoller",
    "Mutex",
    "MutexHeld",
    "PublishBatch",
    "QoS",
    "SentinelChannel",
    "SentinelTransport",
    "Transport",
    "error_classes_t",
    "get_redis_ConnectionError",
    "get_redis_error_classes",
)

#: Where what the core says about Redis arrives.
logger = deferred(get_logger, "kombu.transport.redis")

#: The database when the URL names none.
DEFAULT_DB = 0
#: Seconds between health checks of :attr:`Channel.client`.
DEFAULT_HEALTH_CHECK_INTERVAL = Channel.health_check_interval
#: Seconds between Kombu's looks at streaming credentials; the core reads them when it connects.
DEFAULT_REAUTH_CHECK_INTERVAL = 10
#: So many unanswered pings Kombu takes for a lost connection; the core watches its link itself.
SUBCLIENT_MAX_MISSED_HEALTH_CHECKS = 2
#: Bindings of an expiring queue live so many times as long as the queue.
BINDING_EXPIRES_FACTOR = 2
#: And so many milliseconds at least. Read when a connection is made.
MIN_BINDING_TTL = 3_600_000
#: Seconds between looks for bindings that nobody has renewed.
BINDING_SWEEP_INTERVAL = 60

# Where the names are that need redis-py: its modules, its classes, and ours on top of them.
_REDIS_MODULES = {
    "redis": "redis",
    "client": "redis.client",
    "exceptions": "redis.exceptions",
    "sentinel": "redis.sentinel",
}
_REDIS_CLASSES = ("CredentialProvider",)
_ON_REDIS = (
    "PrefixedRedisPipeline",
    "PrefixedRedisPubSub",
    "PrefixedStrictRedis",
    "SentinelManagedSSLConnection",
)


def __getattr__(name: str) -> Any:
    from importlib import import_module

    if name in _ON_REDIS:
        return getattr(import_module(".prefixed", __name__), name)
    if name in _REDIS_CLASSES:
        return getattr(import_module("redis"), name)
    if name in _REDIS_MODULES:
        return import_module(_REDIS_MODULES[name])
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
