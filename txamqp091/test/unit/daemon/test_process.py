# -*- test-case-name: txamqp091.test.unit.daemon.test_process -*-
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

from twisted.internet.defer import Deferred
from twisted.internet.error import ReactorNotRunning
from twisted.logger import capturedLogs, formatEvent
from twisted.trial.unittest import SynchronousTestCase

from txamqp091 import __version__, errors
from txamqp091.daemon.exit_status import ExitStatus, exit_status
from txamqp091.daemon.process import Daemon
from txamqp091.daemon.systemd import Notifier
from txamqp091.errors import (
    AccessRefused,
    AuthenticationFailed,
    ConnectFailed,
    ConnectionForced,
    ConnectionLost,
    DeliveryAckTimeout,
    FrameError,
    HandshakeTimeout,
    HeartbeatTimeout,
    InvalidURI,
    LimitReached,
    MechanismNotOffered,
    NotAllowed,
    NotFound,
    PreconditionFailed,
    ResourceLocked,
    TLSFailed,
    TopologyFailed,
    VhostAccessRefused,
)
from txamqp091.message import Delivery
from txamqp091.service import Queue, RetryPolicy, Topology
from txamqp091.test.support.service_case import RunningReactor, ServiceCase
from txamqp091.worker.consumer_service import ConsumerService
from txamqp091.worker.counts import Counts
from txamqp091.worker.failure_policy import Halt, OnRefused


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
            LimitReached("NOT_ALLOWED - connection limit is reached"): 69,
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
            NotFound("deleted"): 66,
            NotAllowed("reused", operation="basic.consume"): 73,
            AuthenticationFailed("no longer"): 77,
            VhostAccessRefused("no longer"): 68,
            FrameError("garbage"): 76,
            LimitReached("NOT_ALLOWED - connection limit is reached"): 74,
            ValueError("a bug"): 70,
        }.items():
            self.assertEqual(exit_status(error, True), status, repr(error))

    def test_topology(self) -> None:
        """
        Of a topology that is refused, what will not pass by itself counts.
        """
        queue = Queue(name="work")
        locked, refused = ResourceLocked("exclusive"), AccessRefused("no")
        error = TopologyFailed([(queue, locked), (queue, refused)])
        self.assertEqual(exit_status(error, False), 77)
        self.assertEqual(exit_status(TopologyFailed([(queue, locked)]), False), 73)

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


class Reactor(RunningReactor):
    """
    A reactor in memory, which can be stopped once, as a real one.
    """

    def __init__(self) -> None:
        super().__init__()
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


class Told(Notifier):
    """
    Writes down what systemd is told.
    """

    def __init__(self) -> None:
        super().__init__({})
        self.lines: list[str] = []
        self.statuses: list[str] = []

    def send(self, *lines: str) -> None:
        """
        Write it down.
        """
        for line in lines:
            name, _, value = line.partition("=")
            if name == "STATUS":
                self.statuses.append(value)
            elif name != "MONOTONIC_USEC":
                self.lines.append(line)


class DaemonCase(ServiceCase):
    """
    A daemon with one consumer.
    """

    def setUp(self) -> None:
        super().setUp()
        self.events = self.enterContext(capturedLogs())
        self.handlers: dict[int, Any] = {}
        self.at_exit: list[Callable[[], object]] = []
        self.exits: list[int] = []
        self.patch(signal, "signal", self.handlers.__setitem__)
        self.patch(atexit, "register", self.at_exit.append)
        self.patch(os, "_exit", self.exits.append)
        self.process = Reactor()
        self.results: list[Deferred[None]] = []
        self.notifier = Told()
        self.broker.declare_queue("work")
        self.broker.declare_queue("more")

    def daemon(self, *queues: str, **options: Any) -> Daemon:
        """
        A daemon with consumers of these queues, which has been started.
        """
        policy = RetryPolicy(
            initial_delay=1, jitter=0, permanent="fail", max_seconds=20
        )
        client = self.service(
            start=False, policy=policy, topology=options.pop("topology", None)
        )
        on_refused = options.pop("on_refused", OnRefused.END_AT_START)
        exclusive = options.pop("exclusive", False)
        daemon = Daemon(self.process, client, notifier=self.notifier, **options)
        for queue in queues or ["work"]:
            daemon.add(
                ConsumerService(
                    client,
                    queue,
                    self.handle,
                    exclusive=exclusive,
                    on_refused=on_refused,
                )
            )
        daemon.startService()
        self.turn()
        return daemon

    def handle(self, delivery: Delivery) -> Deferred[None]:
        """
        A handler that takes its time.
        """
        self.results.append(Deferred())
        return self.results[-1]

    def give(self) -> None:
        """
        Have a message worked on.
        """
        self.broker.publish("", "work", b"x")
        self.turn()

    def kill(self, number: int = signal.SIGTERM) -> None:
        """
        Have a signal come.
        """
        self.handlers[number](number, None)
        self.process.from_threads.pop()()

    def stop(self, daemon: Daemon) -> None:
        """
        Do what a stopping reactor does, and end the process.
        """
        self.assertTrue(self.process.hasStopped)
        stopping = daemon.stopService()
        self.turn()
        self.successResultOf(stopping)
        for function in reversed(self.at_exit):
            function()

    def log(self) -> list[str]:
        """
        The daemon's own log, after its first line, which tells versions.
        """
        first, *lines = [
            formatEvent(each)
            for each in self.events
            if each["log_namespace"] == "txamqp091.daemon"
        ]
        self.assertTrue(first.startswith(f"txamqp091 {__version__} (Twisted "), first)
        return lines


class SignalTests(DaemonCase):
    """
    What signals do.
    """

    def test_signal(self) -> None:
        """
        A signal stops the reactor; that the process did not die of it is told by the
        exit status, 0, which nothing has to be done for.
        """
        for number in (signal.SIGTERM, signal.SIGINT):
            self.setUp()
            daemon = self.daemon()
            self.kill(number)
            self.stop(daemon)
            self.assertEqual(self.exits, [])
            self.assertEqual(
                self.log(),
                [
                    f"{number.name}: stopping, with 0 handlers running",
                    f"Stopped ({number.name}): {Counts()}",
                ],
            )
            self.assertEqual(self.notifier.lines, ["READY=1", "STOPPING=1"])

    def test_second_signal(self) -> None:
        """
        A second signal ends the waiting for handlers, and the exit status tells.
        """
        daemon = self.daemon()
        self.give()
        self.kill()
        stopping = daemon.stopService()
        self.turn()
        self.assertNoResult(stopping)
        self.assertTrue(daemon.health().stopping)
        self.kill(signal.SIGINT)
        self.turn()
        self.successResultOf(stopping)
        self.stop(daemon)
        self.assertEqual(self.exits, [79])

    def test_stopped_by_others(self) -> None:
        """
        Somebody else may stop the reactor, and a signal may come after that.
        """
        daemon = self.daemon()
        self.process.stop()
        self.kill()
        self.stop(daemon)
        self.assertEqual(self.exits, [])
        self.setUp()
        daemon = self.daemon()
        self.process.stop()
        self.stop(daemon)
        self.assertIn("Stopped (the reactor was stopped): ", self.log()[0])

    def test_other_thread(self) -> None:
        """
        Where signals cannot be taken, in a thread, they are left alone.
        """

        def refuse(number: int, handler: object) -> None:
            raise ValueError("signal only works in main thread")

        self.patch(signal, "signal", refuse)
        self.assertTrue(self.daemon().health().ready)

    def test_hangup(self) -> None:
        """
        SIGHUP has the settings read again; when they are wrong, it is said, and all
        goes on.
        """
        said: list[Any] = ["changed: log.level", ValueError("wrong"), KeyError("bug")]

        def reread(daemon: Daemon) -> str:
            word = said.pop(0)
            if isinstance(word, Exception):
                raise word
            return str(word)

        daemon = self.daemon(reread=reread)
        for _ in range(3):
            self.kill(signal.SIGHUP)
        self.assertEqual(
            self.log(),
            [
                "SIGHUP: changed: log.level",
                "SIGHUP: nothing has changed: wrong",
                "SIGHUP: an unexpected error interrupted the reading",
            ],
        )
        self.assertEqual(len(self.flushLoggedErrors(KeyError)), 1)
        self.assertEqual(
            self.notifier.lines, ["READY=1", *["RELOADING=1", "READY=1"] * 3]
        )
        self.assertTrue(daemon.health().ready)

    def test_hangup_without_file(self) -> None:
        """
        Without a file there is nothing to read, and the daemon does not die of it.
        """
        self.daemon()
        self.kill(signal.SIGHUP)
        self.assertEqual(self.log(), ["SIGHUP: nothing to read"])


class EndTests(DaemonCase):
    """
    Why it ends.
    """

    def ends(self, daemon: Daemon, status: int) -> str:
        """
        It ends with a status, and a line.
        """
        self.stop(daemon)
        self.assertEqual(self.exits, [status] if status else [])
        [line] = [each for each in self.log() if "Ending" in each]
        self.assertTrue(line.startswith(f"Ending with exit status {status}: "), line)
        return line

    def test_no_queue(self) -> None:
        """
        A queue that is not there ends it.
        """
        line = self.ends(self.daemon("nowhere"), 66)
        self.assertIn("nowhere", line)

    def test_wrong_password(self) -> None:
        """
        What the broker will not change its mind about ends it.
        """
        self.broker.set_permissions("guest", read="")
        self.ends(self.daemon(), 77)
        self.setUp()
        self.broker.add_user("guest", "another")
        self.ends(self.daemon(), 77)

    def test_refused(self) -> None:
        """
        A queue that cannot be declared ends it.
        """
        self.broker.declare_queue("odd", auto_delete=True)
        topology = Topology.of(Queue(name="odd"))
        self.ends(self.daemon(topology=topology), 73)

    def test_refused_later(self) -> None:
        """
        One that can be declared no longer does not end it, but it is not ready; until
        it can again.
        """
        topology = Topology.of(Queue(name="parked"))
        daemon = self.daemon(topology=topology)
        self.assertTrue(daemon.health().ready)
        self.broker.delete_queue("parked")
        self.broker.declare_queue("parked", durable=False)
        self.cut()
        self.passes(5)
        self.assertFalse(self.process.hasStopped)
        [problem] = daemon.health().problems
        self.assertIn("not declared: queue 'parked'", problem)
        self.broker.delete_queue("parked")
        self.passes(31)
        self.assertTrue(daemon.health().ready)

    def test_gives_up(self) -> None:
        """
        Without a connection it ends when it has waited long enough: 69 if there never
        was one, 74 if it was lost.
        """
        self.endpoint.refusing = True
        daemon = self.daemon()
        self.passes(60)
        self.ends(daemon, 69)
        self.setUp()
        daemon = self.daemon()
        self.endpoint.refusing = True
        self.cut()
        self.assertFalse(daemon.health().connected)
        self.passes(60)
        self.ends(daemon, 74)

    def test_halt(self) -> None:
        """
        A handler may end it, with a status of its own.
        """
        for halt, status, words in (
            (Halt(), 80, "the consumer work raised Halt"),
            (Halt("disk full", status=3), 3, "raised Halt: disk full"),
            (Halt("all is done", status=0), 0, "raised Halt: all is done"),
        ):
            self.setUp()
            daemon = self.daemon()
            self.give()
            self.results[0].errback(halt)
            self.assertIn(words, self.ends(daemon, status))

    def test_unexpected(self) -> None:
        """
        An unexpected error is logged with its traceback.
        """
        daemon = self.daemon()
        try:
            raise KeyError("a bug")
        except KeyError as error:
            daemon.gave_up(error)
        self.stop(daemon)
        self.assertEqual(self.exits, [ExitStatus.SOFTWARE])
        [failure] = self.flushLoggedErrors(KeyError)
        self.assertIn("in test_unexpected", failure.getTraceback())

    def test_before_the_reactor(self) -> None:
        """
        What ends it before the reactor runs stops that when it does.
        """
        self.process.running = False
        daemon = self.daemon()
        daemon.end(ValueError("no"), 78)
        self.assertFalse(self.process.hasStopped)
        self.process.running = True
        for function in self.process.when_running:
            function()
        self.ends(daemon, 78)

    def test_while_stopping(self) -> None:
        """
        What fails once a signal has come is no reason of its own.
        """
        daemon = self.daemon()
        self.kill()
        self.cut()
        self.stop(daemon)
        self.assertEqual(self.exits, [])

    def test_two_consumers(self) -> None:
        """
        The first consumer that ends gives the reason, and the others stop in order.
        """
        daemon = self.daemon("work", "more")
        self.broker.publish("", "more", b"x")
        self.give()
        self.results[0].errback(Halt("one"))
        self.results[1].errback(Halt("two"))
        self.assertIn("one", self.ends(daemon, 80))
        stopped = [each for each in self.log() if "Stopped" in each]
        self.assertIn(": work: ", stopped[0])
        self.assertIn(": more: ", stopped[1])
        self.assertEqual(self.broker.queue("work").consumers, 0)

    def test_log_is_one_line(self) -> None:
        """
        Criterion 29: what others say is escaped.
        """
        daemon = self.daemon()
        daemon.end(ConnectionLost("a\nb\x1b[31m"), 74)
        [line] = self.log()
        self.assertNotIn("\n", line)
        self.assertNotIn("\x1b", line)


class HealthTests(DaemonCase):
    """
    How it is.
    """

    def test_blocked(self) -> None:
        """
        That nobody may publish is told, and is no reason not to be ready.
        """
        daemon = self.daemon()
        self.broker.block("low on memory")
        self.turn()
        self.assertEqual(daemon.health().blocked, "low on memory")
        self.assertTrue(daemon.health().ready)
        self.broker.unblock()
        self.turn()
        self.assertEqual(daemon.health().blocked, "")

    def test_ready(self) -> None:
        """
        systemd is told that it is ready when all consumers have subscribed.
        """
        self.endpoint.refusing = True
        daemon = self.daemon("work", "more")
        self.assertEqual(self.notifier.lines, [])
        self.endpoint.refusing = False
        self.passes(10)
        self.assertEqual(self.notifier.lines, ["READY=1"])
        self.assertEqual(len(daemon.health().consumers), 2)

    def test_status(self) -> None:
        """
        The status that systemd shows follows the connection and the consumers.
        """
        daemon = self.daemon()
        self.assertEqual(self.notifier.statuses[-1], "Consuming from work")
        self.endpoint.refusing = True
        self.cut()
        self.passes(2)
        self.assertIn("Not ready: not connected: ", self.notifier.statuses[-1])
        self.assertIn("no server listens there", self.notifier.statuses[-1])
        self.endpoint.refusing = False
        self.passes(10)
        self.assertEqual(self.notifier.statuses[-1], "Consuming from work")
        self.broker.delete_queue("work")
        self.turn()
        self.assertIn("Not ready: work: ", self.notifier.statuses[-1])
        self.broker.declare_queue("work")
        self.passes(10)
        self.assertEqual(self.notifier.statuses[-1], "Consuming from work")
        told = len(self.notifier.statuses)
        daemon._tell()
        self.assertEqual(len(self.notifier.statuses), told)
