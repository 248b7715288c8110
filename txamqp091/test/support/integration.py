# -*- test-case-name: txamqp091.test.support.test_rabbit -*-
"""
What test cases against a real RabbitMQ inherit.

A scenario is written once and runs against every broker that is installed::

    @every_broker
    class PublishTests(RabbitTestCase):
        async def test_publish(self) -> None:
            connection = await self.connect()

This makes the classes ``PublishTests_3_10_8``, ``PublishTests_4_3_6``...  A broker
that the project promises to work with, and that is not here, is a skipped test with
the reason, or a failed one where it must be here: in CI, or when
``TXAMQP091_REQUIRE_RABBITMQ`` is set.  Nothing is started by importing this.
"""

from __future__ import annotations

import atexit
import itertools
import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any, ClassVar, ParamSpec, TypeVar
from urllib.parse import quote

from twisted.internet.defer import Deferred, DeferredList
from twisted.internet.task import deferLater
from twisted.internet.threads import deferToThread
from twisted.trial.unittest import SkipTest, TestCase

from txamqp091.channel import Channel
from txamqp091.endpoint import connect
from txamqp091.parameters import ConnectionParameters
from txamqp091.protocol import AMQPProtocol
from txamqp091.test.support.chaos import ChaosProxy
from txamqp091.test.support.cluster import RabbitCluster
from txamqp091.test.support.installations import Broker, Installation, known_brokers
from txamqp091.test.support.rabbit import RabbitNode, RunningNode

__all__ = [
    "RabbitTestCase",
    "every_broker",
    "in_thread",
    "installed",
    "outcomes",
    "resident",
    "shared_node",
    "until",
    "within",
]

P = ParamSpec("P")
T = TypeVar("T")

_nodes: dict[Installation, RabbitNode] = {}
_numbers = itertools.count(1)


def shared_node(installation: Installation) -> RabbitNode:
    """
    The node that all test cases of this process share, with TLS: to start one takes
    four to eight seconds.  Tests that kill or reconfigure a node take one of their
    own.
    """
    node = _nodes.get(installation)
    if node is None:
        if installation.port:
            node = RunningNode(installation)
        else:
            plugins = ["rabbitmq_consistent_hash_exchange"]
            node = RabbitNode(installation, tls=True, plugins=plugins)
        _nodes[installation] = node
        atexit.register(node.stop)
    if not node.running:
        node.start()
    return node


def every_broker(scenario: type[RabbitTestCase]) -> None:
    """
    Make one test case of a scenario for each broker.

    The scenario's own name is left without a class, so that nobody collects it.
    """
    module = sys.modules[scenario.__module__]
    for broker in known_brokers():
        name = f"{scenario.__name__}_{broker.name.replace('.', '_')}"
        members = {
            "__doc__": scenario.__doc__,
            "__module__": scenario.__module__,
            "__qualname__": name,
            "broker": broker,
        }
        setattr(module, name, type(name, (scenario,), members))


def installed(broker: Broker) -> Installation:
    """
    Where a broker is.

    :raises SkipTest: it is not here, and need not be.
    """
    if broker.installation is not None:
        return broker.installation
    problem = f"no RabbitMQ {broker.name} is here; as root, .ci/brokers gets it"
    if os.environ.get("CI") or os.environ.get("TXAMQP091_REQUIRE_RABBITMQ"):
        raise AssertionError(problem)
    raise SkipTest(problem)


@cache
def _vhost(node: RabbitNode, name: str) -> str:
    """
    Make a virtual host, once.
    """
    node.add_vhost(name)
    return name


class RabbitTestCase(TestCase):
    """
    A test case with a broker.

    :cvar broker: which RabbitMQ this is about.
    :ivar node: a running node.  It is shared: leave it as it was.
    :ivar vhost: a virtual host that only the tests of this class use.
    :ivar uri: where to connect, in the clear.
    """

    timeout = 240.0

    broker: ClassVar[Broker] = Broker("of any version", None)

    def setUp(self) -> None:
        """
        Have the node running, and a virtual host in it.
        """
        self.node = shared_node(installed(self.broker))
        self.vhost = _vhost(self.node, type(self).__name__)
        self.uri = f"amqp://guest:guest@{self.node.host}:{self.node.port}/{self.vhost}"

    @property
    def tls_uri(self) -> str:
        """
        Where to connect by TLS.
        """
        return (
            f"amqps://guest:guest@localhost:{self.node.tls_port}/{self.vhost}"
            f"?cacertfile={quote(str(self.node.ca_file))}"
        )

    def queue_name(self) -> str:
        """
        A name that no other queue, or exchange, has.
        """
        return f"{self._testMethodName}-{next(_numbers)}"

    async def connect(self, uri: str | None = None, **changes: Any) -> AMQPProtocol:
        """
        Connect, and close the connection when the test ends.

        :param uri: where to; `uri` by default.
        :param changes: what is to be different in the `ConnectionParameters`.
        """
        from twisted.internet import reactor

        parameters = ConnectionParameters.from_uri(self.uri if uri is None else uri)
        connection = await connect(reactor, replace(parameters, **changes))
        self.addCleanup(connection.close)
        return connection

    async def open_channel(self, uri: str | None = None, **changes: Any) -> Channel:
        """
        Open a channel, on a connection of its own; the arguments are for `connect`.
        """
        connection = await self.connect(uri, **changes)
        return await connection.open_channel()

    def proxy(self, port: int | None = None, **options: Any) -> ChaosProxy:
        """
        Put a network that misbehaves in front of the node, until the test ends.
        Connect by ``self.connect(port=proxy.port)``.

        :param port: the port to forward to; by default, the node's for AMQP.
        :param options: what `ChaosProxy` takes.
        """
        proxy = ChaosProxy(self.node.port if port is None else port, **options)
        proxy.start()
        self.addCleanup(proxy.stop)
        return proxy

    def block_publishers(self) -> None:
        """
        Raise the node's memory alarm, for the rest of the test at most.
        """
        self.addCleanup(self.node.set_memory_alarm, False)
        self.node.set_memory_alarm(True)

    def client_certificate(self, user: str = "guest") -> tuple[str, str]:
        """
        Files of a certificate, and its key, with which EXTERNAL takes the client
        for ``user``.
        """
        issued = self.node.authority.issue(common_name=user)
        return issued.write(self.node.directory, f"client-{next(_numbers)}")

    async def private_node(self, **options: Any) -> RabbitNode:
        """
        Start a node that the test may kill.  It is gone when the test ends.

        :param options: what `RabbitNode` takes.
        """
        node = RabbitNode(installed(self.broker), **options)
        self.addCleanup(node.stop)
        await in_thread(node.start)
        return node

    async def private_cluster(self, size: int = 3, **options: Any) -> RabbitCluster:
        """
        Start a cluster that the test may do anything to.

        :param options: what `RabbitCluster` takes.
        """
        cluster = RabbitCluster(size, installed(self.broker), **options)
        self.addCleanup(cluster.stop)
        await in_thread(cluster.start)
        return cluster


def in_thread(
    function: Callable[P, T], *args: P.args, **kwargs: P.kwargs
) -> Deferred[T]:
    """
    Call what blocks, such as ``node.start``, while the reactor goes on: connections
    keep their heartbeats.
    """
    return deferToThread(function, *args, **kwargs)


async def until(condition: Callable[[], bool], seconds: float = 60.0) -> None:
    """
    Let the reactor run until something has come true: what the broker counts, and
    tells nobody.

    :raises AssertionError: it has not, in so many seconds.
    """
    from twisted.internet import reactor

    deadline = reactor.seconds() + seconds
    while not condition():
        if reactor.seconds() > deadline:
            raise AssertionError(f"{condition} is not so after {seconds} s")
        await deferLater(reactor, 0.02)


async def outcomes(deferreds: Sequence[Deferred[Any]]) -> list[Exception | None]:
    """
    What each failed with, `None` being success, once all have fired.
    """
    results = await DeferredList(deferreds, consumeErrors=True)
    return [getattr(result, "value", None) for _, result in results]


def within(seconds: float) -> float:
    """
    A limit of time that a criterion sets: it is held to at night, on a machine that has
    nothing else to do.  Elsewhere it is a minute, for what must not take for ever.
    """
    return seconds if os.environ.get("TXAMQP091_NIGHTLY") else 60.0


def resident() -> int:
    """
    How much memory this process has, in bytes.
    """
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGESIZE")
