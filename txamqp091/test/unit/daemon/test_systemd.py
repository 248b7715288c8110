# -*- test-case-name: txamqp091.test.unit.daemon.test_systemd -*-
"""
What systemd is told, through a real socket.
"""

from __future__ import annotations

import os
import socket
import tempfile
from pathlib import Path

from twisted.internet.task import Clock
from twisted.logger import capturedLogs, formatEvent
from twisted.trial.unittest import SkipTest, SynchronousTestCase

from txamqp091.daemon.systemd import Notifier, Watchdog, watchdog_seconds


class NotifierTests(SynchronousTestCase):
    """
    Messages to systemd.
    """

    def listen(self, address: str) -> socket.socket:
        """
        A socket such as systemd has.
        """
        if not hasattr(socket, "AF_UNIX"):
            raise SkipTest("there are no such sockets here")
        listening = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.addCleanup(listening.close)
        listening.settimeout(60)
        listening.bind(address)
        return listening

    def setUp(self) -> None:
        # Such a path must be short.
        folder = self.enterContext(tempfile.TemporaryDirectory())
        self.address = str(Path(folder, "notify"))
        self.socket = self.listen(self.address)
        self.notifier = Notifier({"NOTIFY_SOCKET": self.address})

    def heard(self) -> dict[str, str]:
        """
        What came.
        """
        lines = self.socket.recv(4096).decode().split("\n")
        return dict(each.split("=", 1) for each in lines)

    def test_life(self) -> None:
        """
        A daemon is ready, reads its settings again, and stops.
        """
        self.notifier.ready("2 consumers\nare here")
        self.assertEqual(
            self.heard(), {"READY": "1", "STATUS": "2 consumers\\nare here"}
        )
        self.notifier.reloading()
        heard = self.heard()
        self.assertEqual(heard["RELOADING"], "1")
        self.assertTrue(heard["MONOTONIC_USEC"].isdigit())
        self.notifier.status("working")
        self.assertEqual(self.heard(), {"STATUS": "working"})
        self.notifier.stopping("SIGTERM")
        self.assertEqual(self.heard(), {"STOPPING": "1", "STATUS": "SIGTERM"})

    def test_abstract(self) -> None:
        """
        The address may be one that is in no folder.
        """
        name = f"txamqp091-test-{os.getpid()}"
        self.socket = self.listen(f"\0{name}")
        Notifier({"NOTIFY_SOCKET": f"@{name}"}).watchdog()
        self.assertEqual(self.heard(), {"WATCHDOG": "1"})

    def test_without_systemd(self) -> None:
        """
        Without systemd nothing is sent, and nothing is logged.
        """
        with capturedLogs() as events:
            Notifier({}).ready("here")
        self.assertEqual(events, [])

    def test_gone(self) -> None:
        """
        An error is logged once, and does no harm; later notifications are sent.
        """
        notifier = Notifier({"NOTIFY_SOCKET": "/nowhere/at/all"})
        with capturedLogs() as events:
            notifier.watchdog()
            notifier.watchdog()
        self.assertEqual(
            [formatEvent(each) for each in events],
            ["systemd cannot be notified: No such file or directory"],
        )
        notifier.address = self.notifier.address
        notifier.watchdog()
        self.assertEqual(self.heard(), {"WATCHDOG": "1"})


class WatchdogTests(NotifierTests):
    """
    Signs of life.
    """

    def test_seconds(self) -> None:
        """
        How often they are wanted is in the environment, for one process.
        """
        for environ, seconds in (
            ({}, 0),
            ({"WATCHDOG_USEC": "3000000"}, 3),
            ({"WATCHDOG_USEC": "3000000", "WATCHDOG_PID": f"{os.getpid()}"}, 3),
            ({"WATCHDOG_USEC": "3000000", "WATCHDOG_PID": "1"}, 0),
            ({"WATCHDOG_USEC": "soon"}, 0),
        ):
            self.assertEqual(watchdog_seconds(environ), seconds)

    def test_signs(self) -> None:
        """
        They come twice as often as that, until the service stops.
        """
        clock = Clock()
        watchdog = Watchdog(clock, self.notifier, 30)
        watchdog.startService()
        self.assertEqual(self.heard(), {"WATCHDOG": "1"})
        clock.advance(15)
        self.assertEqual(self.heard(), {"WATCHDOG": "1"})
        watchdog.stopService()
        self.assertEqual(clock.getDelayedCalls(), [])
        watchdog.stopService()

    def test_not_wanted(self) -> None:
        """
        None are given that nobody wants.
        """
        clock = Clock()
        watchdog = Watchdog(clock, self.notifier, 0)
        watchdog.startService()
        self.assertEqual(clock.getDelayedCalls(), [])
        watchdog.stopService()
