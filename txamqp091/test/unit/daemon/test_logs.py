# -*- test-case-name: txamqp091.test.unit.daemon.test_logs -*-
"""
The lines of the log, and how a runner is made to write them.
"""

from __future__ import annotations

import json
import sys
from io import StringIO
from pathlib import Path
from typing import Any

from twisted.logger import Logger, LogLevel, textFileLogObserver
from twisted.python.failure import Failure
from twisted.python.reflect import namedAny
from twisted.trial.unittest import SynchronousTestCase

from txamqp091.daemon.logs import JSONLines, choose_observer, set_threshold
from txamqp091.daemon.settings import LogFormat, LogSettings, LogThreshold


class JSONTests(SynchronousTestCase):
    """
    Events as JSON.
    """

    def setUp(self) -> None:
        self.file = StringIO()
        self.log = Logger("shop", observer=JSONLines(self.file))

    def line(self) -> dict[str, Any]:
        """
        The one line that was written.
        """
        [line] = self.file.getvalue().splitlines()
        members: dict[str, Any] = json.loads(line)
        return members

    def test_event(self) -> None:
        """
        What an event was given to say are members of their own.
        """
        self.log.info(
            "Message {delivery_tag} of {queue}",
            delivery_tag=3,
            queue="a\nb",
            duration=0.5,
            message_id=None,
            path=Path("/x"),
            identity="left out",
        )
        line = self.line()
        self.assertTrue(line.pop("ts").endswith("+00:00"))
        self.assertEqual(
            line,
            {
                "level": "info",
                "logger": "shop",
                "msg": "Message 3 of a\nb",
                "delivery_tag": 3,
                "queue": "a\nb",
                "duration": 0.5,
                "message_id": None,
                "path": "/x",
            },
        )

    def test_failure(self) -> None:
        """
        A failure has its traceback with it, in the same line, without variables.
        """
        secret = "".join(["the", "secret"])
        try:
            raise ValueError(f"{len(secret)}")
        except ValueError:
            self.log.failure("It failed", Failure())
        line = self.line()
        self.assertEqual((line["level"], line["error"]), ("critical", "ValueError"))
        self.assertIn("in test_failure", line["exc"])
        self.assertNotIn(secret, self.file.getvalue())

    def test_strange(self) -> None:
        """
        Whatever the values are, a line is written.
        """

        class Strange:
            def __str__(self) -> str:
                raise ValueError("no")

        self.log.info("a", strange=Strange())
        line = self.line()
        self.assertEqual(line["msg"], "a")
        self.assertIn("Strange whose str() fails", line["strange"])


class RunnerTests(SynchronousTestCase):
    """
    How runners are told.
    """

    def setUp(self) -> None:
        self.addCleanup(set_threshold, LogThreshold.INFO)
        self.file = StringIO()
        self.patch(sys, "stdout", self.file)

    def log(self, observer: Any) -> str:
        """
        What an observer writes of a few events.
        """
        log = Logger("shop", observer=observer)
        log.debug("a detail")
        log.info("a fact")
        log.warn("a warning")
        return self.file.getvalue()

    def test_twistd(self) -> None:
        """
        ``twistd`` makes the observer that it is given.
        """
        runner: dict[str, Any] = {"nodaemon": True}
        choose_observer(runner, LogSettings(format=LogFormat.JSON))
        lines = self.log(namedAny(runner["logger"])()).splitlines()
        self.assertEqual(
            [json.loads(each)["msg"] for each in lines], ["a fact", "a warning"]
        )

    def test_threshold(self) -> None:
        """
        What is logged can change at any time.
        """
        runner: dict[str, Any] = {"nodaemon": True}
        choose_observer(runner, LogSettings(level=LogThreshold.WARN))
        observer = namedAny(runner["logger"])()
        self.assertIn("[shop#warn] a warning", self.log(observer))
        self.assertNotIn("a fact", self.file.getvalue())
        set_threshold(LogThreshold.DEBUG)
        self.assertIn("a detail", self.log(observer))

    def test_logfile(self) -> None:
        """
        Its own ``--logfile`` is heeded.
        """
        path = Path(self.mktemp()).absolute()
        runner: dict[str, Any] = {"nodaemon": True, "logfile": str(path)}
        choose_observer(runner, LogSettings())
        self.assertEqual(self.log(namedAny(runner["logger"])()), "")
        self.assertIn("a fact", path.read_text())

    def test_own_choice(self) -> None:
        """
        Its own ``--logger`` and ``--syslog`` are stronger.
        """
        for runner in ({"logger": len}, {"syslog": 1}):
            before = dict(runner)
            choose_observer(runner, LogSettings())
            self.assertEqual(runner, before)
        choose_observer(None, LogSettings())

    def test_twist(self) -> None:
        """
        ``twist`` has other names for that.
        """
        for form, words in (
            (LogFormat.JSON, '"msg": "a fact"'),
            (LogFormat.TEXT, "a fact"),
        ):
            runner: dict[str, Any] = {"fileLogObserverFactory": textFileLogObserver}
            choose_observer(runner, LogSettings(format=form))
            text = self.log(runner["fileLogObserverFactory"](self.file))
            self.assertIn(words, text)
            self.assertNotIn("a detail", text)
            self.assertIs(runner["logLevel"], LogLevel.debug)
