# -*- test-case-name: txamqp091.test.rabbitmq.test_daemon -*-
"""
The real commands, such as ``twistd -n amqp-consumer``, as processes of their own.

`DaemonProcess` runs it, and tells what it says and how it ends.  It needs the reactor,
and no broker: where it connects to is in its arguments.
"""

from __future__ import annotations

import os
import signal
import sysconfig
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorProcess
from twisted.internet.protocol import ProcessProtocol
from twisted.python.failure import Failure

from txamqp091._observer import OneShot
from txamqp091.test.support.checkout import CHECKOUT

__all__ = ["DaemonProcess"]

SCRIPTS = Path(sysconfig.get_path("scripts"))

#: The commands that run a plugin in the foreground.
RUNNERS = {
    "twistd": ["twistd", "-n", "--pidfile="],
    "twist": ["twist", "--log-format=text"],
}


class DaemonProcess(ProcessProtocol):
    """
    A daemon.

    :ivar output: what it has said so far, on stdout.
    :ivar errors: and on stderr.
    :ivar status: its exit status, or minus the signal that it died of.
    """

    def __init__(
        self,
        *arguments: str,
        command: str = "amqp-consumer",
        runner: str = "twistd",
        environment: Mapping[str, str] | None = None,
        directory: Path | None = None,
    ) -> None:
        """
        Start it.

        :param arguments: those of the command.
        :param command: the plugin's.
        :param runner: what runs it: a key of `RUNNERS`, or the command line itself.
        :param environment: variables to have besides the few that Python needs.
        :param directory: where it runs; by default, where we do.
        """
        from twisted.internet import reactor

        processes = cast(IReactorProcess, reactor)
        self.output = ""
        self.errors = ""
        self.status: int | None = None
        self._ended: OneShot[int] = OneShot()
        self._awaited: list[tuple[str, int, Deferred[None]]] = []
        line = [*(RUNNERS.get(runner) or runner.split()), command, *arguments]
        processes.spawnProcess(
            self,
            str(SCRIPTS / line[0]),
            [os.fsencode(each) for each in line],
            env={
                "PATH": os.environ.get("PATH", ""),
                "PYTHONPATH": str(CHECKOUT),
                "PYTHONUNBUFFERED": "1",
                **{
                    name: value
                    for name, value in os.environ.items()
                    if name.startswith("COVERAGE_")
                },
                **(environment or {}),
            },
            path=None if directory is None else str(directory),
        )

    def when_said(self, text: str, times: int = 1) -> Deferred[None]:
        """
        A Deferred that fires when it has said something so many times; it fails if it
        ends before.
        """
        waiting: Deferred[None] = Deferred()
        self._awaited.append((text, times, waiting))
        self._look()
        return waiting

    def when_ended(self) -> Deferred[int]:
        """
        A Deferred that fires with the exit status.
        """
        return self._ended.when_fired()

    def terminate(self) -> Deferred[int]:
        """
        Send a SIGTERM, and wait for the end.
        """
        self.signal(signal.SIGTERM)
        return self.when_ended()

    def signal(self, number: int) -> None:
        """
        Send a signal.
        """
        transport: Any = self.transport
        transport.signalProcess(number)

    def end(self) -> Deferred[int]:
        """
        Make sure that it has gone.
        """
        if self.status is None:
            self.signal(signal.SIGKILL)
        return self.when_ended()

    def said(self, text: str) -> list[str]:
        """
        The lines of its log that have this in them, without time and source.
        """
        lines = [each for each in self.output.splitlines() if text in each]
        return [each.partition("] ")[2] for each in lines]

    def _look(self) -> None:
        for each in list(self._awaited):
            text, times, waiting = each
            if self.output.count(text) >= times:
                self._awaited.remove(each)
                waiting.callback(None)

    def outReceived(self, data: bytes) -> None:
        """
        Twisted: it has said something.
        """
        self.output += data.decode(errors="replace")
        self._look()

    def errReceived(self, data: bytes) -> None:
        """
        Twisted: it has said something on stderr.
        """
        self.errors += data.decode(errors="replace")

    def processEnded(self, reason: Failure) -> None:
        """
        Twisted: it has gone.
        """
        end: Any = reason.value
        self.status = -end.signal if end.signal else end.exitCode or 0
        for text, _, waiting in self._awaited:
            problem = f"it never said {text!r}:\n{self.output}{self.errors}"
            waiting.errback(AssertionError(problem))
        self._ended.fire(self.status)
