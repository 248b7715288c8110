# -*- test-case-name: txamqp091.test.unit.adapters.test_aio -*-
"""
Brokers for test cases that cannot have a reactor: those of `txamqp091.adapters`.

The in-memory broker is served by a process of its own: run as a program, this module
is that process.  RabbitMQ is the one that all tests share.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from functools import cache, partial
from itertools import count
from urllib.parse import quote

from twisted.trial.unittest import SynchronousTestCase

from txamqp091.adapters.blocking import BlockingChannel, BlockingConnection
from txamqp091.test.support.chaos import ChaosProxy, Cut, Direction, Frame, Link
from txamqp091.test.support.checkout import CHECKOUT
from txamqp091.test.support.installations import Broker, known_brokers
from txamqp091.test.support.integration import installed, shared_node
from txamqp091.test.support.processes import HOST, Process, free_ports, wait_for
from txamqp091.test.support.rabbit import RabbitNode, speaks_amqp
from txamqp091.wire.method import Method

__all__ = [
    "CHECKOUT",
    "BlockingTestCase",
    "ServedTestCase",
    "cut_at",
    "every_served",
]

FrameHook = Callable[[Frame | bytes, Direction, Link], Cut | None]


_numbers = count(1)


def serve(port: int) -> None:
    """
    Serve an in-memory broker, until somebody ends the process.
    """
    from twisted.internet import reactor

    from txamqp091.testing.memory import MemoryBroker

    MemoryBroker(reactor).listen(reactor, port)
    reactor.run()


@cache
def memory_port() -> int:
    """
    Where the in-memory broker of this test run is.
    """
    [port] = free_ports(1)
    # It ends when this process does.
    Process(
        [sys.executable, "-m", "txamqp091.test.support.served", str(port)],
        environment={**os.environ, "PYTHONPATH": str(CHECKOUT)},
        directory=CHECKOUT,
    )
    if not wait_for(partial(speaks_amqp, port), 120):
        raise AssertionError("the in-memory broker does not answer")
    return port


@cache
def _vhost(node: RabbitNode) -> str:
    node.add_vhost("adapters")
    return "adapters"


class ServedTestCase(SynchronousTestCase):
    """
    A test case with a broker, and no reactor.

    :cvar broker: which RabbitMQ; None is the in-memory broker.
    :ivar port: where it listens, in the clear.
    :ivar uri: where to connect.
    :ivar node: the RabbitMQ, if it is one.
    """

    timeout = 180.0

    broker: Broker | None = None

    def setUp(self) -> None:
        """
        Have the broker running.
        """
        self.node: RabbitNode | None = None
        if self.broker is None:
            self.port, vhost = memory_port(), "%2F"
        else:
            self.node = shared_node(installed(self.broker))
            self.port, vhost = self.node.port, _vhost(self.node)
        self.path = vhost
        self.uri = self.uri_for(self.port)

    def uri_for(self, port: int, query: str = "") -> str:
        """
        A URI to connect by, to a port in front of the broker's.
        """
        return f"amqp://guest:guest@{HOST}:{port}/{self.path}{query}"

    @property
    def tls_uri(self) -> str:
        """
        Where to connect by TLS, without a query's end.
        """
        assert self.node is not None
        return (
            f"amqps://guest:guest@localhost:{self.node.tls_port}/{self.path}"
            f"?cacertfile={quote(str(self.node.ca_file))}"
        )

    def queue_name(self) -> str:
        """
        A name that no other queue has.
        """
        return f"{type(self).__name__}-{self._testMethodName}-{next(_numbers)}"

    def proxy(self, **options: object) -> ChaosProxy:
        """
        Put a network that misbehaves in front of the broker, until the test ends.
        """
        proxy = ChaosProxy(self.port, **options)  # type: ignore[arg-type]
        proxy.start()
        self.addCleanup(proxy.stop)
        return proxy


class BlockingTestCase(ServedTestCase):
    """
    A test case without any loop.
    """

    def connection(
        self, uri: str | None = None, *, background: bool = False
    ) -> BlockingConnection:
        """
        Connect, and close the connection when the test ends.
        """
        connection = BlockingConnection(
            uri or self.uri, timeout=60.0, background=background
        )
        self.addCleanup(connection.close)
        return connection

    def channel_and_queue(
        self, *, background: bool = False
    ) -> tuple[BlockingChannel, str]:
        """
        Open a channel, on a connection of its own, and declare a queue.
        """
        channel = self.connection(background=background).channel()
        queue = self.queue_name()
        channel.queue_declare(queue, exclusive=True)
        return channel, queue

    def expect_depth(self, channel: BlockingChannel, queue: str, count: int) -> None:
        """
        Check how many messages are ready, by the broker's own count.  RabbitMQ's queues
        may count before they have done what was said before.
        """
        ready = -1
        for _ in range(6000):
            ready = channel.queue_declare(queue, passive=True).message_count
            if ready == count:
                return
            channel.connection.sleep(0.01)
        self.assertEqual(ready, count)


def cut_at(kind: type[Method], how: str = "reset") -> FrameHook:
    """
    A frame hook for `ChaosProxy` that breaks the connection in place of a method.
    """

    def hook(unit: Frame | bytes, direction: Direction, link: Link) -> Cut | None:
        if isinstance(unit, Frame) and unit.method is kind:
            return Cut(how=how)
        return None

    return hook


def every_served(scenario: type[ServedTestCase]) -> None:
    """
    Make one test case of a scenario for the in-memory broker, and one for each
    RabbitMQ.  Its own name is left without a class, so that nobody collects it.
    """
    module = sys.modules[scenario.__module__]
    brokers: list[tuple[str, Broker | None]] = [("memory", None)]
    brokers += [(each.name.replace(".", "_"), each) for each in known_brokers()]
    for suffix, broker in brokers:
        name = f"{scenario.__name__}_{suffix}"
        members = {
            "__doc__": scenario.__doc__,
            "__module__": scenario.__module__,
            "__qualname__": name,
            "broker": broker,
        }
        setattr(module, name, type(name, (scenario,), members))


if __name__ == "__main__":
    serve(int(sys.argv[1]))
