"""``rediscluster://`` and ``redisclusters://``: Redis Cluster."""

from __future__ import annotations

from ..._typing import Any, NoReturn
from . import hooks, parameters
from .channel import Channel
from .transport import Transport

__all__ = ("ClusterChannel", "ClusterTransport")


class ClusterChannel(Channel):
    """A channel on a cluster.

    A cluster spreads keys over its nodes by a hash, and a message is taken and recorded in one
    step. So all keys of a connection begin with one *hash tag*, which puts them on one node; give
    applications, or parts of one, different tags to have them on different nodes. Who publishes to
    a queue and who consumes from it must have the same tag. Transport options:

    ``hash_tag``
        The tag, as ``"app"`` or ``"{app}"``. Default ``"{kombu}"``, unless ``global_keyprefix`` has
        a tag, as in ``"shop:{orders}:"``. The tag comes before the prefix.
    ``startup_nodes``
        Nodes to ask, as ``[["10.0.0.1", 7000], ...]``. Default: those of the URL and of its
        alternatives, ``rediscluster://10.0.0.1:7000;rediscluster://10.0.0.2:7000``. One that
        answers is enough: it names the others.
    ``sharded_fanout``
        Use the channels of Redis 7 that stay with the nodes of the slot (``SPUBLISH``), instead of
        those that reach the whole cluster. They know no patterns, so ``fanout_patterns`` must be
        False. Publishers and consumers must agree. Default False.
    """

    from_transport_options = (
        *Channel.from_transport_options,
        "hash_tag",
        "sharded_fanout",
        "startup_nodes",
    )

    #: What puts all keys on one node; None for ``{kombu}``, or for what the prefix has.
    hash_tag: str | None = None
    #: Publish fanout messages to the nodes of the slot only.
    sharded_fanout = False
    #: Host and port of nodes to ask; None for those of the URL.
    startup_nodes: list[list[Any]] | None = None

    def _native_parameters(self) -> tuple[str, dict[str, Any]]:
        url, options = super()._native_parameters()
        client = self.connection.client
        nodes = parameters.cluster_nodes(client, self.connection.default_port)
        options.update(
            hash_tag=self.hash_tag,
            sharded_fanout=self.sharded_fanout,
            startup_nodes=self.startup_nodes or nodes,
        )
        return parameters.as_cluster(url), options

    def _is_secure(self) -> bool:
        transport = getattr(self.connection.client, "transport_cls", None)
        return super()._is_secure() or transport == "redisclusters"

    def _get_pool(self, asynchronous: bool = False) -> NoReturn:
        """redis-py's pools are for one server.

        Raises:
            NotImplementedError: always.
        """
        raise NotImplementedError(
            "channel.client and channel.pool are redis-py's for one server: make a "
            "redis.RedisCluster for commands of your own on a cluster; keys begin with the hash_tag"
        )


ClusterChannel._native_class = ClusterChannel
ClusterChannel._ours = hooks.snapshot(ClusterChannel)


class ClusterTransport(Transport):
    """Redis Cluster."""

    scheme = "rediscluster"
    Channel = ClusterChannel


ClusterTransport._native_class = ClusterTransport
