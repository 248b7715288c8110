# -*- test-case-name: txamqp091.test.test_service_daemon -*-
"""
A process around consumers: what a signal does to it, what it tells others, and which
status it exits with.

``twistd`` and ``twist`` exit with 0 when a service stops the reactor, whatever the
reason; and after a SIGTERM they die of it, however orderly the end was.  `Daemon`
takes the signals and the exit status into its own hands, so that a supervisor can
tell how it ended.
"""

from __future__ import annotations

__all__ = ["Daemon", "ExitStatus", "exit_status"]

import atexit
import contextlib
import logging
import os
import signal
import sys
from collections.abc import Callable, Sequence
from enum import IntEnum
from typing import Any, Protocol, cast

from twisted.application.service import IService, MultiService
from twisted.internet.defer import Deferred, gatherResults
from twisted.internet.error import ReactorNotRunning
from twisted.internet.interfaces import IReactorCore, IReactorFromThreads
from twisted.logger import Logger, LogLevel
from twisted.python.failure import Failure

from txamqp091.errors import (
    AccessRefused,
    AuthenticationFailed,
    ChannelClosed,
    Closed,
    LocalProtocolError,
    NotAllowed,
    NotFound,
    NotImplementedByBroker,
    RemoteProtocolError,
    TLSFailed,
    TopologyFailed,
    VhostAccessRefused,
    printable,
)
from txamqp091.protocol import AMQPProtocol
from txamqp091.service.backoff import is_permanent, is_refusal
from txamqp091.service.client import AMQPClientService
from txamqp091.service.consumer import ConsumerService
from txamqp091.service.health import Health
from txamqp091.service.observing import ServiceObserver
from txamqp091.service.policy import Halt
from txamqp091.service.systemd import Notifier

# -- exit statuses ---------------------------------------------------------------


class ExitStatus(IntEnum):
    """
    How the daemon ended, as its exit status: the numbers of BSD's ``sysexits.h`` with
    meanings that are as near to it as can be, and 79 and 80, which are our own.

    :ivar meaning: what it means, in a few words.
    """

    meaning: str

    def __new__(cls, number: int, meaning: str) -> ExitStatus:
        """
        A member: a number that knows what it means.
        """
        member = int.__new__(cls, number)
        member._value_ = number
        member.meaning = meaning
        return member

    OK = 0, "stopped by a signal; every handler had finished"
    USAGE = 64, "the command line cannot be understood"
    NO_QUEUE = 66, "the queue does not exist, and --declare was not given"
    NO_VHOST = 68, "the virtual host does not exist, or is not for this user"
    UNAVAILABLE = 69, "no broker, until --give-up-after had passed"
    SOFTWARE = 70, "an unexpected error; its traceback is in the log"
    NO_HANDLER = 72, "the handler is not there, or its module cannot be imported"
    REFUSED = 73, "the broker refuses to declare the queue, or to consume from it"
    LOST = 74, "the connection was lost, until --give-up-after had passed"
    PROTOCOL = 76, "the peer does not speak AMQP 0-9-1, or TLS failed"
    NO_PERMISSION = 77, "the password is wrong, or the user may not use the queue"
    CONFIG = 78, "the URI, the password file or another setting is wrong"
    UNFINISHED = 79, "stopped by a signal; handlers ran into the time limit"
    HALTED = 80, "a handler said Halt, or failed where that ends the daemon"


#: What a service ended with before it consumed; the first that fits counts.
_BEFORE: tuple[tuple[type[Exception], ExitStatus], ...] = (
    (AuthenticationFailed, ExitStatus.NO_PERMISSION),
    (VhostAccessRefused, ExitStatus.NO_VHOST),
    (TLSFailed, ExitStatus.PROTOCOL),
    (RemoteProtocolError, ExitStatus.PROTOCOL),
    (NotFound, ExitStatus.NO_QUEUE),
    (AccessRefused, ExitStatus.NO_PERMISSION),
    (ChannelClosed, ExitStatus.REFUSED),
    (Closed, ExitStatus.UNAVAILABLE),
    (LocalProtocolError, ExitStatus.CONFIG),
)

#: And while it consumed: the broker may change its mind about who we are.
_WHILE: tuple[tuple[type[Exception], ExitStatus], ...] = (
    *_BEFORE[:4],
    (Closed, ExitStatus.LOST),
)


def exit_status(error: BaseException | None, consuming: bool) -> ExitStatus:
    """
    The exit status for what a consumer ended with.

    :param consuming: whether it had got as far as to consume.
    """
    if isinstance(error, TopologyFailed):
        # What is to be said of the first one that will not pass by itself.
        errors = [each for _, each in error.failures]
        error = next((each for each in errors if is_permanent(each)), errors[0])
        consuming = False
    if is_refusal(error):
        consuming = False  # it is as if it never had
    if isinstance(error, NotAllowed | NotImplementedByBroker) and error.operation in (
        "basic.consume",
        "queue.declare",
    ):
        return ExitStatus.REFUSED  # though it has cost the connection
    for kind, status in _WHILE if consuming else _BEFORE:
        if isinstance(error, kind):
            return status
    return ExitStatus.SOFTWARE


# -- the process -----------------------------------------------------------------


class Rereader(Protocol):
    """
    Who reads the settings again.
    """

    def __call__(self, daemon: Daemon) -> str:
        """
        Do it, and change the daemon.

        :returns: what there is to say about it.
        :raises ValueError: they are wrong; nothing was changed.
        """


class Daemon(MultiService):
    """
    A connection and consumers that make up a process.

    SIGTERM and SIGINT stop the reactor, and with it, in order, the consumers; the
    second signal has them wait no longer for their handlers.  SIGHUP has the settings
    read again.  When one of the consumers ends by itself, or there will be no more
    connections, the daemon says why in one line, and all stop.

    :ivar status: what the process will exit with, as far as is known.
    :ivar consumers: the consumers.
    :ivar client: the connection.
    :ivar stalled_after: see `ConsumerService.health`.
    :ivar expired: whether the token has expired, and there is no new one.
    """

    _log = Logger()

    def __init__(
        self,
        reactor: IReactorCore,
        client: AMQPClientService,
        *,
        notifier: Notifier | None = None,
        reread: Rereader | None = None,
        stopped: Callable[[], object] | None = None,
    ) -> None:
        """
        :param notifier: the way to systemd.
        :param reread: reads the settings again.
        :param stopped: called when all has stopped.
        """
        MultiService.__init__(self)
        self.status: int = ExitStatus.OK
        self.client = client
        self.consumers: list[ConsumerService] = []
        self.stalled_after = 0.0
        self.expired = False
        self._reactor = reactor
        self._notifier = Notifier({}) if notifier is None else notifier
        self._reread = reread
        self._on_stopped = stopped
        self._others: list[IService] = []
        self._cause = ""
        self._blocked = ""
        self._stopping: Deferred[None] | None = None
        client.observe(_Observer(self))

    def add(self, consumer: ConsumerService) -> None:
        """
        Have one more consumer.
        """
        self.consumers.append(consumer)
        consumer.setServiceParent(self)  # type: ignore[no-untyped-call]

    def add_other(self, service: IService) -> None:
        """
        Have a service that runs for as long as the consumers do, and a little longer.
        """
        self._others.append(service)
        service.setServiceParent(self)

    def health(self) -> Health:
        """
        How it is, now.
        """
        return Health(
            consumers=[each.health(self.stalled_after) for each in self.consumers],
            connected=self.client.connection is not None,
            blocked=self._blocked,
            stopping=bool(self._cause) or self._stopping is not None,
            expired=self.expired,
        )

    # -- starting and stopping -----------------------------------------------------

    def startService(self) -> None:
        """
        Twisted: start the consumers, and take over signals and exit status.
        """
        atexit.register(self._exit)
        # When it runs: the reactor's own handlers would come later, and stay.
        self._reactor.callWhenRunning(self._take_signals)
        MultiService.startService(self)
        for consumer in self.consumers:
            consumer.when_ended().addErrback(self._consumer_ended, consumer)
        ready = [each.when_ready() for each in self.consumers]
        gatherResults(ready, consumeErrors=True).addCallbacks(
            self._is_ready, lambda _: None
        )
        self.client.startService()
        self.client.when_ready().addErrback(self._topology_failed)

    def _is_ready(self, _: object) -> None:
        self._notifier.ready(self._summary())

    def _summary(self) -> str:
        return "Consuming from " + ", ".join(each.queue for each in self.consumers)

    def stopService(self) -> Deferred[None]:
        """
        Twisted: stop the consumers, in order, then the connection, then the rest.

        :returns: fires when all that is done.
        """
        if self._stopping is None:
            self._notifier.stopping(f"Stopping: {self._cause or 'the reactor stops'}")
            self._stopping = Deferred.fromCoroutine(self._stop())
        # Each has a Deferred of their own.
        result: Deferred[None] = Deferred()
        self._stopping.addCallback(lambda _: result.callback(None))
        return result

    async def _stop(self) -> None:
        try:
            await gatherResults(
                [each.stopService() for each in self.consumers], consumeErrors=True
            )
            await self.client.stopService()
            stopping = cast("Deferred[Any]", MultiService.stopService(self))
            await stopping
        except Exception:
            self._log.failure("The daemon was not stopped in order")
        self._stopped()

    def _stopped(self) -> None:
        unfinished = 0
        for consumer in self.consumers:
            unfinished += consumer.tally.unfinished
            name = f"{printable(consumer.label)}: " if len(self.consumers) > 1 else ""
            self._log.info(
                "Stopped ({cause}): {name}{tally}",
                cause=self._cause or "the reactor was stopped",
                name=name,
                tally=consumer.tally,
                consumer=consumer.label,
            )
        if unfinished and self.status == ExitStatus.OK:
            self.status = ExitStatus.UNFINISHED
        if self._on_stopped is not None:
            self._on_stopped()

    # -- its own end -----------------------------------------------------------------

    def end(
        self, error: BaseException | None, status: int, failure: Failure | None = None
    ) -> None:
        """
        End the process.

        :param error: why.
        :param failure: the same, if its traceback is to be logged.
        """
        if self._cause:  # it ends already
            return
        self.status = status
        self._cause = f"exit status {status}"
        if failure is not None:
            self._log.failure(
                "Ending with {cause}", failure, LogLevel.critical, cause=self._cause
            )
        else:
            self._log.error(
                "Ending with {cause}: {error}",
                cause=self._cause,
                error=printable(str(error), 500),
            )
        self._reactor.callWhenRunning(self._stop_reactor)

    def _consumer_ended(self, failure: Failure, consumer: ConsumerService) -> None:
        """
        A consumer has ended by itself.
        """
        error = failure.value
        if isinstance(error, Halt):
            status: int = ExitStatus.HALTED if error.status is None else error.status
            said = f"Halt: {error}" if str(error) else "Halt"
            self.end(Exception(f"the consumer {consumer.label} said {said}"), status)
            return
        self._failed(error, consumer.consumed, failure)

    def _topology_failed(self, failure: Failure) -> None:
        """
        The broker refuses what is to be declared; or there is no connection, which is
        told to the observer.
        """
        if failure.check(TopologyFailed) and not self._has_consumed():
            self._failed(failure.value, False, failure)

    def _failed(
        self, error: BaseException | None, consuming: bool, failure: Failure | None
    ) -> None:
        status = exit_status(error, consuming)
        shown = failure if status is ExitStatus.SOFTWARE else None
        self.end(error, status, shown)

    def _has_consumed(self) -> bool:
        return any(each.consumed for each in self.consumers)

    def gave_up(self, reason: BaseException) -> None:
        """
        There will be no more connections.
        """
        self._failed(reason, self._has_consumed(), None)

    def set_blocked(self, reason: str) -> None:
        """
        The broker lets nobody publish, or does again.
        """
        self._blocked = reason

    def _stop_reactor(self) -> None:
        with contextlib.suppress(ReactorNotRunning):  # it stops already
            self._reactor.stop()

    # -- signals and the exit --------------------------------------------------------

    def _take_signals(self) -> None:
        with contextlib.suppress(ValueError):  # this is not the main thread
            for number in (signal.SIGTERM, signal.SIGINT):
                signal.signal(number, self._on_signal)
            if hasattr(signal, "SIGHUP"):
                signal.signal(signal.SIGHUP, self._on_hangup)

    def _on_signal(self, number: int, frame: object) -> None:
        # Here anything may be in the middle of anything.
        threads = cast(IReactorFromThreads, self._reactor)
        threads.callFromThread(self._signalled, signal.Signals(number).name)

    def _on_hangup(self, number: int, frame: object) -> None:
        threads = cast(IReactorFromThreads, self._reactor)
        threads.callFromThread(self.reread)

    def reread(self) -> None:
        """
        Read the settings again.  When they are wrong, nothing changes.
        """
        if self._reread is None or self._cause:
            self._log.info("SIGHUP: there is nothing to read again")
            return
        self._notifier.reloading()
        try:
            said = self._reread(self)
        except ValueError as error:
            self._log.error(
                "SIGHUP: nothing was changed: {error}",
                error=printable(str(error), 500),
            )
        except Exception:
            self._log.failure("SIGHUP: the settings could not be read")
        else:
            self._log.info("SIGHUP: {said}", said=said)
        self._notifier.ready(self._summary())

    def _signalled(self, name: str) -> None:
        running = sum(each.running_handlers for each in self.consumers)
        if self._cause:
            self._log.info(
                "{name}: giving up {running} handlers", name=name, running=running
            )
            for consumer in self.consumers:
                consumer.hurry()
            self.client.hurry()
            return
        self._cause = name
        self._log.info(
            "{name}: taking no more messages, {running} handlers are running",
            name=name,
            running=running,
        )
        self._stop_reactor()

    def _exit(self) -> None:
        """
        Called when the interpreter ends, after the reactor, ``twistd`` and all that
        was registered later: the one place left that the status can be set at.
        """
        if self.status == ExitStatus.OK:
            return
        logging.shutdown()
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(OSError, ValueError, AttributeError):
                stream.flush()
        os._exit(self.status)


class _Observer(ServiceObserver):
    """
    Tells the daemon what becomes of the connection.
    """

    def __init__(self, daemon: Daemon) -> None:
        self._daemon = daemon

    def ready(self, connection: AMQPProtocol, outcomes: Sequence[Any]) -> None:
        self._daemon.set_blocked("")

    def blocked(self, reason: str) -> None:
        self._daemon.set_blocked(reason)

    def unblocked(self) -> None:
        self._daemon.set_blocked("")

    def failed(self, reason: BaseException) -> None:
        self._daemon.gave_up(reason)
