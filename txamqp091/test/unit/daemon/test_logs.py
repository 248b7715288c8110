# -*- test-case-name: txamqp091.test.unit.daemon.test_logs -*-
"""
The lines of the log, and how a runner is made to write them.
"""

from __future__ import annotations

import json
import logging
import sys
from io import StringIO
from pathlib import Path
from typing import Any

from twisted.logger import (
    Logger,
    LogLevel,
    globalLogPublisher,
    textFileLogObserver,
)
from twisted.python.failure import Failure
from twisted.python.reflect import namedAny
from twisted.trial.unittest import SynchronousTestCase

from txamqp091.daemon.logs import (
    JSONLines,
    TextLines,
    choose_observer,
    make_observer,
    reopen,
    set_threshold,
)
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


class TextTests(SynchronousTestCase):
    """
    Events as text.
    """

    def lines(self, words: str, **fields: Any) -> str:
        """
        What is written of an event.
        """
        file = StringIO()
        Logger("shop", observer=TextLines(file)).info(words, **fields)
        return file.getvalue()

    def test_line(self) -> None:
        """
        A line has a time, the logger, the level and the text.
        """
        line = self.lines("Größe {size}", size=3)
        self.assertTrue(line.endswith(" [shop#info] Größe 3\n"), line)

    def test_control_characters(self) -> None:
        """
        What could change the terminal, or pass for another line, is escaped.
        """
        for raw, escaped in (
            ("\x1b[31m", "\\x1b[31m"),
            ("a\rb", "a\\rb"),
            ("\x00\x07\x7f\x9b", "\\x00\\x07\\x7f\\x9b"),
            ("\u2028\u202e", "\\u2028\\u202e"),
            ("\udce4", "\\udce4"),
            ("a\nb", "a\n\tb"),
            ("a\tb", "a\tb"),
        ):
            line = self.lines("{raw}", raw=raw)
            self.assertTrue(line.endswith(f"#info] {escaped}\n"), repr(line))

    def test_failure(self) -> None:
        """
        The traceback of a failure follows, and the text of its exception is escaped.
        """
        file = StringIO()
        log = Logger("shop", observer=TextLines(file))
        log.failure("It failed", Failure(ValueError("key \x1b[2J")))
        self.assertIn("ValueError: key \\x1b[2J", file.getvalue())


class StandardLibraryTests(SynchronousTestCase):
    """
    What the standard library's ``logging`` is given.
    """

    def setUp(self) -> None:
        self.addCleanup(set_threshold, LogThreshold.INFO)
        self.patch(logging.root, "handlers", [])
        self.patch(logging.root, "level", logging.WARNING)
        self.patch(sys, "stdout", StringIO())
        self.log = logging.getLogger("shop.orders")
        runner: dict[str, Any] = {"nodaemon": True}
        choose_observer(runner, LogSettings(format=LogFormat.JSON))
        observer = namedAny(runner["logger"])()
        globalLogPublisher.addObserver(observer)
        self.addCleanup(globalLogPublisher.removeObserver, observer)

    def lines(self) -> list[dict[str, Any]]:
        """
        The lines of the log.
        """
        stdout: Any = sys.stdout
        return [json.loads(each) for each in stdout.getvalue().splitlines()]

    def test_levels(self) -> None:
        """
        Records have their level and the name of their logger; braces stay.
        """
        self.log.debug("a detail")
        self.log.info("order %d of {x}", 3)
        self.log.warning("late")
        self.log.critical("gone")
        self.assertEqual(
            [(each["level"], each["logger"], each["msg"]) for each in self.lines()],
            [
                ("info", "shop.orders", "order 3 of {x}"),
                ("warn", "shop.orders", "late"),
                ("critical", "shop.orders", "gone"),
            ],
        )

    def test_threshold(self) -> None:
        """
        The level of the settings counts, and can change.
        """
        set_threshold(LogThreshold.DEBUG)
        self.log.debug("a detail")
        set_threshold(LogThreshold.ERROR)
        self.log.warning("late")
        self.assertFalse(self.log.isEnabledFor(logging.WARNING))
        self.assertEqual([each["msg"] for each in self.lines()], ["a detail"])

    def test_fields(self) -> None:
        """
        ``extra`` fields and tracebacks are there.
        """
        try:
            raise KeyError("stock")
        except KeyError:
            self.log.exception("failed", extra={"order": 7, "level": "x"})
        [line] = self.lines()
        self.assertEqual((line["order"], line["error"]), (7, "KeyError"))
        self.assertEqual((line["level"], line["msg"]), ("error", "failed"))
        self.assertIn("in test_fields", line["exc"])
        # Trial sees the failure, too.
        self.assertEqual(len(self.flushLoggedErrors(KeyError)), 1)

    def test_own_configuration(self) -> None:
        """
        A program that has configured ``logging`` itself keeps its configuration.
        """
        handler = logging.NullHandler()
        self.patch(logging.root, "handlers", [handler])
        choose_observer({"nodaemon": True}, LogSettings())
        self.assertEqual(logging.root.handlers, [handler])


class RunnerTests(SynchronousTestCase):
    """
    How runners are told.
    """

    def setUp(self) -> None:
        self.patch(logging.root, "handlers", [logging.NullHandler()])
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

    def test_reopened(self) -> None:
        """
        A log file that was moved is opened again; a log on stdout has nothing to open.
        """
        path = Path(self.mktemp()).absolute()
        runner: dict[str, Any] = {"nodaemon": True, "logfile": str(path)}
        choose_observer(runner, LogSettings())
        observer = namedAny(runner["logger"])()
        self.addCleanup(setattr, make_observer, "file", None)
        self.log(observer)
        moved = path.rename(path.with_suffix(".1"))
        self.log(observer)
        self.assertEqual(moved.read_text().count("a fact"), 2)
        reopen()
        self.log(observer)
        self.assertEqual(moved.read_text().count("a fact"), 2)
        self.assertEqual(path.read_text().count("a fact"), 1)
        make_observer.file = None
        reopen()

    def test_stderr(self) -> None:
        """
        Where stdout is for something else, the log goes to stderr.
        """
        stderr = StringIO()
        self.patch(sys, "stderr", stderr)
        runner: dict[str, Any] = {"nodaemon": True}
        choose_observer(runner, LogSettings(), to_stderr=True)
        self.log(namedAny(runner["logger"])())
        self.assertEqual(self.file.getvalue(), "")
        self.assertIn("a fact", stderr.getvalue())
        runner = {
            "fileLogObserverFactory": textFileLogObserver,
            "logFile": sys.stdout,
        }
        choose_observer(runner, LogSettings(), to_stderr=True)
        self.assertIs(runner["logFile"], stderr)

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
