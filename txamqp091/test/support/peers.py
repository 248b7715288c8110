# -*- test-case-name: txamqp091.test.scenarios.test_connections -*-
"""
The brokers that scenarios talk to: RabbitMQ, and the one in memory.

A `Peer` is one of them, for one scenario; `kinds` are all that there are.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Protocol, cast

from twisted.internet.defer import Deferred
from twisted.internet.endpoints import TCP4ClientEndpoint, connectProtocol
from twisted.internet.interfaces import IProtocolFactory
from twisted.internet.protocol import Factory

from txamqp091.endpoint import connect
from txamqp091.factory import AMQPClientFactory
from txamqp091.parameters import ConnectionParameters
from txamqp091.protocol import AMQPProtocol
from txamqp091.test.support.installations import Broker, known_brokers
from txamqp091.test.support.integration import installed, shared_node
from txamqp091.test.support.rabbit import RabbitNode
from txamqp091.test.support.raw_client import RawClient
from txamqp091.testing.memory import MemoryBroker

__all__ = ["Kind", "Peer", "kinds"]

#: Which RabbitMQ the in-memory broker is told to be like.
MEMORY_VERSIONS = ("3.10.8", "4.3.6")

_vhosts: set[tuple[RabbitNode, str]] = set()


class Peer(Protocol):
    """
    A broker that scenarios talk to, and what they do to it behind its clients' backs.

    :ivar version: which RabbitMQ it is, or is to be like.
    """

    version: tuple[int, ...]

    def add_vhost(self, vhost: str) -> None:
        """
        Make a virtual host in which guest may do everything.
        """

    def add_user(
        self, name: str, password: str, vhost: str, permissions: tuple[str, str, str]
    ) -> None:
        """
        Make a user.

        :param permissions: what the user may configure, write and read in the virtual
            host, as regular expressions; if all are empty, the user may not enter it.
        """

    def connect(self, parameters: ConnectionParameters) -> Awaitable[AMQPProtocol]:
        """
        Connect a client.
        """

    def connect_raw(self) -> Awaitable[RawClient]:
        """
        Connect a client that says nothing by itself.
        """

    def block_publishers(self, on: bool) -> None:
        """
        Run out of memory, or have it again.
        """

    def close_connections(self, reason: str) -> None:
        """
        Close all connections, as an operator does.
        """

    def limit_acknowledging(self, seconds: float) -> None:
        """
        Wait so long, and no longer, for deliveries to be acknowledged, until the
        scenario is over.
        """

    def stop(self) -> None:
        """
        The scenario is over.
        """


class RabbitPeer:
    """
    A RabbitMQ.
    """

    def __init__(self, broker: Broker) -> None:
        self.node = shared_node(installed(broker))
        self.version = self.node.installation.number
        self._users: list[str] = []
        self._changed: list[str] = []

    def add_vhost(self, vhost: str) -> None:
        if (self.node, vhost) not in _vhosts:
            _vhosts.add((self.node, vhost))
            self.node.add_vhost(vhost)

    def add_user(
        self, name: str, password: str, vhost: str, permissions: tuple[str, str, str]
    ) -> None:
        module = "rabbit_auth_backend_internal"
        call = f'{module}:add_user(<<"{name}">>, <<"{password}">>, <<"test">>)'
        if any(permissions):
            expressions = ", ".join(f'<<"{each}">>' for each in permissions)
            call += (
                f', {module}:set_permissions(<<"{name}">>, <<"{vhost}">>, '
                f'{expressions}, <<"test">>)'
            )
        self.node.eval(f"{call}.")
        self._users.append(name)

    def connect(self, parameters: ConnectionParameters) -> Deferred[AMQPProtocol]:
        from twisted.internet import reactor

        return connect(
            reactor, replace(parameters, host=self.node.host, port=self.node.port)
        )

    def connect_raw(self) -> Awaitable[RawClient]:
        from twisted.internet import reactor

        endpoint = TCP4ClientEndpoint(
            cast(Any, reactor), self.node.host, self.node.port
        )
        return cast(Awaitable[RawClient], connectProtocol(endpoint, RawClient()))

    def block_publishers(self, on: bool) -> None:
        self.node.set_memory_alarm(on)

    def close_connections(self, reason: str) -> None:
        self.node.close_connections(reason)

    def limit_acknowledging(self, seconds: float) -> None:
        if self.version >= (4, 3):
            return  # consumers say it themselves
        milliseconds = int(seconds * 1000)
        for name in ("consumer_timeout", "channel_tick_interval"):
            old = self.node.eval(f"application:get_env(rabbit, {name}, undefined).")
            restore = f"set_env(rabbit, {name}, {old})"
            if old == "undefined":
                restore = f"unset_env(rabbit, {name})"
            self._changed.append(f"application:{restore}.")
            self.node.eval(f"application:set_env(rabbit, {name}, {milliseconds}).")

    def stop(self) -> None:
        for restore in self._changed:
            self.node.eval(restore)
        for name in self._users:
            self.node.eval(
                f'rabbit_auth_backend_internal:delete_user(<<"{name}">>, <<"test">>).'
            )


class MemoryPeer:
    """
    A `MemoryBroker`, which runs in real time as RabbitMQ does.
    """

    def __init__(self, version: str) -> None:
        from twisted.internet import reactor

        self.version = tuple(map(int, version.split(".")))
        self._broker = MemoryBroker(reactor, version=version)
        self._endpoint = self._broker.endpoint()

    def add_vhost(self, vhost: str) -> None:
        self._broker.add_vhost(vhost)
        self._broker.set_permissions("guest", vhost)

    def add_user(
        self, name: str, password: str, vhost: str, permissions: tuple[str, str, str]
    ) -> None:
        self._broker.add_user(name, password)
        if any(permissions):
            self._broker.set_permissions(name, vhost, *permissions)
        else:
            self._broker.clear_permissions(name, vhost)

    async def connect(self, parameters: ConnectionParameters) -> AMQPProtocol:
        from twisted.internet import reactor

        factory = AMQPClientFactory(parameters, clock=reactor)
        protocol = cast(AMQPProtocol, await self._endpoint.connect(factory))
        return await protocol.when_open()

    def connect_raw(self) -> Awaitable[RawClient]:
        factory = cast(IProtocolFactory, Factory.forProtocol(RawClient))
        return cast(Awaitable[RawClient], self._endpoint.connect(factory))

    def block_publishers(self, on: bool) -> None:
        if on:
            self._broker.block()
        else:
            self._broker.unblock()

    def close_connections(self, reason: str) -> None:
        self._broker.close_connections(problem=reason)

    def limit_acknowledging(self, seconds: float) -> None:
        self._broker.consumer_timeout = seconds

    def stop(self) -> None:
        pass


@dataclass(frozen=True)
class Kind:
    """
    A broker to run the scenarios with.

    :ivar name: as it appears in the names of test cases.
    :ivar start: gives the broker, or skips the test.
    :ivar memory: which RabbitMQ the in-memory broker is like, or "" for a real one.
    """

    name: str
    start: Callable[[], Peer]
    memory: str = ""


def kinds() -> list[Kind]:
    """
    All brokers that scenarios are to run with.
    """
    found = [
        Kind(broker.name, partial(RabbitPeer, broker)) for broker in known_brokers()
    ]
    for version in MEMORY_VERSIONS:
        like = ".".join(version.split(".")[:2])
        found.append(Kind(f"memory_{like}", partial(MemoryPeer, version), like))
    return found
