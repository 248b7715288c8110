# -*- test-case-name: txamqp091.test.unit.daemon.test_process -*-
"""
The process around consumers: signals, health, systemd and the exit status.

``twistd`` and ``twist`` exit with 0 when a service stops the reactor, whatever the
reason, and die of a SIGTERM, however orderly they stopped.  `Daemon` handles the
signals and the exit status itself, so that a supervisor knows how the process ended.

Before the first connection is ready, an error that only a person can correct ends the
process with a status that names the cause.  After it, no error of the connection is
final: the service tries again until `Settings.give_up_after` says otherwise.
"""

from __future__ import annotations

__all__ = ["Daemon"]

import atexit
import contextlib
import logging
import os
import platform
import signal
import sys
from collections.abc import Callable
from typing import Any, Protocol, cast

from twisted.application.service import IService, MultiService, Service
from twisted.internet.defer import Deferred, gatherResults
from twisted.internet.error import ReactorNotRunning
from twisted.internet.interfaces import (
    IReactorCore,
    IReactorFromThreads,
    IReactorTime,
)
from twisted.logger import Logger, LogLevel
from twisted.python.failure import Failure

import twisted
from txamqp091._version import __version__
from txamqp091.daemon import logs
from txamqp091.daemon.exit_status import ExitStatus, exit_status
from txamqp091.daemon.systemd import Notifier
from txamqp091.errors import (
    AuthenticationFailed,
    TopologyFailed,
    VhostAccessRefused,
    printable,
)
from txamqp091.service import AMQPClientService
from txamqp091.service.retry import is_permanent
from txamqp091.worker.consumer_service import ConsumerService
from txamqp091.worker.failure_policy import Halt
from txamqp091.worker.health import Health
from txamqp091.worker.stream_offsets import OffsetFileInUse

_log = Logger(namespace="txamqp091.daemon")


class Rereader(Protocol):
    """
    Reads the settings again.
    """

    def __call__(self, daemon: Daemon) -> str:
        """
        Read the settings, and change the daemon.

        :returns: what has changed, for the log.
        :raises ValueError: the settings are wrong; nothing was changed.
        """


class Daemon(MultiService):
    """
    A connection and consumers that make up a process.

    SIGTERM and SIGINT stop the reactor, and with it the consumers; a second signal
    stops the waiting for running handlers.  SIGHUP reads the settings again.  SIGUSR1
    opens the log file again.  When a consumer ends by itself, or the connection is
    given up, the daemon logs the reason and stops.

    :ivar status: the exit status, as far as it is known.
    :ivar consumers: the consumers.
    :ivar client: the connection.
    :ivar stalled_after: see `ConsumerService.health`.
    :ivar expired: whether the token has expired, and there is no new one.
    :ivar problem: another reason why the daemon is not ready; "" for none.
    """

    def __init__(
        self,
        reactor: IReactorCore,
        client: AMQPClientService,
        *,
        notifier: Notifier | None = None,
        reread: Rereader | None = None,
        startup: Callable[[], Deferred[Any]] | None = None,
        shutdown: Callable[[], Deferred[Any]] | None = None,
        shutdown_timeout: float = 30.0,
        stopped: Callable[[], object] | None = None,
        logins_expire: bool = False,
    ) -> None:
        """
        :param notifier: the connection to systemd.
        :param reread: reads the settings again.
        :param startup: called before the consumers start, which wait for its Deferred.
            If that fails, the process ends.
        :param shutdown: called when the consumers and the connection have stopped.
        :param shutdown_timeout: how many seconds ``shutdown`` may take.
        :param stopped: called when everything has stopped.
        :param logins_expire: whether each login has credentials of its own, such as a
            token, so that a refused login is never final.
        """
        MultiService.__init__(self)
        self.status: int = ExitStatus.OK
        self.client = client
        self.consumers: list[ConsumerService] = []
        self.stalled_after = 0.0
        self.expired = False
        self.problem = ""
        self._reactor = reactor
        self._notifier = Notifier({}) if notifier is None else notifier
        self._reread = reread
        self._startup = startup
        self._shutdown = shutdown
        self._shutdown_timeout = shutdown_timeout
        self._starting: Deferred[Any] | None = None
        self._on_stopped = stopped
        self._logins_expire = logins_expire
        self._was_connected = False
        self._others: list[IService] = []
        self._cause = ""
        self._blocked = ""
        self._summary = ""
        self._stopping: Deferred[None] | None = None
        client.observe(
            ready=lambda connection, outcomes: self._connected(),
            blocked=self._set_blocked,
            unblocked=lambda: self._set_blocked(""),
            lost=lambda reason: self._set_blocked(""),
            recovering=lambda attempt, delay, reason: self._not_connected(reason),
            failed=self.gave_up,
        )
        client.observe(
            ready=self._tell,
            lost=self._tell,
            recovering=self._tell,
            subscribed=self._tell,
            unsubscribed=self._tell,
            refused=self._tell,
        )

    def add(self, consumer: ConsumerService) -> None:
        """
        Add a consumer.
        """
        self.consumers.append(consumer)
        consumer.setServiceParent(self)  # type: ignore[no-untyped-call]

    def add_other(self, service: IService) -> None:
        """
        Add a service that stops after the consumers have stopped.
        """
        self._others.append(service)
        service.setServiceParent(self)

    @property
    def has_consumed(self) -> bool:
        """
        Whether a consumer has been subscribed since the start.
        """
        return any(each.consumed for each in self.consumers)

    def health(self) -> Health:
        """
        The health of the daemon, now.
        """
        error = self.client.error
        return Health(
            consumers=[each.health(self.stalled_after) for each in self.consumers],
            connected=self.client.connection is not None,
            error="" if error is None else printable(str(error), 500),
            blocked=self._blocked,
            stopping=bool(self._cause) or self._stopping is not None,
            expired=self.expired,
            problem=self.problem,
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
        _log.info(
            "txamqp091 {version} (Twisted {twisted}, Python {python})",
            version=__version__,
            twisted=twisted.__version__,
            python=platform.python_version(),
        )
        atexit.register(self._exit)
        # Later than the reactor, which installs handlers of its own when it starts.
        self._reactor.callWhenRunning(self._take_signals)
        Service.startService(self)
        for service in self._others:
            service.startService()
        if self._startup is None:
            self._start()
        else:
            self.problem = "startup has not finished"
            self._reactor.callWhenRunning(self._start_up, self._startup)

    def _start_up(self, startup: Callable[[], Deferred[Any]]) -> None:
        """
        Call the user's startup function, and start then.
        """
        if self._stopping is None and not self._cause:
            self._starting = startup()
            self._starting.addCallbacks(self._has_started_up, self._not_started_up)

    def _has_started_up(self, _: object) -> None:
        if self._starting is None:
            return  # it was stopped
        self._starting = None
        self.problem = ""
        self._start()

    def _not_started_up(self, failure: Failure) -> None:
        if self._starting is None:
            return  # it was cancelled by a stop
        self._starting = None
        self.end(failure.value, ExitStatus.STARTUP, failure)

    def _start(self) -> None:
        """
        Start the consumers and the connection.
        """
        try:
            for consumer in self.consumers:
                consumer.startService()
        except OffsetFileInUse as error:
            self.end(error, ExitStatus.CONFIG)
            return
        for consumer in self.consumers:
            consumer.when_ended().addErrback(self._consumer_ended, consumer)
        ready = [each.when_ready() for each in self.consumers]
        gatherResults(ready, consumeErrors=True).addCallbacks(
            self._is_ready, lambda _: None
        )
        self.client.startService()
        self.client.when_ready().addErrback(self._topology_failed)

    def _is_ready(self, _: object) -> None:
        self._summary = self._summarize()
        self._notifier.ready(self._summary)

    def _tell(self, *_: object) -> None:
        """
        Tell systemd how the daemon is, if that has changed.
        """
        if self._stopping is not None:
            return
        summary = self._summarize()
        if summary != self._summary:
            self._summary = summary
            self._notifier.status(summary)

    def _summarize(self) -> str:
        health = self.health()
        if health.problems:
            return f"Not ready: {'; '.join(health.problems)}"
        return "Consuming from " + ", ".join(each.queue for each in self.consumers)

    def stopService(self) -> Deferred[None]:
        """
        Twisted: stop the consumers, then the connection, then the other services.

        :returns: fires when everything has stopped; does not fail.
        """
        if self._stopping is None:
            self._notifier.stopping(f"Stopping: {self._cause or 'the reactor stops'}")
            self._stopping = Deferred.fromCoroutine(self._stop())
        # Each caller gets a Deferred of its own.
        result: Deferred[None] = Deferred()
        self._stopping.addCallback(lambda _: result.callback(None))
        return result

    async def _stop(self) -> None:
        try:
            await gatherResults(
                [each.stopService() for each in self.consumers], consumeErrors=True
            )
            await self.client.stopService()
            starting, self._starting = self._starting, None
            if starting is not None:
                starting.cancel()
            await self._shut_down()
            stopping = cast("Deferred[Any]", MultiService.stopService(self))
            await stopping
        except Exception:
            _log.failure("An unexpected error interrupted the stop")
        self._stopped()

    async def _shut_down(self) -> None:
        """
        Call the user's shutdown function.
        """
        if self._shutdown is None:
            return
        clock = cast(IReactorTime, self._reactor)
        try:
            await self._shutdown().addTimeout(self._shutdown_timeout, clock)
        except BaseException:
            _log.failure("The function that shutdown names has failed")

    def _stopped(self) -> None:
        unfinished = False
        for consumer in self.consumers:
            if consumer.counts.unfinished or not consumer.in_order:
                unfinished = True
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
        End the process because of an error.

        :param failure: the error with its traceback, which is logged then.
        """
        if self._cause:  # the process ends already
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
        End the process, as its work is done.
        """
        if not self._cause:
            self._cause, self.status = cause, status
            self._reactor.callWhenRunning(self._stop_reactor)

    def _consumer_ended(self, failure: Failure, consumer: ConsumerService) -> None:
        """
        End the process, as a consumer has ended.
        """
        error = failure.value
        if isinstance(error, Halt):
            status: int = ExitStatus.HALTED if error.status is None else error.status
            said = f"Halt: {error}" if str(error) else "Halt"
            self.end(Exception(f"the consumer {consumer.label} raised {said}"), status)
            return
        self._failed(error, consumer.consumed, failure)

    def _topology_failed(self, failure: Failure) -> None:
        """
        End the process if the broker refuses to declare the topology at the start.
        (That there is no connection is told to the observer.)
        """
        error = failure.value
        if self.has_consumed or not isinstance(error, TopologyFailed):
            return
        if any(is_permanent(each) for _, each in error.failures):
            self._failed(error, False, failure)

    def _failed(
        self,
        error: BaseException | None,
        consuming: bool,
        failure: Failure | None = None,
    ) -> None:
        status = exit_status(error, consuming)
        if status is ExitStatus.SOFTWARE:
            self.end(error, status, failure or Failure(error or Exception()))
        else:
            self.end(error, status)

    def _connected(self) -> None:
        """
        There is a connection.
        """
        self._was_connected = True
        self.expired = False
        self._set_blocked("")

    def _not_connected(self, reason: BaseException) -> None:
        """
        An attempt to connect has failed.  With credentials that expire, the service
        waits; so end the process here, as the service would, if other credentials do
        not help.
        """
        if (
            self._logins_expire
            and not self._was_connected
            and is_permanent(reason)
            and not _is_for_other_credentials(reason)
        ):
            self.gave_up(reason)

    def gave_up(self, reason: BaseException) -> None:
        """
        End the process, as there will be no further attempts to connect.
        """
        self._failed(reason, self.has_consumed)

    def _set_blocked(self, reason: str) -> None:
        """
        The broker blocks publishers, or, with "", does so no longer.
        """
        self._blocked = reason

    def _stop_reactor(self) -> None:
        with contextlib.suppress(ReactorNotRunning):  # it is stopping already
            self._reactor.stop()

    # -- signals and the exit --------------------------------------------------------

    def _take_signals(self) -> None:
        with contextlib.suppress(ValueError):  # this is not the main thread
            for number in (signal.SIGTERM, signal.SIGINT):
                signal.signal(number, self._on_signal)
            if hasattr(signal, "SIGHUP"):
                signal.signal(signal.SIGHUP, self._on_signal)
                signal.signal(signal.SIGUSR1, self._on_signal)

    def _on_signal(self, number: int, frame: object) -> None:
        # A signal interrupts the reactor anywhere.
        threads = cast(IReactorFromThreads, self._reactor)
        match signal.Signals(number).name:
            case "SIGHUP":
                threads.callFromThread(self.reread)
            case "SIGUSR1":
                threads.callFromThread(logs.reopen)
            case name:
                threads.callFromThread(self._signalled, name)

    def reread(self) -> None:
        """
        Read the settings again.  If they are wrong, nothing changes.
        """
        if self._reread is None or self._cause:
            _log.info("SIGHUP: nothing to read")
            return
        self._notifier.reloading()
        try:
            said = self._reread(self)
        except ValueError as error:
            _log.error(
                "SIGHUP: nothing has changed: {error}",
                error=printable(str(error), 500),
            )
        except Exception:
            _log.failure("SIGHUP: an unexpected error interrupted the reading")
        else:
            _log.info("SIGHUP: {said}", said=said)
        self._is_ready(None)

    def _signalled(self, name: str) -> None:
        running = sum(each.running_handlers for each in self.consumers)
        if self._cause:
            _log.info(
                "{name}: no longer waiting for {running} running handlers",
                name=name,
                running=running,
            )
            for consumer in self.consumers:
                consumer.skip_grace_period()
            self.client.skip_grace_period()
            return
        self._cause = name
        _log.info(
            "{name}: stopping, with {running} handlers running",
            name=name,
            running=running,
        )
        self._stop_reactor()

    def _exit(self) -> None:
        """
        Exit with the status: called when the interpreter ends, which is the last
        opportunity to set it.
        """
        if self.status == ExitStatus.OK:
            return
        logging.shutdown()
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(OSError, ValueError, AttributeError):
                stream.flush()
        os._exit(self.status)


def _is_for_other_credentials(reason: BaseException) -> bool:
    """
    Whether the broker may accept other credentials.
    """
    if isinstance(reason, VhostAccessRefused):
        return "not found" not in reason.reply_text
    return isinstance(reason, AuthenticationFailed)
