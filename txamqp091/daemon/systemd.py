# -*- test-case-name: txamqp091.test.unit.daemon.test_systemd -*-
"""
What systemd is told: that the daemon is ready, is stopping, reads its settings again,
and that it lives.  See sd_notify(3).  Without systemd all of it does nothing.
"""

from __future__ import annotations

__all__ = ["Notifier", "Watchdog", "watchdog_seconds"]

import os
import socket
import time
from collections.abc import Mapping

from twisted.application.service import Service
from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import LoopingCall
from twisted.logger import Logger

from txamqp091.errors import printable

_log = Logger(namespace="txamqp091.daemon")


class Notifier:
    """
    The way to systemd.

    :ivar address: the socket that it listens on; "" if there is none.
    """

    def __init__(self, environ: Mapping[str, str] | None = None) -> None:
        """
        :param environ: the environment; by default the process's own.
        """
        environ = os.environ if environ is None else environ
        self.address = environ.get("NOTIFY_SOCKET", "")

    def ready(self, status: str) -> None:
        """
        The daemon does its work.
        """
        self.send("READY=1", f"STATUS={printable(status)}")

    def status(self, status: str) -> None:
        """
        What it is doing, for people to read.
        """
        self.send(f"STATUS={printable(status)}")

    def stopping(self, status: str) -> None:
        """
        It is about to end.
        """
        self.send("STOPPING=1", f"STATUS={printable(status)}")

    def reloading(self) -> None:
        """
        It reads its settings again; `ready` ends that.
        """
        now = time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000
        self.send("RELOADING=1", f"MONOTONIC_USEC={now}")

    def watchdog(self) -> None:
        """
        It lives.
        """
        self.send("WATCHDOG=1")

    def send(self, *lines: str) -> None:
        """
        Tell systemd.
        """
        if not self.address:
            return
        address = self.address
        if address.startswith("@"):  # it is abstract: in no folder
            address = "\0" + address[1:]
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as way:
                way.setblocking(False)
                way.sendto("\n".join(lines).encode(), address)
        except OSError as error:
            # Whatever it is, it must not end the daemon, nor be said all day long.
            _log.warn("systemd cannot be told: {error}", error=error.strerror)
            self.address = ""


def watchdog_seconds(environ: Mapping[str, str] | None = None) -> float:
    """
    How often systemd wants a sign of life, at least; 0 if it does not.
    """
    environ = os.environ if environ is None else environ
    if environ.get("WATCHDOG_PID", str(os.getpid())) != str(os.getpid()):
        return 0.0
    text = environ.get("WATCHDOG_USEC", "")
    return int(text) / 1e6 if text.isascii() and text.isdigit() else 0.0


class Watchdog(Service):
    """
    Gives signs of life, twice as often as systemd wants them.  They come from the
    reactor: when something blocks that, they end.
    """

    def __init__(self, clock: IReactorTime, notifier: Notifier, seconds: float) -> None:
        self._seconds = seconds
        self._call = LoopingCall(notifier.watchdog)
        self._call.clock = clock

    def startService(self) -> None:
        """
        Twisted: begin.
        """
        Service.startService(self)
        if self._seconds:
            self._call.start(self._seconds / 2)

    def stopService(self) -> None:
        """
        Twisted: end.
        """
        Service.stopService(self)
        if self._call.running:
            self._call.stop()
