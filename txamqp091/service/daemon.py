# -*- test-case-name: txamqp091.test.test_service_daemon -*-
"""
A process around consumers: what a signal does to it, and which status it exits with.

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
from enum import IntEnum
from typing import Any, cast

from twisted.application.service import MultiService
from twisted.internet.defer import Deferred
from twisted.internet.error import ReactorNotRunning
from twisted.internet.interfaces import IReactorCore, IReactorFromThreads
from twisted.logger import Logger, LogLevel
from twisted.python.failure import Failure

from txamqp091.errors import (
    AccessRefused,
    AuthenticationFailed,
    ChannelClosed,
    Closed,
    ConsumerCancelled,
    LocalProtocolError,
    NotFound,
    RemoteProtocolError,
    TLSFailed,
    VhostAccessRefused,
    printable,
)
from txamqp091.service.consumer import ConsumerService

# -- exit statuses ---------------------------------------------------------------


class ExitStatus(IntEnum):
    """
    How the daemon ended, as its exit status: the numbers of BSD's ``sysexits.h`` with
    meanings that are as near to it as can be, and 79, which is our own.

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
    UNAVAILABLE = 69, "no broker: nobody answers, or not in time, or it shuts down"
    SOFTWARE = 70, "an unexpected error; its traceback is in the log"
    NO_HANDLER = 72, "the handler is not there, or its module cannot be imported"
    REFUSED = 73, "the broker refuses to declare the queue, or to consume from it"
    LOST = 74, "the connection or the channel was lost while consuming"
    CANCELLED = 75, "the broker cancelled the consumer: its queue was deleted or moved"
    PROTOCOL = 76, "the peer does not speak AMQP 0-9-1, or TLS failed"
    NO_PERMISSION = 77, "the password is wrong, or the user may not use the queue"
    CONFIG = 78, "the URI, the password file or another setting is wrong"
    UNFINISHED = 79, "stopped by a signal; handlers ran into the time limit"


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

#: And while it consumed.
_WHILE: tuple[tuple[type[Exception], ExitStatus], ...] = (
    (ConsumerCancelled, ExitStatus.CANCELLED),
    (RemoteProtocolError, ExitStatus.PROTOCOL),
    (Closed, ExitStatus.LOST),
)


def exit_status(error: BaseException | None, consuming: bool) -> ExitStatus:
    """
    The exit status for what a consumer ended with.

    :param consuming: whether it had got as far as to consume.
    """
    for kind, status in _WHILE if consuming else _BEFORE:
        if isinstance(error, kind):
            return status
    return ExitStatus.SOFTWARE


# -- the process -----------------------------------------------------------------


class Daemon(MultiService):
    """
    Consumers that make up a process.

    SIGTERM and SIGINT stop the reactor, and with it, in order, the consumers; the
    second signal has them wait no longer for their handlers.  When one of the
    consumers ends by itself, the daemon says why in one line, and all stop.

    :ivar status: what the process will exit with, as far as is known.
    """

    _log = Logger()

    def __init__(self, reactor: IReactorCore) -> None:
        MultiService.__init__(self)
        self.status = ExitStatus.OK
        self._reactor = reactor
        self._consumers: list[ConsumerService] = []
        # What to call the end in the log, once it is near.
        self._cause = ""

    def add(self, consumer: ConsumerService) -> None:
        """
        Add a consumer.
        """
        self._consumers.append(consumer)
        self.addService(consumer)  # type: ignore[no-untyped-call]

    def startService(self) -> None:
        """
        Twisted: start the consumers, and take over signals and exit status.
        """
        atexit.register(self._exit)
        # When it runs: the reactor's own handlers would come later, and stay.
        self._reactor.callWhenRunning(self._take_signals)
        MultiService.startService(self)
        for consumer in self._consumers:
            consumer.when_ended().addErrback(self._ended, consumer)

    def stopService(self) -> Deferred[None]:
        """
        Twisted: stop the consumers, in order.

        :returns: fires when all of them have.
        """
        stopping = cast("Deferred[Any]", MultiService.stopService(self))
        return stopping.addCallback(self._stopped)

    def _ended(self, failure: Failure, consumer: ConsumerService) -> None:
        """
        A consumer has ended by itself.
        """
        if self._cause:  # so do the others, then
            return
        status = exit_status(failure.value, consumer.consumed)
        self.status = status
        self._cause = f"exit status {status}"
        if status is ExitStatus.SOFTWARE:
            self._log.failure(
                "Ending with {cause}", failure, LogLevel.critical, cause=self._cause
            )
        else:
            self._log.error(
                "Ending with {cause}: {error}",
                cause=self._cause,
                error=printable(str(failure.value), 500),
            )
        self._reactor.callWhenRunning(self._stop_reactor)

    def _stopped(self, _: object) -> None:
        unfinished = 0
        for consumer in self._consumers:
            unfinished += consumer.tally.unfinished
            self._log.info(
                "Stopped ({cause}): {tally}",
                cause=self._cause or "the reactor was stopped",
                tally=consumer.tally,
            )
        if unfinished and self.status is ExitStatus.OK:
            self.status = ExitStatus.UNFINISHED

    def _stop_reactor(self) -> None:
        with contextlib.suppress(ReactorNotRunning):  # it stops already
            self._reactor.stop()

    # -- signals and the exit --------------------------------------------------------

    def _take_signals(self) -> None:
        with contextlib.suppress(ValueError):  # this is not the main thread
            for number in (signal.SIGTERM, signal.SIGINT):
                signal.signal(number, self._on_signal)

    def _on_signal(self, number: int, frame: object) -> None:
        # Here anything may be in the middle of anything.
        threads = cast(IReactorFromThreads, self._reactor)
        threads.callFromThread(self._signalled, signal.Signals(number).name)

    def _signalled(self, name: str) -> None:
        running = sum(each.running_handlers for each in self._consumers)
        if self._cause:
            self._log.info(
                "{name}: giving up {running} handlers", name=name, running=running
            )
            for consumer in self._consumers:
                consumer.hurry()
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
        if self.status is ExitStatus.OK:
            return
        logging.shutdown()
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(OSError, ValueError, AttributeError):
                stream.flush()
        os._exit(self.status)
