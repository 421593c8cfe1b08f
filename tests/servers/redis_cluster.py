"""A Redis Cluster of the tests' own."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from contextlib import ExitStack
from typing import Any
from urllib.parse import quote

from .certificates import Authority
from .process import free_port, wait_until
from .redis import RedisServer
from .resp import RespError

SLOTS = 16384


class RedisCluster:
    """Masters, and replicas of each of them, on free ports of 127.0.0.1.

    Parameters: how many `masters`, and `replicas` of each; `password` for all; `tls` serves TLS
    alone; `node_timeout`: seconds of silence after which a node counts as down; `config` holds
    further settings of every node.
    """

    def __init__(
        self,
        masters: int = 3,
        replicas: int = 0,
        *,
        password: str | None = None,
        tls: Authority | None = None,
        node_timeout: float = 1.0,
        config: Mapping[str, str] | None = None,
    ) -> None:
        settings = {
            "cluster-enabled": "yes",
            "cluster-node-timeout": str(int(node_timeout * 1000)),
            "cluster-replica-validity-factor": "0",
            "cluster-allow-replica-migration": "no",
            "repl-diskless-sync-delay": "0",
            "repl-ping-replica-period": "1",  # one that has heard nothing is not listed
        }
        if password is not None:
            settings["masterauth"] = password
        if tls is not None:
            settings |= {"tls-cluster": "yes", "tls-replication": "yes"}
        settings |= config or {}
        self.password = password
        self.tls = tls
        self._per_master = replicas
        self._stack = ExitStack()
        self.nodes = [
            RedisServer(
                password=password, tls=tls, config={**settings, "cluster-port": str(free_port())}
            )
            for _ in range(masters * (1 + replicas))
        ]
        self._first = self.nodes[:masters]

    def url(self, node: int = 0) -> str:
        """The URL of the cluster, by one of its nodes."""
        login = f":{quote(self.password, safe='')}@" if self.password else ""
        port = self.nodes[node].port
        if self.tls is None:
            return f"rediscluster://{login}127.0.0.1:{port}/0"
        options = f"ssl_cert_reqs=required&ssl_ca_certs={quote(str(self.tls.ca), safe='')}"
        return f"redisclusters://{login}localhost:{port}/0?{options}"

    def start(self) -> None:
        """Starts the nodes, makes a cluster of them, and waits until all think that it works."""
        for node in self.nodes:
            self._stack.enter_context(node)
        share = -(-SLOTS // len(self._first))
        for number, node in enumerate(self.nodes):
            node.command("CLUSTER", "SET-CONFIG-EPOCH", number + 1)
            if node in self._first:
                last = min((number + 1) * share, SLOTS) - 1
                node.command("CLUSTER", "ADDSLOTSRANGE", number * share, last)
            if number:
                bus = self.nodes[0].config["cluster-port"]
                node.command("CLUSTER", "MEET", "127.0.0.1", self.nodes[0].port, bus)
        count = len(self.nodes)
        wait_until(
            lambda: all(len(self._known(node)) == count for node in self.nodes),
            30.0,
            "the nodes of a cluster to know each other",
        )
        for number, node in enumerate(self.nodes[len(self._first) :]):
            master = self._first[number // self._per_master]
            node.command("CLUSTER", "REPLICATE", self.id_of(master))
        wait_until(
            lambda: self.is_well() and all(self._replicas_seen(node) for node in self.nodes),
            30.0,
            "the cluster to work",
        )

    def is_well(self) -> bool:
        """Whether all running nodes think that the cluster works, and all replicas are in step."""
        for node in self.nodes:
            if not node.is_running():
                continue
            with contextlib.suppress(OSError, RespError):
                if b"cluster_state:ok" not in node.command("CLUSTER", "INFO"):
                    return False
                role = node.command("ROLE")
                if role[0] == b"slave" and role[3] != b"connected":
                    return False
                continue
            return False
        return True

    def command(self, *words: str | bytes | int, key: str) -> Any:
        """One command at the master of the slot of `key`."""
        return self.master_of(key).command(*words)

    def slot_of(self, key: str) -> int:
        """The slot of a key."""
        return int(self._any().command("CLUSTER", "KEYSLOT", key))

    def id_of(self, node: RedisServer) -> str:
        """A node's name in the cluster."""
        return str(node.command("CLUSTER", "MYID").decode())

    def master_of(self, key: str) -> RedisServer:
        """The node that serves a key, as a node says that is running."""
        slot = self.slot_of(key)
        for first, last, master, *_ in self._any().command("CLUSTER", "SLOTS"):
            if first <= slot <= last:
                return next(node for node in self.nodes if node.port == master[1])
        raise RespError(f"nobody has the slot {slot}")

    def replica_of(self, master: RedisServer) -> RedisServer:
        """A replica of a node."""
        name = self.id_of(master).encode()
        for node in self.nodes:
            if node.is_running():
                for line in node.command("CLUSTER", "NODES").splitlines():
                    if b"myself,slave" in line and name in line:
                        return node
        raise RespError(f"the node on port {master.port} has no replica")

    def begin_move(self, key: str, target: RedisServer) -> None:
        """Begins to move the slot of a key: missing keys are asked for at the target now."""
        slot, source = self.slot_of(key), self.master_of(key)
        target.command("CLUSTER", "SETSLOT", slot, "IMPORTING", self.id_of(source))
        source.command("CLUSTER", "SETSLOT", slot, "MIGRATING", self.id_of(target))

    def move_keys(self, key: str, target: RedisServer, *keys: str) -> None:
        """Moves keys of the slot of a key; all that there are when none are named."""
        slot, source = self.slot_of(key), self.master_of(key)
        login = ("AUTH", self.password) if self.password else ()
        while True:
            batch = keys or source.command("CLUSTER", "GETKEYSINSLOT", slot, 100)
            if not batch:
                return
            to = ("127.0.0.1", target.port, "", 0, 5000)
            source.command("MIGRATE", *to, *login, "KEYS", *batch)
            if keys:
                return

    def end_move(self, key: str, target: RedisServer) -> None:
        """Gives the slot of a key to the target."""
        slot, source = self.slot_of(key), self.master_of(key)
        for node in (target, source, *self._masters()):
            node.command("CLUSTER", "SETSLOT", slot, "NODE", self.id_of(target))

    def move(self, key: str, target: RedisServer) -> None:
        """Moves the slot of a key with all its keys."""
        self.begin_move(key, target)
        self.move_keys(key, target)
        self.end_move(key, target)

    def remove(self) -> None:
        """Stops the nodes and removes their folders."""
        self._stack.close()

    def __enter__(self) -> RedisCluster:
        try:
            self.start()
        except BaseException:
            self.remove()
            raise
        return self

    def __exit__(self, *exc: object) -> None:
        self.remove()

    def _any(self) -> RedisServer:
        return next(node for node in self.nodes if node.is_running())

    def _known(self, node: RedisServer) -> list[bytes]:
        lines = node.command("CLUSTER", "NODES").splitlines()
        return [line for line in lines if b"handshake" not in line]

    def _replicas_seen(self, node: RedisServer) -> bool:
        count = 3 + self._per_master  # behind the first and the last slot
        return all(len(shard) == count for shard in node.command("CLUSTER", "SLOTS"))

    def _masters(self) -> list[RedisServer]:
        return [n for n in self.nodes if n.is_running() and n.command("ROLE")[0] == b"master"]
