# -*- test-case-name: txamqp091.test.unit.client.test_shutdown -*-
"""
What happens to connections when the reactor stops, as it does at Ctrl-C.

Without this the reactor would drop them: what was still to be sent is lost, and whoever
iterates over messages gets `txamqp091.errors.ConnectionLost`.
"""

from __future__ import annotations

__all__ = ["close_at_shutdown", "forget"]

from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

from twisted.internet.defer import Deferred, gatherResults
from twisted.internet.interfaces import IReactorCore
from twisted.internet.task import deferLater

from txamqp091.consumer import Consumer

if TYPE_CHECKING:
    from txamqp091.protocol import AMQPProtocol

#: How often a connection that is busy is looked at, in seconds.
_PAUSE = 0.05

#: The connections that close when their reactor stops.
_connections: WeakKeyDictionary[object, set[AMQPProtocol]] = WeakKeyDictionary()


def close_at_shutdown(connection: AMQPProtocol) -> None:
    """
    Have a connection close when its reactor stops, if that is one of Twisted's: first
    its consumers end, then it waits for handlers that are running, for answers that are
    due and for messages that wait to be published, up to ``close_timeout``.
    """
    reactor: Any = connection.reactor
    if not IReactorCore.providedBy(reactor):
        return
    if reactor not in _connections:
        _connections[reactor] = set()
        reactor.addSystemEventTrigger("before", "shutdown", _close, reactor)
    _connections[reactor].add(connection)


def forget(connection: AMQPProtocol) -> None:
    """
    The connection has ended.
    """
    connections = _connections.get(connection.reactor)
    if connections is not None:
        connections.discard(connection)


def _close(reactor: object) -> Deferred[Any]:
    return gatherResults(
        [Deferred.fromCoroutine(_finish(each)) for each in _connections[reactor]]
    )


async def _finish(connection: AMQPProtocol) -> None:
    consumers = connection.consumers()
    for each in consumers:
        each.stop().addErrback(lambda _: None)
    for _ in range(int(connection.parameters.close_timeout / _PAUSE)):
        if not connection.is_open or not _is_busy(connection, consumers):
            break
        await deferLater(connection.reactor, _PAUSE)
    await connection.close(200, "the reactor was stopped")


def _is_busy(connection: AMQPProtocol, consumers: list[Consumer]) -> bool:
    return connection.has_work or any(each.running for each in consumers)
