# -*- test-case-name: txamqp091.test.support.test_rabbit -*-
"""
Private RabbitMQ clusters for tests: several nodes of `txamqp091.test.support.rabbit` on
this machine, with a port mapper in common.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator, Mapping

from txamqp091.test.support.installations import Installation
from txamqp091.test.support.processes import Epmd, RabbitError, wait_for
from txamqp091.test.support.rabbit import RabbitNode

__all__ = ["RabbitCluster"]


class RabbitCluster:
    """
    Several nodes that form one cluster::

        with RabbitCluster(3) as cluster:
            cluster.leader_of("queue").kill()
    """

    def __init__(
        self,
        size: int = 3,
        installation: Installation | None = None,
        *,
        tls: bool = False,
        configuration: Mapping[str, object] | None = None,
    ) -> None:
        self._epmd = Epmd()
        names = [f"node{number}" for number in range(1, size + 1)]
        self.nodes = [
            RabbitNode(
                installation,
                name=name,
                tls=tls,
                epmd=self._epmd,
                configuration={
                    "cluster_formation.peer_discovery_backend": "classic_config",
                    "cluster_partition_handling": "pause_minority",
                    # The first node seeds the cluster, and the others join it.  If
                    # it knew of them, it would wait for them (3.10: 30 s).
                    **{
                        f"cluster_formation.classic_config.nodes.{number}": (
                            f"{peer}@localhost"
                        )
                        for number, peer in enumerate(sorted({names[0], name}), 1)
                    },
                    **(configuration or {}),
                },
            )
            for name in names
        ]

    def __getitem__(self, index: int) -> RabbitNode:
        return self.nodes[index]

    def __iter__(self) -> Iterator[RabbitNode]:
        return iter(self.nodes)

    def __len__(self) -> int:
        return len(self.nodes)

    @property
    def alive(self) -> list[RabbitNode]:
        """
        The nodes that run and are not frozen.
        """
        return [node for node in self if node.running and not node.paused]

    def start(self, timeout: float = 240.0) -> None:
        """
        Start all nodes; return when each sees all the others.
        """
        self._epmd.start()
        first, *others = self.nodes
        first.start(timeout)
        for node in others:
            node.launch()
        for node in others:
            node.await_ready(timeout)
        self.await_members(len(self), timeout)

    def await_members(self, count: int, timeout: float = 180.0) -> None:
        """
        Wait until every live node sees ``count`` running members.
        """
        members = "length([N || N <- [node() | nodes()], rabbit:is_running(N)])."

        def complete() -> bool:
            with contextlib.suppress(RabbitError):
                return all(node.eval(members) == str(count) for node in self.alive)
            return False

        if not wait_for(complete, timeout):
            raise RabbitError(f"not {count} members in {timeout} s\n{self[0].log()}")

    def leader_of(
        self, queue: str, vhost: str = "/", timeout: float = 120.0
    ) -> RabbitNode:
        """
        The live node that leads a quorum queue, as soon as there is one.  Declare the
        queue with ``x-quorum-initial-group-size``, lest it has fewer members than
        the cluster.
        """
        found: list[RabbitNode] = []

        def led() -> bool:
            alive = {node.name: node for node in self.alive}
            for node in self.alive:
                with contextlib.suppress(RabbitError):
                    leader = node.queue_leader(queue, vhost)
                    if leader in alive:
                        found.append(alive[leader])
                        return True
            return False

        if not wait_for(led, timeout):
            raise RabbitError(f"{queue} has no leader")
        return found[0]

    def await_in_step(
        self, queue: str, vhost: str = "/", timeout: float = 180.0
    ) -> None:
        """
        Wait until every member of a quorum queue has what is committed now.  A member
        whose node was away has to catch up first; the queue stands still for 5 seconds
        when another one goes meanwhile.
        """
        question = (
            '[proplists:get_value(<<"Commit Index">>, M, -1) || M <-'
            f' rabbit_quorum_queue:status(<<"{vhost}">>, <<"{queue}">>)].'
        )
        wanted: list[int] = []

        def in_step() -> bool:
            with contextlib.suppress(RabbitError):
                found = re.findall(r"-?\d+", self.alive[0].eval(question))
                indexes = [int(each) for each in found]
                if len(indexes) == len(self) and not wanted:
                    wanted.append(max(indexes))
                return len(indexes) == len(self) and min(indexes) >= wanted[0]
            return False

        if not wait_for(in_step, timeout):
            raise RabbitError(f"{queue} is not in step in {timeout} s")

    def stop(self) -> None:
        """
        End all nodes for good.
        """
        for node in self:
            node.stop()
        self._epmd.stop()

    def __enter__(self) -> RabbitCluster:
        try:
            self.start()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(self, *details: object) -> None:
        self.stop()
