# -*- test-case-name: txamqp091.test.test_service_consumer -*-
"""
The consumer service, against a peer in memory: what it asks for, how it ends by
itself, and how it is stopped in every state.
"""

from __future__ import annotations

from typing import Any

from twisted.application.service import IService
from twisted.internet.defer import CancelledError, Deferred
from twisted.trial.unittest import SynchronousTestCase
from zope.interface.verify import verifyObject

from txamqp091.errors import (
    ConnectionForced,
    ConnectionLost,
    ConsumerCancelled,
    NotFound,
)
from txamqp091.message import Delivery
from txamqp091.parameters import ConnectionParameters
from txamqp091.protocol import AMQPProtocol
from txamqp091.service.consumer import ConsumerService
from txamqp091.test.peer import Peer
from txamqp091.wire.spec import (
    BasicAck,
    BasicCancel,
    BasicCancelOk,
    BasicConsume,
    BasicNack,
    BasicQos,
    ChannelClose,
    ChannelCloseOk,
    ChannelOpen,
    ConnectionClose,
    ConnectionCloseOk,
    QueueDeclare,
)


class ConsumerServiceCase(SynchronousTestCase):
    """
    A service, and the peer that it connects to.
    """

    def setUp(self) -> None:
        self.peer = Peer(self)
        self.running: list[tuple[Delivery, Deferred[None]]] = []

    def handle(self, delivery: Delivery) -> Deferred[None]:
        """
        A handler that takes until the test fires its Deferred.
        """
        result: Deferred[None] = Deferred()
        self.running.append((delivery, result))
        return result

    def service(self, **options: Any) -> ConsumerService:
        """
        A service that was not started.
        """

        def connect(*_: object) -> Deferred[AMQPProtocol]:
            return self.peer.client.when_open()

        options.setdefault("connect", connect)
        return ConsumerService(
            self.peer.clock, ConnectionParameters(), "work", self.handle, **options
        )

    def consuming(self, messages: int = 0, **options: Any) -> ConsumerService:
        """
        A service that consumes, and has so many messages in work.
        """
        service = self.service(**options)
        service.startService()
        self.peer.handshake()
        self.peer.serve()
        self.successResultOf(service.when_ready())
        for number in range(messages):
            self.peer.deliver(1, "ctag-1.1", number + 1)
        self.assertEqual(service.running_handlers, messages)
        return service

    def stop(self, service: ConsumerService) -> Deferred[None]:
        """
        Stop a service, and look at what it told the peer.
        """
        stopping = service.stopService()
        self.peer.listen()
        return stopping


class StartTests(ConsumerServiceCase):
    """
    From the connection to the consumer.
    """

    def test_interface(self) -> None:
        """
        It is a Twisted service.
        """
        verifyObject(IService, self.service())

    def test_construction(self) -> None:
        """
        Making one connects to nothing.
        """
        service = self.service(connect=self.fail)
        self.assertFalse(service.subscribed)
        self.assertEqual(service.running_handlers, 0)
        self.assertNoResult(service.when_ended())

    def test_consumes(self) -> None:
        """
        It consumes with the prefetch that it was told, and is ready then.
        """
        service = self.service(prefetch=7)
        service.startService()
        ready = service.when_ready()
        self.peer.handshake()
        said = self.peer.serve()
        self.assertEqual([type(each) for each in said],
                         [ChannelOpen, BasicQos, BasicConsume])  # fmt: skip
        self.assertEqual(said[1], BasicQos(0, 7, False))
        self.assertEqual(getattr(said[2], "queue", None), "work")
        self.successResultOf(ready)
        self.assertTrue(service.subscribed)
        self.assertTrue(service.consumed)

    def test_declares(self) -> None:
        """
        Told to, it declares the queue first, as a durable one.
        """
        service = self.service(declare=True)
        service.startService()
        self.peer.handshake()
        said = self.peer.serve()
        declared = said[1]
        assert isinstance(declared, QueueDeclare)
        self.assertEqual((declared.queue, declared.durable), ("work", True))

    def test_start_twice(self) -> None:
        """
        Starting a service that runs changes nothing.
        """
        service = self.consuming()
        service.startService()
        self.assertTrue(service.subscribed)
        self.assertEqual(self.peer.listen(), [])

    def test_acknowledges(self) -> None:
        """
        A message is acknowledged once its handler has finished.
        """
        service = self.consuming(messages=1)
        self.assertEqual(self.peer.listen(), [])
        self.running[0][1].callback(None)
        self.assertEqual(self.peer.expect(BasicAck), BasicAck(1))
        self.assertEqual(service.tally.acknowledged, 1)


class EndTests(ConsumerServiceCase):
    """
    It ends by itself, and says why.
    """

    def ends_with(self, service: ConsumerService, kind: type[Exception]) -> None:
        """
        The service tells everybody the same reason, and can be stopped.
        """
        reasons = [self.failureResultOf(service.when_ended(), kind) for _ in "ab"]
        self.assertIs(reasons[0].value, reasons[1].value)
        self.assertFalse(service.subscribed)
        stopping = service.stopService()
        self.peer.serve()
        self.peer.turn()
        self.successResultOf(stopping)
        self.failureResultOf(service.when_ended(), kind)

    def test_no_connection(self) -> None:
        """
        There is no connection.
        """
        failing: Deferred[AMQPProtocol] = Deferred()
        service = self.service(connect=lambda *_: failing)
        service.startService()
        ready = service.when_ready()
        failing.errback(ConnectionLost("nobody is there"))
        self.failureResultOf(ready, ConnectionLost)
        self.assertFalse(service.consumed)
        self.ends_with(service, ConnectionLost)

    def test_no_queue(self) -> None:
        """
        There is no such queue.
        """
        service = self.service()
        service.startService()
        self.peer.handshake()
        self.peer.expect(ChannelOpen)
        self.peer.send(1, ChannelOpen.replies[0]())
        self.peer.expect(BasicQos)
        consume = self.peer.expect(BasicConsume)
        self.peer.send(1, ChannelClose(404, "NOT_FOUND - no queue", *consume.identity))
        self.failureResultOf(service.when_ready(), NotFound)
        self.ends_with(service, NotFound)

    def test_cancelled(self) -> None:
        """
        The broker cancels the consumer.
        """
        service = self.consuming()
        self.peer.send(1, BasicCancel("ctag-1.1", True))
        self.assertTrue(service.consumed)
        self.ends_with(service, ConsumerCancelled)

    def test_channel_closed(self) -> None:
        """
        The broker closes the channel.
        """
        service = self.consuming()
        self.peer.send(1, ChannelClose(404, "NOT_FOUND - no exchange"))
        self.ends_with(service, NotFound)

    def test_connection_closed(self) -> None:
        """
        The broker closes the connection.
        """
        service = self.consuming()
        self.peer.send(0, ConnectionClose(320, "CONNECTION_FORCED - shutdown"))
        self.ends_with(service, ConnectionForced)

    def test_connection_lost(self) -> None:
        """
        The connection is lost with a handler running.  Stopping waits for it, though
        there is nobody to tell any more.
        """
        service = self.consuming(messages=1)
        self.peer.drop()
        self.failureResultOf(service.when_ended(), ConnectionLost)
        stopping = service.stopService()
        self.assertNoResult(stopping)
        self.running[0][1].callback(None)
        self.successResultOf(stopping)
        self.assertEqual((service.tally.acknowledged, service.tally.stale), (0, 1))

    def test_started_again(self) -> None:
        """
        A service that has ended, and was stopped, can be started again.
        """
        service = self.consuming()
        self.peer.drop()
        self.ends_with(service, ConnectionLost)
        self.peer = Peer(self)
        service.startService()
        self.assertFalse(service.consumed)
        ended = service.when_ended()
        self.peer.handshake()
        self.peer.serve()
        self.successResultOf(service.when_ready())
        self.assertNoResult(ended)
        service.stopService()
        self.peer.serve()
        self.peer.turn()
        self.successResultOf(ended)


class StopTests(ConsumerServiceCase):
    """
    Criterion 21, in memory: nothing acknowledged comes back, and nothing
    unacknowledged is lost.
    """

    def test_never_started(self) -> None:
        """
        Stopping what was not started is nothing.
        """
        self.successResultOf(self.service().stopService())

    def test_connecting(self) -> None:
        """
        While it connects, the attempt is cancelled.
        """
        cancelled: list[object] = []
        attempt: Deferred[AMQPProtocol] = Deferred(cancelled.append)
        service = self.service(connect=lambda *_: attempt)
        service.startService()
        ready, ended = service.when_ready(), service.when_ended()
        self.successResultOf(service.stopService())
        self.assertEqual(cancelled, [attempt])
        self.failureResultOf(ready, CancelledError)
        self.successResultOf(ended)

    def test_every_step(self) -> None:
        """
        Stopped before the answer to each of its requests, it closes the connection.
        """
        for step in range(3):
            self.setUp()
            service = self.service(declare=True)
            service.startService()
            self.peer.handshake()
            for _ in range(step):
                said = self.peer.hear()
                self.peer.send(said.channel, said.method.replies[0]())
            self.peer.listen()
            stopping = service.stopService()
            heard = self.peer.serve()
            self.peer.turn()
            self.successResultOf(stopping)
            self.assertEqual(type(heard[-1]), ConnectionClose, step)
            self.assertFalse(self.peer.transport.connected)
            self.successResultOf(service.when_ended())

    def test_idle(self) -> None:
        """
        With nothing in work, it cancels its consumer, closes its channel, so that the
        broker has heard all acknowledgements, and then the connection.
        """
        service = self.consuming()
        stopping = self.stop(service)
        heard = self.peer.serve()
        self.assertEqual(
            [type(each) for each in heard], [BasicCancel, ChannelClose, ConnectionClose]
        )
        self.peer.turn()
        self.successResultOf(stopping)
        self.successResultOf(service.when_ended())

    def test_running_handlers(self) -> None:
        """
        Running handlers finish, and their messages are acknowledged; what comes
        before the broker has agreed to the cancel goes back, unseen by a handler.
        """
        service = self.consuming(messages=2)
        stopping = self.stop(service)
        self.peer.expect(BasicCancel)
        self.peer.deliver(1, "ctag-1.1", 3)
        self.assertEqual(self.peer.expect(BasicNack), BasicNack(3, requeue=True))
        self.peer.send(1, BasicCancelOk("ctag-1.1"))
        self.assertEqual(self.peer.listen(), [])
        for _, result in self.running:
            result.callback(None)
        self.assertEqual(self.peer.expect(BasicAck), BasicAck(1))
        self.assertEqual(self.peer.expect(BasicAck), BasicAck(2))
        self.peer.expect(ChannelClose)
        self.assertNoResult(stopping)
        self.peer.send(1, ChannelCloseOk())
        self.peer.expect(ConnectionClose)
        self.peer.send(0, ConnectionCloseOk())
        self.peer.turn()
        self.successResultOf(stopping)
        self.assertEqual(service.tally.acknowledged, 2)
        self.assertEqual(len(self.running), 2)

    def test_limit(self) -> None:
        """
        Handlers that take longer than the limit are cancelled, and their messages go
        back; the others' are acknowledged.
        """
        service = self.consuming(messages=2, shutdown_timeout=5)
        stopping = self.stop(service)
        self.peer.serve()
        self.running[0][1].callback(None)
        self.assertEqual(self.peer.expect(BasicAck), BasicAck(1))
        self.peer.clock.advance(4.9)
        self.assertEqual(self.peer.listen(), [])
        self.peer.clock.advance(0.1)
        self.assertEqual(self.peer.expect(BasicNack), BasicNack(2, requeue=True))
        self.assertTrue(self.running[1][1].called)
        self.peer.serve()
        self.peer.turn()
        self.successResultOf(stopping)
        self.assertEqual(service.tally.unfinished, 1)

    def test_hurry(self) -> None:
        """
        Told to hurry, it waits no longer.
        """
        service = self.consuming(messages=1)
        service.hurry()  # means nothing before it is stopped
        stopping = self.stop(service)
        self.peer.serve()
        self.assertNoResult(stopping)
        service.hurry()
        self.assertEqual(self.peer.expect(BasicNack), BasicNack(1, requeue=True))
        self.peer.serve()
        self.peer.turn()
        self.successResultOf(stopping)

    def test_silent_peer(self) -> None:
        """
        A broker that answers nothing any more costs no more than the limits for the
        handlers, for the channel and for the connection.
        """
        service = self.consuming(shutdown_timeout=5)
        stopping = self.stop(service)
        for _ in range(3):
            self.assertNoResult(stopping)
            self.peer.clock.advance(5)
        self.peer.turn()
        self.successResultOf(stopping)

    def test_lost_meanwhile(self) -> None:
        """
        The connection is lost while a handler finishes: it is still waited for.
        """
        service = self.consuming(messages=1)
        stopping = self.stop(service)
        self.peer.drop()
        self.assertNoResult(stopping)
        self.running[0][1].callback(None)
        self.successResultOf(stopping)

    def test_twice(self) -> None:
        """
        Stopping it again waits for the same end, and asks the broker for nothing.
        """
        service = self.consuming()
        first, second = service.stopService(), service.stopService()
        heard = self.peer.serve()
        self.assertEqual(len(heard), 3)
        self.peer.turn()
        self.successResultOf(first)
        self.successResultOf(second)
        self.successResultOf(service.stopService())

    def test_handler_stops_it(self) -> None:
        """
        A handler may stop the service from inside, and its message is acknowledged.
        """
        service = self.service()
        stopping: list[Deferred[None]] = []

        def handle(delivery: Delivery) -> None:
            stopping.append(service.stopService())

        service._handler = handle
        service.startService()
        self.peer.handshake()
        self.peer.serve()
        self.peer.deliver(1, "ctag-1.1", 1)
        heard = self.peer.serve()
        self.assertEqual(
            [type(each) for each in heard],
            [BasicCancel, BasicAck, ChannelClose, ConnectionClose],
        )
        self.peer.turn()
        self.successResultOf(stopping[0])
