# -*- test-case-name: txamqp091.test.unit.service.test_reconnection -*-
"""
Tests for `txamqp091.service.reconnection`: delays, limits, losses.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from twisted.internet.error import ConnectionRefusedError
from twisted.logger import capturedLogs, formatEvent

from txamqp091.credentials import PlainCredentials
from txamqp091.errors import (
    AuthenticationFailed,
    ConnectFailed,
    ConnectionForced,
    ConnectionLost,
    HandshakeTimeout,
    HeartbeatTimeout,
    RemoteProtocolError,
    VhostAccessRefused,
)
from txamqp091.parameters import ConnectionParameters
from txamqp091.service.client import AMQPClientService
from txamqp091.service.entities import Queue
from txamqp091.service.retry import RetryPolicy
from txamqp091.test.support.service_case import (
    POLICY,
    Events,
    Inbox,
    ServiceCase,
)
from txamqp091.testing.network import Link
from txamqp091.wire.frames import method_frame
from txamqp091.wire.spec import BasicAck

HASTY = replace(POLICY, permanent="fail")


class PermanentTests(ServiceCase):
    """
    Errors that will not pass by themselves.
    """

    def refused(self, policy: RetryPolicy) -> tuple[AMQPClientService, Events]:
        """
        A service with a wrong password.
        """
        service = self.service(
            policy=policy, start=False, credentials=PlainCredentials("guest", "wrong")
        )
        events = Events()
        events.observe(service)
        service.startService()
        self.turn()
        return service, events

    def test_waits_longest(self) -> None:
        """
        A wrong password is tried again after the longest delay, and works when it was
        put right.
        """
        service, events = self.refused(POLICY)
        self.assertEqual(events.names, ["connecting", "recovering"])
        attempt, delay, reason = events.details[1]
        self.assertEqual((attempt, delay), (1, 8.0))
        self.assertIsInstance(reason, AuthenticationFailed)
        self.assertWaits(service.when_ready())
        self.broker.add_user("guest", "wrong")
        self.passes(8)
        self.assertReady(service)

    def test_gives_up(self) -> None:
        """
        Unless the policy says otherwise: then everybody who waits is told why.
        """
        service = self.service(
            policy=HASTY, start=False, credentials=PlainCredentials("guest", "wrong")
        )
        events = Events()
        events.observe(service)
        ready = service.when_ready()
        channel = service.channel().when_open()
        consumer = service.consume("work", Inbox()).when_subscribed()
        declared = service.declare(Queue(name="work"))
        service.startService()
        self.turn()
        for each in (ready, channel, consumer, declared, service.when_ready()):
            self.failureResultOf(each, AuthenticationFailed)
        self.assertEqual(events.names, ["connecting", "failed"])
        self.passes(100)
        self.assertEqual(len(self.endpoint.links), 1)

    def test_started_again(self) -> None:
        """
        A service that gave up, and was stopped, can be started again.
        """
        service, _ = self.refused(HASTY)
        self.failureResultOf(service.when_ready(), AuthenticationFailed)
        self.successResultOf(service.stopService())
        self.broker.add_user("guest", "wrong")
        channel = service.channel()
        service.startService()
        self.turn()
        self.assertReady(service)
        self.successResultOf(channel.when_open())

    def test_vhost(self) -> None:
        """
        A virtual host that does not exist is as permanent.
        """
        service = self.service(
            policy=HASTY, parameters=ConnectionParameters(virtual_host="nowhere")
        )
        self.failureResultOf(service.when_ready(), VhostAccessRefused)

    def test_not_after_a_connection(self) -> None:
        """
        A connection that was ready and ends for such a reason is made again soon.
        """
        service = self.service(policy=HASTY)
        self.passes(20)
        # To confirm what nobody has published is against the rules.
        channel = service.channel()
        self.turn()
        self.successResultOf(channel.when_open())
        self.link.server.write(method_frame(1, BasicAck(1).encode()))
        self.turn()
        self.assertIsInstance(service.error, RemoteProtocolError)
        self.passes(1)
        self.assertReady(service)

    def test_only_at_the_start(self) -> None:
        """
        With ``fail-at-start``, a wrong password ends the attempts before the first
        connection, and is retried after it, also in a second life of the service.
        """
        policy = replace(POLICY, permanent="fail-at-start")
        service, events = self.refused(policy)
        self.assertEqual(events.names[-1], "failed")
        self.failureResultOf(service.when_ready(), AuthenticationFailed)
        service = self.service(policy=policy)
        self.assertReady(service)
        self.broker.add_user("guest", "changed")
        self.cut()
        self.passes(60)
        self.assertIsInstance(service.error, AuthenticationFailed)
        self.assertNoResult(service.when_ready())
        self.broker.add_user("guest", "guest")
        self.passes(8)
        self.assertReady(service)


class LogTests(ServiceCase):
    """
    What the log says of the attempts.
    """

    def lines(self, break_it: Callable[[], object]) -> list[tuple[str, str]]:
        """
        The lines of a service that loses its connection, and cannot connect for two
        attempts, with their levels; without those for debugging.
        """
        self.assertReady(self.service())
        with capturedLogs() as logs:
            self.cut()
            break_it()
            self.passes(3)
            self.endpoint.refusing = False
            self.broker.add_user("guest", "guest")
            self.passes(10)
        self.assertReady(self.services[0])
        return [
            (each["log_level"].name, formatEvent(each))
            for each in logs
            if each["log_level"].name != "debug"
            and each["log_namespace"].startswith("txamqp091.service")
        ]

    def test_one_line_for_each_attempt(self) -> None:
        """
        The loss, each failed attempt, and the next connection have a line each.
        """
        lines = self.lines(lambda: setattr(self.endpoint, "refusing", True))
        self.assertEqual(
            [each[0] for each in lines], ["warn", "warn", "warn", "info"], lines
        )
        place = r"amqp://\S+"
        for (_, line), expected in zip(
            lines,
            (
                f"Lost the connection to {place}: .*; the service reconnects in 1.00 s",
                f"No connection to {place}: .*; retry 2 follows in 2.00 s",
                f"No connection to {place}: .*; retry 3 follows in 4.00 s",
                f"Connected to {place}",
            ),
            strict=True,
        ):
            self.assertRegex(line, f"^{expected}$")

    def test_permanent(self) -> None:
        """
        A failure that does not pass by itself is an error.
        """
        lines = self.lines(lambda: self.broker.add_user("guest", "changed"))
        self.assertEqual([each[0] for each in lines], ["warn", "error", "info"], lines)
        self.assertIn("ACCESS_REFUSED", lines[1][1])


class LimitTests(ServiceCase):
    """
    When to give up.
    """

    def test_attempts(self) -> None:
        """
        After so many attempts in a row.
        """
        self.endpoint.refusing = True
        service = self.service(policy=replace(POLICY, max_attempts=3))
        self.passes(2.5)
        self.assertWaits(service.when_ready())
        self.passes(1)
        failure = self.failureResultOf(service.when_ready(), ConnectFailed)
        self.assertIsInstance(failure.value.__cause__, ConnectionRefusedError)

    def test_a_connection_in_between(self) -> None:
        """
        Only those in a row count.
        """
        self.endpoint.refusing = True
        service = self.service(policy=replace(POLICY, max_attempts=2))
        for _ in range(3):
            self.endpoint.refusing = False
            self.passes(10)
            self.assertReady(service)
            self.endpoint.refusing = True
            self.cut()
            self.passes(1.5)
        self.assertWaits(service.when_ready())
        self.passes(2)
        self.failureResultOf(service.when_ready(), ConnectFailed)

    def test_seconds(self) -> None:
        """
        After so many seconds without a connection.
        """
        service = self.service(policy=replace(POLICY, max_seconds=10))
        self.passes(60)
        self.endpoint.refusing = True
        self.cut()
        self.passes(6.5)
        self.assertWaits(service.when_ready())
        self.passes(1)
        self.failureResultOf(service.when_ready(), ConnectFailed)


class LossTests(ServiceCase):
    """
    A connection that was ready ends.
    """

    def setUp(self) -> None:
        """
        Have one.
        """
        super().setUp()
        self.events = Events()
        self.client = self.service(start=False)
        self.forget = self.events.observe(self.client)
        self.client.startService()
        self.passes(10)
        self.assertReady(self.client)

    def back(self, kind: type[BaseException], seconds: float = 1.0) -> None:
        """
        It has ended for such a reason, which was told, and there is another one.
        """
        self.assertIsNone(self.client.connection)
        ready = self.client.when_ready()
        self.assertNoResult(ready)
        self.assertIsInstance(self.client.error, kind)
        self.passes(seconds)
        self.assertIs(self.successResultOf(ready), self.client.connection)
        self.assertEqual(
            self.events.names,
            ["connecting", "ready", "lost", "recovering", "connecting", "ready"],
        )
        self.assertIsInstance(self.events.details[2][0], kind)
        self.assertIsInstance(self.events.details[3][2], kind)

    def test_cut(self) -> None:
        """
        The link breaks.
        """
        self.cut()
        self.back(ConnectionLost)

    def test_forced(self) -> None:
        """
        An operator closes the connection.
        """
        self.broker.close_connections()
        self.turn()
        self.back(ConnectionForced)

    def test_silence(self) -> None:
        """
        Nothing is heard for two heartbeat intervals.
        """
        self.link.hole()
        self.passes(109, step=10)
        self.assertIsNotNone(self.client.connection)
        self.passes(1)
        self.back(HeartbeatTimeout)

    def test_closed_by_us(self) -> None:
        """
        The connection is the service's: who closes it gets another one.
        """
        assert self.client.connection is not None
        self.client.connection.close()
        self.turn()
        self.passes(1)
        self.assertReady(self.client)

    def test_delays_grow(self) -> None:
        """
        A connection that does not last lets the delays grow; one that does lets them
        begin anew.
        """
        delays = []
        for _ in range(4):
            self.cut()
            delays.append(self.events.details[-1][1])
            self.passes(delays[-1])
            self.assertReady(self.client)
        self.assertEqual(delays, [1, 2, 4, 8])
        self.passes(8)
        self.cut()
        self.assertEqual(self.events.details[-1][1], 1)

    def test_silent_handshake(self) -> None:
        """
        A peer that says nothing has the time of the handshake.
        """
        self.cut()
        self.endpoint.spoil = Link.hole
        self.passes(12)
        self.assertIsInstance(self.client.error, HandshakeTimeout)

    def test_stop_observing(self) -> None:
        """
        An observation ends, once.
        """
        told: list[object] = []
        undo = self.client.observe(lost=told.append)
        undo()
        undo()
        self.forget()
        self.cut()
        self.assertEqual(told, [])
        self.assertEqual(self.events.names, ["connecting", "ready"])
