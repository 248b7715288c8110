# -*- test-case-name: txamqp091.test.unit.daemon.test_systemd -*-
"""
Notifications to systemd: `Notifier` tells the state of the daemon, and `Watchdog` that
its reactor runs.  See sd_notify(3).  Without systemd they do nothing.
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
    Sends notifications to systemd.

    :ivar address: the socket of systemd; "" if there is none.
    """

    def __init__(self, environ: Mapping[str, str] | None = None) -> None:
        """
        :param environ: the environment; by default the process's own.
        """
        environ = os.environ if environ is None else environ
        self.address = environ.get("NOTIFY_SOCKET", "")
        self._failing = False

    def ready(self, status: str) -> None:
        """
        The daemon is ready.
        """
        self.send("READY=1", f"STATUS={printable(status)}")

    def status(self, status: str) -> None:
        """
        The state of the daemon, for people.
        """
        self.send(f"STATUS={printable(status)}")

    def stopping(self, status: str) -> None:
        """
        The daemon stops.
        """
        self.send("STOPPING=1", f"STATUS={printable(status)}")

    def reloading(self) -> None:
        """
        The daemon reads its settings again, until `ready`.
        """
        now = time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000
        self.send("RELOADING=1", f"MONOTONIC_USEC={now}")

    def watchdog(self) -> None:
        """
        The reactor runs.
        """
        self.send("WATCHDOG=1")

    def send(self, *lines: str) -> None:
        """
        Send lines.
        """
        if not self.address:
            return
        address = self.address
        if address.startswith("@"):  # an abstract socket
            address = "\0" + address[1:]
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
                sender.setblocking(False)
                sender.sendto("\n".join(lines).encode(), address)
        except OSError as error:
            # It may work again, such as when systemd is reloaded.
            if not self._failing:
                _log.warn("systemd cannot be notified: {error}", error=error.strerror)
            self._failing = True
        else:
            self._failing = False


def watchdog_seconds(environ: Mapping[str, str] | None = None) -> float:
    """
    The interval in which systemd expects a sign of life, in seconds; 0 for none.
    """
    environ = os.environ if environ is None else environ
    if environ.get("WATCHDOG_PID", str(os.getpid())) != str(os.getpid()):
        return 0.0
    text = environ.get("WATCHDOG_USEC", "")
    return int(text) / 1e6 if text.isascii() and text.isdigit() else 0.0


class Watchdog(Service):
    """
    Sends signs of life, twice as often as systemd expects them.  The reactor sends
    them, so they end when something blocks the reactor.
    """

    def __init__(self, clock: IReactorTime, notifier: Notifier, seconds: float) -> None:
        self._seconds = seconds
        self._call = LoopingCall(notifier.watchdog)
        self._call.clock = clock

    def startService(self) -> None:
        """
        Twisted: start.
        """
        Service.startService(self)
        if self._seconds:
            self._call.start(self._seconds / 2)

    def stopService(self) -> None:
        """
        Twisted: stop.
        """
        Service.stopService(self)
        if self._call.running:
            self._call.stop()
