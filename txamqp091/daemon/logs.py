# -*- test-case-name: txamqp091.test.unit.daemon.test_logs -*-
"""
The log of a daemon: its format, its level, its file, and the standard library's
``logging``, which ends up in it too.

``twistd`` and ``twist`` begin logging before they start a plugin's service; so
`choose_observer` is called while the command line is parsed.
"""

from __future__ import annotations

__all__ = [
    "JSONLines",
    "StandardLibraryHandler",
    "TextLines",
    "choose_observer",
    "make_observer",
    "reopen",
    "set_threshold",
    "threshold",
]

import json
import logging
import os
import re
import sys
from datetime import UTC, datetime
from typing import IO, Any, cast

from twisted.logger import (
    FilteringLogObserver,
    ILogObserver,
    LogEvent,
    LogLevel,
    LogLevelFilterPredicate,
    formatEvent,
    formatEventAsClassicLogText,
    globalLogPublisher,
    textFileLogObserver,
)
from twisted.python.failure import Failure
from twisted.python.logfile import LogFile
from zope.interface import implementer

from txamqp091.daemon.settings import LogFormat, LogSettings, LogThreshold
from txamqp091.errors import printable
from txamqp091.worker.message_context import log_fields

#: The level below which nothing is logged: there is one log in a process.
threshold = LogLevelFilterPredicate(defaultLogLevel=LogLevel.info)

#: When a log file is rotated, in bytes, and how many old ones are kept.
_ROTATE_AT = 10_000_000
_KEPT = 10

# Keys of events that other members of a line already say.
_LEFT_OUT = frozenset(
    ("format", "message", "time", "system", "isError", "failure", "why", "identity")
)
_PLAIN = (str, int, float, bool, type(None))

# What could pass for another line, or move the cursor of a terminal, or is not UTF-8.
_UNSAFE = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]"
)


def set_threshold(level: LogThreshold) -> None:
    """
    Log nothing below a level, from now on.
    """
    threshold.defaultLogLevel = LogLevel.levelWithName(level.value)
    threshold.clearLogLevels()
    for handler in logging.root.handlers:
        if isinstance(handler, StandardLibraryHandler):
            logging.root.setLevel(_number_of(threshold.defaultLogLevel))


# -- the formats -----------------------------------------------------------------------


@implementer(ILogObserver)
class TextLines:
    """
    Writes events as lines of text in Twisted's classic format.  Further lines of an
    event begin with a tab, and control characters are escaped.  What a handler logs
    ends with the fields of its message.
    """

    def __init__(self, file: IO[str]) -> None:
        self._file = file

    def __call__(self, event: LogEvent) -> None:
        """
        Twisted: log an event.
        """
        about = _message_of(event)
        if about:
            fields = " ".join(f"{name}={value}" for name, value in about.items())
            event = {
                **event,
                "log_format": "{log_message} ({log_about})",
                "log_message": formatEvent(event),
                "log_about": fields,
            }
        text = formatEventAsClassicLogText(event)
        if text:
            self._file.write(_UNSAFE.sub(_escaped, text))
            self._file.flush()


def _escaped(match: re.Match[str]) -> str:
    return match[0].encode("unicode_escape", "surrogatepass").decode("ascii")


@implementer(ILogObserver)
class JSONLines:
    """
    Writes events as lines of JSON: ``ts``, ``level``, ``logger``, ``msg``, the fields
    of the event and of the message whose handler logs it, and ``error`` and ``exc``,
    the type and traceback of a failure.
    """

    def __init__(self, file: IO[str]) -> None:
        self._file = file

    def __call__(self, event: LogEvent) -> None:
        """
        Twisted: log an event.
        """
        self._file.write(f"{json.dumps(_flat(event))}\n")
        self._file.flush()


def _flat(event: LogEvent) -> dict[str, Any]:
    level = event.get("log_level")
    when = datetime.fromtimestamp(event.get("log_time", 0), UTC)
    members: dict[str, Any] = {
        "ts": when.isoformat(timespec="milliseconds"),
        "level": "" if level is None else level.name,
        "logger": event.get("log_namespace", ""),
        "msg": formatEvent(event),
    }
    for name, value in event.items():
        if not name.startswith("log_") and name not in _LEFT_OUT:
            members.setdefault(
                name, value if isinstance(value, _PLAIN) else _other(value)
            )
    for name, value in _message_of(event).items():
        members.setdefault(name, value)
    failure = event.get("log_failure")
    if isinstance(failure, Failure):
        members["error"] = type(failure.value).__qualname__
        members["exc"] = failure.getTraceback()
    return members


def _message_of(event: LogEvent) -> dict[str, Any]:
    """
    The fields of the message whose handler logs the event, unless the event has them.
    """
    return {} if "delivery_tag" in event else log_fields()


def _other(value: object) -> str:
    try:
        return printable(str(value))
    except Exception:
        return f"a {type(value).__qualname__} whose str() fails"


# -- the observer ----------------------------------------------------------------------


def choose_observer(
    runner: Any, settings: LogSettings, *, to_stderr: bool = False
) -> None:
    """
    Have a runner make the observer that the settings describe, unless its command line
    names another one; and log what the standard library's ``logging`` is given, unless
    the program has configured that already.

    :param runner: the options of ``twistd`` or ``twist``, which ours are a part of.
    :param to_stderr: whether the log goes to stderr if it would go to stdout.
    """
    set_threshold(settings.level)
    if runner is None:
        return
    if not logging.root.handlers:
        logging.root.addHandler(StandardLibraryHandler())
        set_threshold(settings.level)
    if "fileLogObserverFactory" in runner:  # it is twist
        make: Any = runner["fileLogObserverFactory"]
        if settings.format is LogFormat.JSON:
            make = JSONLines
        elif make is textFileLogObserver:
            make = TextLines
        runner["fileLogObserverFactory"] = lambda file: _filtered(make(file))
        # Or twist would drop levels that the settings may ask for later.
        runner["logLevel"] = LogLevel.debug
        if to_stderr and runner.get("logFile") is sys.stdout:
            runner["logFile"] = sys.stderr
    elif not runner.get("logger") and not runner.get("syslog"):
        # twistd takes a name, and calls the object that has it.
        make_observer.runner = runner
        make_observer.form = settings.format
        make_observer.to_stderr = to_stderr
        runner["logger"] = "txamqp091.daemon.logs.make_observer"


class _Maker:
    """
    Makes the observer, as ``twistd --logger`` requires.  There is one per process.
    """

    runner: Any = {}
    form = LogFormat.TEXT
    to_stderr = False
    file: LogFile | None = None

    def __call__(self) -> ILogObserver:
        name = self.runner.get("logfile")
        name = name or ("-" if self.runner.get("nodaemon") else "")
        file: IO[str] = sys.stderr if self.to_stderr else sys.stdout
        if name != "-":
            self.file = LogFile.fromFullPath(
                os.path.abspath(name or "twistd.log"),
                rotateLength=_ROTATE_AT,
                maxRotatedFiles=_KEPT,
            )
            file = cast("IO[str]", self.file)
        return _filtered(
            (JSONLines if self.form is LogFormat.JSON else TextLines)(file)
        )


make_observer = _Maker()


def reopen() -> None:
    """
    Open the log file again, as it may have been moved.
    """
    if make_observer.file is not None:
        make_observer.file.reopen()


def _filtered(observer: Any) -> ILogObserver:
    return FilteringLogObserver(observer, [threshold])


# -- the standard library --------------------------------------------------------------

#: The least number of each level of Twisted's in the standard library.
_NUMBERS = (
    (logging.CRITICAL, LogLevel.critical),
    (logging.ERROR, LogLevel.error),
    (logging.WARNING, LogLevel.warn),
    (logging.INFO, LogLevel.info),
    (logging.NOTSET, LogLevel.debug),
)

_RECORD = frozenset(logging.makeLogRecord({}).__dict__) | {"message", "asctime"}


def _number_of(level: Any) -> int:
    return next(number for number, each in _NUMBERS if each is level)


class StandardLibraryHandler(logging.Handler):
    """
    Passes records of ``logging`` on to Twisted's log, with their level, the name of
    their logger, their traceback and their ``extra`` fields.
    """

    def emit(self, record: logging.LogRecord) -> None:
        """
        ``logging``: log a record.
        """
        try:
            text = record.getMessage()
        except Exception:
            self.handleError(record)
            return
        level = next(each for number, each in _NUMBERS if record.levelno >= number)
        event: LogEvent = {
            **_extra(record),
            "log_level": level,
            "log_namespace": record.name,
            "log_time": record.created,
            "log_format": "{log_message}",
            "log_message": text,
        }
        if record.exc_info and record.exc_info[1] is not None:
            kind, error, traceback = record.exc_info
            event["log_failure"] = Failure(error, kind, traceback)
        globalLogPublisher(event)


def _extra(record: logging.LogRecord) -> dict[str, Any]:
    return {
        name: value
        for name, value in record.__dict__.items()
        if name not in _RECORD and not name.startswith("log_")
    }
