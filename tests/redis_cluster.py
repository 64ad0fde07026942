"""A Redis Cluster, and a Redis under sentinels: real servers on this machine."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any
from urllib.parse import quote

import redis

from headwater.local.process import HOST, Server, free_ports
from headwater.local.redis import find_server
from headwater.online.cluster import SLOTS
from tests.waiting import until

#: After so long without an answer the others take a node for failed.
NODE_TIMEOUT_MS = 1000
#: What every node of the cluster asks for, whoever connects to it.
PASSWORD = "a cluster's"  # noqa: S105 (of servers that live for a test)


class Node:
    """One server of a cluster, of sentinels, or under them."""

    def __init__(self, name: str, *options: str, port: int = 0, password: str = "") -> None:
        self.port = port or free_ports(1)[0]
        self.server, self.options = Server(name, self.port, None), options
        self.client = redis.Redis(HOST, self.port, password=password, socket_timeout=5, retry=None)
        self.address = f"{HOST}:{self.port}"

    def start(self) -> None:
        own = ("--bind", HOST, "--port", str(self.port), "--dir", str(self.server.folder))
        plain = ("--save", "", "--appendonly", "no", "--repl-diskless-sync-delay", "0")
        self.server.start([str(find_server()), *self.options, *own, *plain], self.answers)

    def say(self, *words: Any) -> Any:
        return self.client.execute_command(*words)

    def close(self) -> None:
        self.client.close()
        self.server.close()

    def answers(self) -> bool:
        try:
            return bool(self.client.ping())
        except redis.RedisError:
            return False


class Cluster:
    """Three primaries, each with a replica; every node asks for a password."""

    def __init__(self) -> None:
        ports = free_ports(12)
        self.nodes = [
            Node(
                f"node{i}", "--cluster-enabled", "yes", "--cluster-port", str(ports[6 + i]),
                "--cluster-node-timeout", str(NODE_TIMEOUT_MS),
                "--cluster-replica-validity-factor", "0", "--requirepass", PASSWORD,
                "--masterauth", PASSWORD, port=ports[i], password=PASSWORD,
            )
            for i in range(6)
        ]  # fmt: skip
        self._buses = ports[6:]

    @property
    def url(self) -> str:
        nodes = ",".join(node.address for node in self.nodes)
        return f"redis+cluster://:{quote(PASSWORD)}@{nodes}"

    def start(self) -> None:
        for node in self.nodes:
            node.start()
        for i, primary in enumerate(self.nodes[:3]):
            low, high = SLOTS * i // 3, SLOTS * (i + 1) // 3 - 1
            primary.say("CLUSTER ADDSLOTSRANGE", low, high)
        for node, bus in zip(self.nodes[1:], self._buses[1:], strict=True):
            self.nodes[0].say("CLUSTER MEET", HOST, node.port, bus)
        until(lambda: all(len(self.known(node)) == 6 for node in self.nodes))
        for i, replica in enumerate(self.nodes[3:]):
            replica.say("CLUSTER REPLICATE", self.id_of(self.nodes[i]))
        until(self.whole)

    def close(self) -> None:
        for node in self.nodes:
            node.close()

    def id_of(self, node: Node) -> str:
        return str(node.say("CLUSTER MYID").decode())

    def known(self, node: Node) -> Sequence[bytes]:
        lines: bytes = node.client.execute_command("CLUSTER", "NODES")
        return [line for line in lines.splitlines() if b"handshake" not in line]

    def whole(self) -> bool:
        """Every slot is served, and every primary has a replica that follows it."""
        running = [node for node in self.nodes if node.server.running]
        roles = [node.say("ROLE") for node in running]
        linked = sum(role[0] == b"slave" and role[3] == b"connected" for role in roles)
        states = [node.client.execute_command("CLUSTER", "INFO") for node in running]
        return linked == len(self.nodes) - 3 and all(
            b"cluster_state:ok" in state for state in states
        )

    def primary_of(self, slot: int) -> Node:
        """As the nodes that run see it."""
        for node in self.nodes:
            if node.server.running and node.say("ROLE")[0] == b"master":
                for low, high, (_, port, *_), *_ in node.client.execute_command("CLUSTER", "SLOTS"):
                    if low <= slot <= high and port == node.port:
                        return node
        raise LookupError(f"nobody has slot {slot}")


class Sentinels:
    """Three sentinels, a server and its replica, under the name `features`."""

    def __init__(self) -> None:
        self.servers = [Node("primary"), Node("replica")]
        self.sentinels = [Node(f"sentinel{i}") for i in range(3)]

    @property
    def url(self) -> str:
        nodes = ",".join(node.address for node in self.sentinels)
        return f"redis+sentinel://{nodes}/features"

    def start(self) -> None:
        primary, replica = self.servers
        primary.start()
        replica.options = ("--replicaof", f"{HOST} {primary.port}")
        replica.start()
        for node in self.sentinels:
            file = node.server.folder / "sentinel.conf"
            file.write_text(
                f"port {node.port}\nbind {HOST}\ndir {node.server.folder}\n"
                f"sentinel monitor features {HOST} {primary.port} 2\n"
                "sentinel down-after-milliseconds features 1000\n"
                "sentinel failover-timeout features 5000\n"
            )
            node.server.start([str(find_server()), str(file), "--sentinel"], node.answers)
        until(lambda: replica.say("ROLE")[3] == b"connected")
        until(lambda: all(self._sees_all(node) for node in self.sentinels))

    def close(self) -> None:
        for node in (*self.sentinels, *self.servers):
            node.close()

    @staticmethod
    def _sees_all(node: Node) -> bool:
        about: Any = node.client.sentinel_master("features")
        return about["num-other-sentinels"] == 2 and about["num-slaves"] == 1
