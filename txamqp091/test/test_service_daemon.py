# -*- test-case-name: txamqp091.test.test_service_daemon -*-
"""
The process around consumers: signals, the reason of its end, and the exit status.
The real process, and a real broker, are in ``test_daemon``.
"""

from __future__ import annotations

import atexit
import os
import signal
from collections.abc import Callable
from typing import Any

from twisted.internet.defer import Deferred, fail
from twisted.internet.error import ReactorNotRunning
from twisted.internet.testing import MemoryReactorClock
from twisted.logger import capturedLogs, formatEvent
from twisted.trial.unittest import SynchronousTestCase

from txamqp091 import errors
from txamqp091.errors import (
    AccessRefused,
    AuthenticationFailed,
    ConnectFailed,
    ConnectionForced,
    ConnectionLost,
    ConsumerCancelled,
    DeliveryAckTimeout,
    FrameError,
    HandshakeTimeout,
    HeartbeatTimeout,
    InvalidURI,
    MechanismNotOffered,
    NotFound,
    PreconditionFailed,
    ResourceLocked,
    TLSFailed,
    VhostAccessRefused,
)
from txamqp091.message import Delivery
from txamqp091.parameters import ConnectionParameters
from txamqp091.service.consumer import ConsumerService
from txamqp091.service.daemon import Daemon, ExitStatus, exit_status
from txamqp091.service.work import Tally
from txamqp091.test.peer import Peer
from txamqp091.wire.spec import BasicCancel


class ExitStatusTests(SynchronousTestCase):
    """
    The table.
    """

    def test_before_consuming(self) -> None:
        """
        Each way not to get as far as to consume has a status.
        """
        for error, status in {
            ConnectFailed("nobody"): 69,
            HandshakeTimeout("late"): 69,
            ConnectionLost("gone"): 69,
            ConnectionForced("shutdown"): 69,
            AuthenticationFailed("no"): 77,
            AccessRefused("no"): 77,
            VhostAccessRefused("no"): 68,
            TLSFailed("expired"): 76,
            FrameError("HTTP"): 76,
            NotFound("no queue"): 66,
            PreconditionFailed("durable"): 73,
            ResourceLocked("exclusive"): 73,
            InvalidURI("no such certificate"): 78,
            MechanismNotOffered("EXTERNAL"): 78,
            ValueError("a bug"): 70,
        }.items():
            self.assertEqual(exit_status(error, False), status, repr(error))

    def test_while_consuming(self) -> None:
        """
        Each way to end has a status.
        """
        for error, status in {
            ConnectionLost("gone"): 74,
            HeartbeatTimeout("silent"): 74,
            ConnectionForced("shutdown"): 74,
            DeliveryAckTimeout("slow"): 74,
            NotFound("deleted"): 74,
            ConsumerCancelled("tag", "queue"): 75,
            FrameError("garbage"): 76,
            ValueError("a bug"): 70,
        }.items():
            self.assertEqual(exit_status(error, True), status, repr(error))

    def test_every_end(self) -> None:
        """
        No end of a connection or channel is called unexpected.
        """
        for name in errors.__all__:
            kind = getattr(errors, name)
            if isinstance(kind, type) and issubclass(kind, errors.Closed):
                for consuming in (False, True):
                    status = exit_status(kind("text"), consuming)
                    self.assertNotEqual(status, ExitStatus.SOFTWARE, name)

    def test_meanings(self) -> None:
        """
        Each status has its number, and says what it means.
        """
        self.assertEqual(len({each.meaning for each in ExitStatus}), len(ExitStatus))
        self.assertEqual(int(ExitStatus.NO_PERMISSION), 77)
        self.assertEqual(f"{ExitStatus.CONFIG}", "78")


class Reactor(MemoryReactorClock):
    """
    A reactor in memory, which can be stopped once, as a real one.
    """

    def __init__(self) -> None:
        super().__init__()
        # By default, Twisted's versions differ.
        self.running = True
        self.hasStopped = False
        self.from_threads: list[Callable[[], object]] = []
        self.when_running: list[Callable[[], object]] = []

    def callWhenRunning(  # type: ignore[override]
        self, function: Callable[[], object]
    ) -> None:
        """
        Twisted: call a function, as soon as the reactor runs.
        """
        if self.running:
            function()
        else:
            self.when_running.append(function)

    def callFromThread(self, function: Any, *arguments: object) -> None:
        """
        Twisted: call a function in the reactor's thread.
        """
        self.from_threads.append(lambda: function(*arguments))

    def stop(self) -> None:
        """
        Twisted: stop.
        """
        if self.hasStopped:
            raise ReactorNotRunning()
        super().stop()


class DaemonTests(SynchronousTestCase):
    """
    A daemon with one consumer.
    """

    def setUp(self) -> None:
        self.events = self.enterContext(capturedLogs())
        self.handlers: dict[int, Any] = {}
        self.at_exit: list[Callable[[], object]] = []
        self.exits: list[int] = []
        self.patch(signal, "signal", self.handlers.__setitem__)
        self.patch(atexit, "register", self.at_exit.append)
        self.patch(os, "_exit", self.exits.append)
        self.reactor = Reactor()
        self.peer = Peer(self)
        self.results: list[Deferred[None]] = []
        self.daemon = self.daemon_of(self.peer)

    def daemon_of(
        self, peer: Peer, connect: Callable[..., Any] | None = None
    ) -> Daemon:
        """
        A daemon with a consumer for a peer.
        """
        daemon = Daemon(self.reactor)
        daemon.add(self.consumer(peer, connect))
        return daemon

    def consumer(
        self, peer: Peer, connect: Callable[..., Any] | None = None
    ) -> ConsumerService:
        """
        A consumer for a peer.
        """
        return ConsumerService(
            peer.clock,
            ConnectionParameters(),
            "work",
            self.handle,
            connect=connect or (lambda *_: peer.client.when_open()),
        )

    def handle(self, delivery: Delivery) -> Deferred[None]:
        """
        A handler that takes its time.
        """
        self.results.append(Deferred())
        return self.results[-1]

    def start(self) -> None:
        """
        Start, up to consuming.
        """
        self.daemon.startService()
        self.peer.handshake()
        self.peer.serve()

    def kill(self, number: int = signal.SIGTERM) -> None:
        """
        Have a signal come.
        """
        self.handlers[number](number, None)
        self.reactor.from_threads.pop()()

    def stop(self) -> None:
        """
        Do what a stopping reactor does, and end the process.
        """
        self.assertTrue(self.reactor.hasStopped)
        stopping = self.daemon.stopService()
        self.peer.serve()
        self.peer.turn()
        self.successResultOf(stopping)
        for function in reversed(self.at_exit):
            function()

    def log(self) -> list[str]:
        """
        The daemon's own log.
        """
        return [
            formatEvent(each)
            for each in self.events
            if each["log_namespace"] == "txamqp091.service.daemon.Daemon"
        ]

    def test_signal(self) -> None:
        """
        A signal stops the reactor; that the process did not die of it is told by the
        exit status, 0, which nothing has to be done for.
        """
        for number in (signal.SIGTERM, signal.SIGINT):
            self.setUp()
            self.start()
            self.kill(number)
            self.stop()
            self.assertEqual(self.exits, [])
            self.assertEqual(
                self.log(),
                [
                    f"{number.name}: taking no more messages, 0 handlers are running",
                    f"Stopped ({number.name}): {Tally()}",
                ],
            )

    def test_second_signal(self) -> None:
        """
        A second signal ends the waiting for handlers, and the exit status tells.
        """
        self.start()
        self.peer.deliver(1, "ctag-1.1", 1)
        self.kill()
        stopping = self.daemon.stopService()
        self.peer.serve()
        self.assertNoResult(stopping)
        self.kill(signal.SIGINT)
        self.peer.serve()
        self.peer.turn()
        self.successResultOf(stopping)
        self.stop()
        self.assertEqual(self.exits, [79])

    def test_end(self) -> None:
        """
        A consumer that ends by itself is told of in one line, and ends the process.
        """
        self.start()
        self.peer.send(1, BasicCancel("ctag-1.1", True))
        self.stop()
        self.assertEqual(self.exits, [75])
        [line, _] = self.log()
        self.assertEqual(
            line,
            "Ending with exit status 75: the broker cancelled the consumer ctag-1.1 "
            "of the queue 'work'",
        )

    def test_unexpected(self) -> None:
        """
        A bug is told of with its traceback.
        """
        daemon = self.daemon_of(self.peer, lambda *_: 1 / 0)
        daemon.startService()
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 1)
        self.assertEqual(daemon.status, ExitStatus.SOFTWARE)
        self.assertTrue(self.reactor.hasStopped)

    def test_before_the_reactor(self) -> None:
        """
        A consumer that fails at once, before the reactor runs, stops it when it does.
        """
        self.reactor.running = False
        daemon = self.daemon_of(
            self.peer, lambda *_: fail(InvalidURI("no such file: /ca.pem"))
        )
        daemon.startService()
        self.assertFalse(self.reactor.hasStopped)
        self.reactor.running = True
        for function in self.reactor.when_running:
            function()
        self.assertTrue(self.reactor.hasStopped)
        self.assertEqual(daemon.status, ExitStatus.CONFIG)
        self.successResultOf(daemon.stopService())

    def test_end_while_stopping(self) -> None:
        """
        What fails once a signal has come is no reason of its own.
        """
        self.start()
        self.kill()
        self.peer.drop()
        self.stop()
        self.assertEqual(self.exits, [])

    def test_two_consumers(self) -> None:
        """
        The first consumer that ends gives the reason, and the others stop in order.
        """
        second = Peer(self)
        self.daemon.add(self.consumer(second))
        self.start()
        second.handshake()
        second.serve()
        second.drop()
        self.stop()
        self.assertEqual(self.exits, [74])
        self.assertEqual(len([each for each in self.log() if "Ending" in each]), 1)

    def test_stopped_by_others(self) -> None:
        """
        Somebody else may stop the reactor, and a signal may come after that.
        """
        self.start()
        self.reactor.stop()
        self.kill()
        self.stop()
        self.assertEqual(self.exits, [])
        self.setUp()
        self.start()
        self.reactor.stop()
        self.stop()
        self.assertIn("Stopped (the reactor was stopped): ", self.log()[0])

    def test_other_thread(self) -> None:
        """
        Where signals cannot be taken, in a thread, they are left alone.
        """

        def refuse(number: int, handler: object) -> None:
            raise ValueError("signal only works in main thread")

        self.patch(signal, "signal", refuse)
        self.start()

    def test_log_is_one_line(self) -> None:
        """
        Criterion 29: what the broker says is escaped.
        """
        self.daemon.startService()
        self.peer.handshake()
        self.peer.drop(ConnectionLost("a\nb\x1b[31m"))
        [line] = self.log()
        self.assertNotIn("\n", line)
        self.assertNotIn("\x1b", line)
