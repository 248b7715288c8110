# -*- test-case-name: txamqp091.test.unit.daemon.test_process -*-
"""
A process around consumers: what a signal does to it, what it tells others, and which
status it exits with.

``twistd`` and ``twist`` exit with 0 when a service stops the reactor, whatever the
reason; and after a SIGTERM they die of it, however orderly the end was.  `Daemon`
takes the signals and the exit status into its own hands, so that a supervisor can
tell how it ended.
"""

from __future__ import annotations

__all__ = ["Daemon"]

import atexit
import contextlib
import logging
import os
import signal
import sys
from collections.abc import Callable
from typing import Any, Protocol, cast

from twisted.application.service import IService, MultiService
from twisted.internet.defer import Deferred, gatherResults
from twisted.internet.error import ReactorNotRunning
from twisted.internet.interfaces import IReactorCore, IReactorFromThreads
from twisted.logger import Logger, LogLevel
from twisted.python.failure import Failure

from txamqp091.daemon.exit_status import ExitStatus, exit_status
from txamqp091.daemon.systemd import Notifier
from txamqp091.errors import TopologyFailed, printable
from txamqp091.service import AMQPClientService
from txamqp091.worker.consumer_service import ConsumerService
from txamqp091.worker.failure_policy import Halt
from txamqp091.worker.health import Health

_log = Logger(namespace="txamqp091.daemon")


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
        client.observe(
            ready=lambda connection, outcomes: self.set_blocked(""),
            blocked=self.set_blocked,
            unblocked=lambda: self.set_blocked(""),
            failed=self.gave_up,
        )

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
            undeclared=[
                printable(str(each), 500)
                for each in self.client.outcomes
                if not each.ok
            ],
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
            _log.failure("The daemon was not stopped in order")
        self._stopped()

    def _stopped(self) -> None:
        unfinished = 0
        for consumer in self.consumers:
            unfinished += consumer.counts.unfinished
            name = f"{printable(consumer.label)}: " if len(self.consumers) > 1 else ""
            _log.info(
                "Stopped ({cause}): {name}{counts}",
                cause=self._cause or "the reactor was stopped",
                name=name,
                counts=consumer.counts,
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
            _log.failure(
                "Ending with {cause}", failure, LogLevel.critical, cause=self._cause
            )
        else:
            _log.error(
                "Ending with {cause}: {error}",
                cause=self._cause,
                error=printable(str(error), 500),
            )
        self._reactor.callWhenRunning(self._stop_reactor)

    def finish(self, cause: str, status: int) -> None:
        """
        End the process, since it has done what it was for.
        """
        if not self._cause:
            self._cause, self.status = cause, status
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
            _log.info("SIGHUP: there is nothing to read again")
            return
        self._notifier.reloading()
        try:
            said = self._reread(self)
        except ValueError as error:
            _log.error(
                "SIGHUP: nothing was changed: {error}",
                error=printable(str(error), 500),
            )
        except Exception:
            _log.failure("SIGHUP: the settings could not be read")
        else:
            _log.info("SIGHUP: {said}", said=said)
        self._notifier.ready(self._summary())

    def _signalled(self, name: str) -> None:
        running = sum(each.running_handlers for each in self.consumers)
        if self._cause:
            _log.info(
                "{name}: giving up {running} handlers", name=name, running=running
            )
            for consumer in self.consumers:
                consumer.skip_grace_period()
            self.client.skip_grace_period()
            return
        self._cause = name
        _log.info(
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
