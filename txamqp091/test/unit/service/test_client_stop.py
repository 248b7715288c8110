# -*- test-case-name: txamqp091.test.unit.service.test_client_stop -*-
"""
Tests for `AMQPClientService.stopService`: in any state, in order, within bounds.
"""

from __future__ import annotations

from gc import collect
from typing import Any
from weakref import ref

from twisted.application.service import Service
from twisted.internet.defer import CancelledError, Deferred, succeed
from twisted.logger import capturedLogs, formatEvent

from txamqp091.channel import Channel
from txamqp091.errors import ConnectionClosed
from txamqp091.message import Delivery
from txamqp091.service.entities import Exchange, Queue
from txamqp091.service.publisher import Publisher
from txamqp091.service.topology import Topology
from txamqp091.test.support.service_case import Inbox, ServiceCase
from txamqp091.testing.network import Link


class StatesTests(ServiceCase):
    """
    Stopped in every state.
    """

    def assertStops(self, service: object, seconds: float = 0.0) -> None:
        """
        It stops within so many seconds, and leaves nothing behind.
        """
        first = service.stopService()  # type: ignore[attr-defined]
        second = service.stopService()  # type: ignore[attr-defined]
        self.passes(seconds)
        self.successResultOf(first)
        self.successResultOf(second)
        self.successResultOf(service.stopService())  # type: ignore[attr-defined]
        self.failureResultOf(
            service.when_ready(),  # type: ignore[attr-defined]
            CancelledError,
        )
        self.assertEqual(self.broker.sessions, [])
        count = len(self.endpoint.links)
        self.passes(60)
        self.assertEqual(len(self.endpoint.links), count)
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_never_started(self) -> None:
        """
        Before it was started, there is nothing to stop.
        """
        service = self.service(start=False)
        self.successResultOf(service.stopService())
        self.assertWaits(service.when_ready())

    def test_ready(self) -> None:
        """
        While it is ready.
        """
        self.assertStops(self.service())

    def test_cancelled(self) -> None:
        """
        Who waits no longer does not change anything.
        """
        service = self.service()
        stopped = service.stopService()
        stopped.cancel()
        self.failureResultOf(stopped, CancelledError)
        self.turn()
        self.successResultOf(service.stopService())
        self.assertEqual(self.broker.sessions, [])

    def test_every_turn(self) -> None:
        """
        In every turn of the reactor from the first to the last of connecting, with a
        topology, a channel and a consumer (criterion 19).
        """
        topology = Topology.of(Exchange(name="x"), Queue(name="work"))
        for turns in range(60):
            service = self.service(topology=topology, start=False)
            channel = service.channel(confirm=True)
            consumer = service.consume("work", Inbox())
            service.startService()
            self.turn(turns)
            self.assertStops(service)
            self.failureResultOf(channel.when_open(), CancelledError)
            self.failureResultOf(consumer.when_subscribed(), CancelledError)
        self.assertEqual(consumer.subscribed, 1)

    def test_every_turn_of_a_reconnect(self) -> None:
        """
        The same on the way back.
        """
        topology = Topology.of(Exchange(name="x"), Queue(name="work"))
        for turns in range(60):
            service = self.service(topology=topology)
            consumer = service.consume("work", Inbox())
            self.turn()
            self.cut()
            self.clock.advance(1.0)
            self.turn(turns)
            self.assertStops(service)
        self.assertEqual(consumer.subscribed, 2)

    def test_once(self) -> None:
        """
        Twisted's ``Service.stopService`` is called once for each start, though the user
        stops the service twice: some frameworks assert that what is stopped runs.
        """
        stopped: list[str] = []
        stop = Service.stopService

        def check(service: Service) -> Any:
            self.assertTrue(service.running)
            stopped.append(type(service).__name__)
            return stop(service)

        self.patch(Service, "stopService", check)
        self.assertStops(self.service())
        self.endpoint.refusing = True
        self.assertStops(self.service())
        self.assertEqual(stopped, ["AMQPClientService"] * 2)

    def test_channels_stay_closed(self) -> None:
        """
        A channel that the stop has closed is not opened again, and the log does not say
        so.
        """
        service = self.service(shutdown_timeout=1.0)
        channel = service.channel()
        self.broker.declare_queue("work")
        consumer = service.consume("work", lambda _: Deferred())
        self.broker.publish("", "work", b"x")
        self.turn()
        with capturedLogs() as logs:
            self.assertStops(service, 2.0)
        texts = [str(formatEvent(each)) for each in logs]
        self.assertEqual([text for text in texts if "again" in text], [])
        self.assertEqual((channel.opened, consumer.channel.opened), (1, 1))

    def test_waiting(self) -> None:
        """
        While it waits for the next attempt.
        """
        self.endpoint.refusing = True
        self.assertStops(self.service())

    def test_silent_handshake(self) -> None:
        """
        While the peer says nothing.
        """
        self.endpoint.spoil = Link.hole
        self.assertStops(self.service())

    def test_silent(self) -> None:
        """
        When the peer has fallen silent, each step has its time limit.
        """
        service = self.service()
        consumer = service.consume("work", Inbox())
        self.broker.declare_queue("work")
        self.passes(3)
        self.assertTrue(consumer.is_subscribed)
        self.link.hole()
        self.broker.close_connections()
        self.assertStops(service, 16)

    def test_lost_meanwhile(self) -> None:
        """
        A connection that is lost while the service is stopped is the last.
        """
        service = self.service()
        self.broker.declare_queue("work")
        running: Deferred[None] = Deferred()
        consumer = service.consume("work", lambda delivery: running)
        self.turn()
        self.broker.publish("", "work", b"1")
        self.turn()
        stopped = service.stopService()
        self.turn()
        self.cut()
        self.passes(10)
        self.assertNoResult(stopped)  # the handler has its time
        self.assertEqual(consumer.running, 1)
        running.callback(None)
        self.turn()
        self.successResultOf(stopped)
        self.assertEqual(len(self.endpoint.links), 1)

    def test_restart(self) -> None:
        """
        Started again it comes back, with its channels and consumers.
        """
        self.broker.declare_queue("work")
        service = self.service()
        inbox = Inbox()
        consumer = service.consume("work", inbox)
        self.turn()
        service.stopService()
        service.startService()
        self.assertNoResult(consumer.when_ended())
        self.turn()
        self.assertReady(service)
        self.broker.publish("", "work", b"1")
        self.turn()
        self.assertEqual(inbox.bodies, [b"1"])
        self.assertEqual(self.broker.queue("work").consumers, 1)

    def test_members_on_a_stopped_service(self) -> None:
        """
        What is asked for while it stops comes with the next start.
        """
        self.broker.declare_queue("work")
        service = self.service()
        stopped = service.stopService()
        consumer = service.consume("work", Inbox())
        self.turn()
        self.successResultOf(stopped)
        self.assertFalse(consumer.is_subscribed)
        service.startService()
        self.turn()
        self.assertTrue(consumer.is_subscribed)


class DrainTests(ServiceCase):
    """
    In which order it stops.
    """

    def setUp(self) -> None:
        """
        Have a service with a handler that takes its time.
        """
        super().setUp()
        self.broker.declare_queue("work")
        self.client = self.service(shutdown_timeout=20)
        self.running: list[tuple[Delivery, Deferred[None]]] = []
        self.consumer = self.client.consume("work", self.handle, prefetch=2)
        self.turn()
        for number in range(5):
            self.broker.publish("", "work", b"%d" % number)
        self.turn()

    def handle(self, delivery: Delivery) -> Deferred[None]:
        """
        A handler.
        """
        done: Deferred[None] = Deferred()
        self.running.append((delivery, done))
        return done.addCallback(lambda _: delivery.ack())

    def test_handlers_end(self) -> None:
        """
        Running handlers end, what they acknowledge is gone, and what none has is in the
        queue.
        """
        stopped = self.client.stopService()
        self.passes(5)
        self.assertNoResult(stopped)
        self.assertEqual(self.broker.queue("work").consumers, 0)
        self.assertEqual(len(self.running), 2)
        for _, done in self.running:
            done.callback(None)
        self.turn()
        self.successResultOf(stopped)
        self.assertEqual(self.broker.queue("work").bodies, [b"2", b"3", b"4"])

    def test_limit(self) -> None:
        """
        A handler that takes longer than the limit is given up, and its message goes
        back.  Its late acknowledgement does no harm.
        """
        stopped = self.client.stopService()
        self.passes(19)
        self.assertNoResult(stopped)
        self.running[0][1].callback(None)
        self.passes(1)
        self.successResultOf(stopped)
        self.assertEqual(len(self.broker.queue("work").bodies), 4)
        self.running[1][1].callback(None)
        self.assertEqual(self.consumer.channel.stale, 1)

    def test_skip_grace_period(self) -> None:
        """
        Patience can end sooner.
        """
        self.client.skip_grace_period()
        stopped = self.client.stopService()
        self.passes(1)
        self.assertNoResult(stopped)
        self.client.skip_grace_period()
        self.turn()
        self.successResultOf(stopped)

    def test_confirms(self) -> None:
        """
        The service waits for confirms; `draining` observers are called after
        the handlers have ended.
        """
        steps: list[str] = []

        def step() -> Deferred[None]:
            steps.append("drained")
            return succeed(None)

        self.client.observe(draining=step)
        channel = self.client.channel(confirm=True)
        self.turn()
        self.broker.hold_confirms()
        published = channel.call(Channel.basic_publish, "", "work", b"x")
        stopped = self.client.stopService()
        self.turn()
        self.assertEqual(steps, [])
        for _, done in self.running:
            done.callback(None)
        self.passes(2)
        self.assertEqual(steps, ["drained"])
        self.assertNoResult(stopped)
        self.broker.release_confirms()
        self.turn()
        self.successResultOf(published)
        self.successResultOf(stopped)

    def test_unconfirmed(self) -> None:
        """
        But not for ever: then they fail with the reason.
        """
        channel = self.client.channel(confirm=True)
        self.turn()
        self.broker.hold_confirms()
        published = channel.call(Channel.basic_publish, "", "work", b"x")
        stopped = self.client.stopService()
        self.passes(20)
        self.successResultOf(stopped)
        self.failureResultOf(published)

    def test_waiting_calls(self) -> None:
        """
        A call that waits for a channel fails when the service is stopped.
        """
        self.endpoint.refusing = True
        self.cut()
        channel = self.client.channel()
        called = channel.call(Channel.queue_declare, "other")
        stopped = self.client.stopService()
        self.passes(20)
        self.successResultOf(stopped)
        self.failureResultOf(called, CancelledError)

    def test_failing_step(self) -> None:
        """
        A step that fails does not keep the others from being done.
        """

        def step() -> Deferred[None]:
            failing: Deferred[None] = Deferred()
            failing.errback(ConnectionClosed("it has gone"))
            return failing

        self.client.observe(draining=step)
        for _, done in self.running:
            done.callback(None)
        stopped = self.client.stopService()
        self.turn()
        self.successResultOf(stopped)
        self.assertEqual(len(self.flushLoggedErrors(ConnectionClosed)), 1)
        self.assertEqual(self.broker.sessions, [])

    def test_forgotten_step(self) -> None:
        """
        A step that was taken back is not done; nor is that of a publisher which has
        been stopped, and which is not kept then.
        """
        done_steps: list[str] = []

        def step(name: str) -> Deferred[None]:
            done_steps.append(name)
            return succeed(None)

        forget = self.client.observe(draining=lambda: step("one"))
        self.client.observe(draining=lambda: step("two"))
        forget()
        forget()
        publisher = Publisher(self.client)
        publisher.stop()
        self.turn()
        kept = ref(publisher)
        del publisher
        collect()
        self.assertIsNone(kept())
        for _, done in self.running:
            done.callback(None)
        stopped = self.client.stopService()
        self.turn()
        self.successResultOf(stopped)
        self.assertEqual(done_steps, ["two"])

    def test_defect(self) -> None:
        """
        A step that raises is one that fails.
        """

        def step() -> Deferred[None]:
            raise ZeroDivisionError("a defect")

        self.client.observe(draining=step)
        for _, done in self.running:
            done.callback(None)
        stopped = self.client.stopService()
        self.turn()
        self.successResultOf(stopped)
        self.assertEqual(self.broker.sessions, [])
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 1)
