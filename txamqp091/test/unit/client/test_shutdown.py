# -*- test-case-name: txamqp091.test.unit.client.test_shutdown -*-
"""
Tests for `txamqp091._shutdown`: connections that close when the reactor stops.
"""

from __future__ import annotations

import gc
from collections.abc import Coroutine
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.testing import MemoryReactorClock
from twisted.trial.unittest import SynchronousTestCase

from txamqp091.endpoint import connect, connect_once
from txamqp091.errors import ConnectionClosed
from txamqp091.message import Delivery
from txamqp091.parameters import ConnectionParameters
from txamqp091.protocol import AMQPProtocol
from txamqp091.testing.memory import MemoryBroker


class ShutdownTests(SynchronousTestCase):
    """
    The reactor stops while there is a connection.
    """

    def setUp(self) -> None:
        """
        Have a reactor that can be told to stop, and a broker.
        """
        self.reactor: Any = MemoryReactorClock()
        self.broker = MemoryBroker(self.reactor)
        self.endpoint = self.broker.endpoint()
        self.connection = self.connect()
        self.channel = self.result_of(self.connection.open_channel())
        self.result_of(self.channel.queue_declare("q"))

    def turns(self) -> None:
        """
        Let bytes move.
        """
        self.reactor.pump([0] * 50)

    def result_of(self, deferred: Deferred[Any]) -> Any:
        """
        What a Deferred fires with.
        """
        self.turns()
        return self.successResultOf(deferred)

    def connect(self, how: Any = connect) -> AMQPProtocol:
        """
        Make a connection.
        """
        parameters = ConnectionParameters(close_timeout=5)
        connecting = how(self.reactor, parameters, endpoint=self.endpoint)
        connection: AMQPProtocol = self.result_of(connecting)
        return connection

    def run_coroutine(self, coroutine: Coroutine[Deferred[Any], Any, Any]) -> Any:
        """
        Start a coroutine.
        """
        running = Deferred.fromCoroutine(coroutine)
        self.turns()
        return running

    def stop(self) -> Deferred[Any]:
        """
        Stop the reactor.

        :returns: what the reactor waits for.
        """
        [(function, args, kwargs)] = self.reactor.triggers["before"]["shutdown"]
        stopping: Deferred[Any] = function(*args, **kwargs)
        self.turns()
        return stopping

    def test_iteration(self) -> None:
        """
        A loop over deliveries ends without an error, and the program after it goes on;
        what the loop has not taken goes back to its queue.
        """
        seen: list[bytes] = []
        gate: Deferred[None] = Deferred()

        async def main() -> str:
            async for delivery in self.channel.consume("q"):
                seen.append(delivery.body)
                await gate
                delivery.ack()
            return "ended"

        running = self.run_coroutine(main())
        for body in (b"one", b"two"):
            self.broker.publish("", "q", body)
        self.turns()
        stopping = self.stop()
        self.reactor.advance(0.05)
        self.result_of(stopping)
        reason = str(self.connection.close_reason)
        self.assertEqual(reason, "200 the reactor was stopped")
        gate.callback(None)
        self.assertEqual(self.result_of(running), "ended")
        self.assertEqual(seen, [b"one"])
        self.assertEqual(self.broker.queue("q").ready, 2)

    def test_handlers(self) -> None:
        """
        Handlers that are running can settle their messages.
        """
        gate: Deferred[None] = Deferred()
        closed = self.connection.when_closed()

        async def handle(delivery: Delivery) -> None:
            await gate
            delivery.ack()

        self.result_of(self.channel.basic_consume("q", handle))
        self.broker.publish("", "q", b"one")
        self.turns()
        stopping = self.stop()
        self.reactor.advance(3)
        self.assertNoResult(stopping)
        self.broker.publish("", "q", b"two")
        self.turns()
        gate.callback(None)
        self.reactor.advance(0.05)
        self.result_of(stopping)
        self.assertIsNone(self.successResultOf(closed))
        self.assertEqual(self.broker.queue("q").ready, 1)

    def test_handlers_that_take_too_long(self) -> None:
        """
        They have as much time as the broker has to agree to a close.
        """
        self.result_of(self.channel.basic_consume("q", lambda _: Deferred()))
        self.broker.publish("", "q", b"one")
        self.turns()
        stopping = self.stop()
        self.reactor.pump([0.05] * 99)
        self.assertNoResult(stopping)
        self.reactor.pump([0.05] * 2)
        self.result_of(stopping)
        self.assertEqual(self.broker.queue("q").ready, 1)

    def test_confirms(self) -> None:
        """
        An answer that is due is waited for, and so are messages that wait to leave.
        """
        self.result_of(self.channel.confirm_select(window=1))
        self.broker.hold_confirms()
        publishes = [self.channel.basic_publish("", "q", b"x") for _ in range(3)]
        self.turns()
        stopping = self.stop()
        self.reactor.advance(1)
        self.assertNoResult(stopping)
        self.broker.release_confirms()
        self.reactor.pump([0.05] * 10)
        self.result_of(stopping)
        for each in publishes:
            self.successResultOf(each)
        late = self.channel.queue_declare("late")
        error = self.failureResultOf(late, ConnectionClosed).value
        self.assertTrue(error.by_us)
        self.assertIn("the reactor was stopped", str(error))

    def test_broker_is_silent(self) -> None:
        """
        A broker that answers nothing is dropped.
        """
        self.result_of(self.channel.basic_consume("q", lambda _: None))
        self.endpoint.links[-1].hole()
        stopping = self.stop()
        self.reactor.pump([0.05] * 205)
        self.result_of(stopping)

    def test_others(self) -> None:
        """
        Connections that were closed are forgotten, and those of services are theirs:
        the reactor has one trigger for all.
        """
        service = self.connect(connect_once)
        closing = [self.connect().close() for _ in range(10)]
        for each in closing:
            self.result_of(each)
        self.result_of(self.stop())
        self.assertFalse(self.connection.is_open)
        self.assertTrue(service.is_open)
        self.result_of(service.close())

    def test_nothing_is_kept(self) -> None:
        """
        Neither a reactor nor a connection is kept for it.
        """
        self.result_of(self.connection.close())
        del self.connection, self.channel
        self.endpoint.links.clear()
        gc.collect()
        kept = [each for each in gc.get_objects() if type(each) is AMQPProtocol]
        mine = [each for each in kept if each.reactor is self.reactor]
        self.assertEqual(mine, [])
