# -*- test-case-name: txamqp091.test.unit.cli.test_command_line -*-
"""
The entry of the console script ``txamqp091``: it starts the reactor, and ends with an
exit status.

The commands need the package click, which the extra ``txamqp091[cli]`` installs.
"""

from __future__ import annotations

__all__ = ["main"]

import contextlib
import os
import sys
from typing import Any

from twisted.internet.defer import Deferred
from twisted.logger import (
    FilteringLogObserver,
    ILogObserver,
    LogEvent,
    LogLevel,
    LogLevelFilterPredicate,
    formatEvent,
    globalLogBeginner,
)
from twisted.python.failure import Failure
from zope.interface import implementer

from txamqp091.cli.exit_status import CommandStatus
from txamqp091.cli.streams import Streams


def main() -> int:
    """
    Run the command that the command line of this process names.

    :returns: the exit status.
    """
    try:
        import click  # noqa: F401
    except ModuleNotFoundError:
        sys.stderr.write(
            "txamqp091: the command line needs the package click: "
            "pip install 'txamqp091[cli]'\n"
        )
        return CommandStatus.NOT_INSTALLED
    from txamqp091.cli.program import parse

    streams = Streams(sys.stdin.buffer, sys.stdout, sys.stderr)
    parsed = parse(sys.argv[1:], streams)
    if isinstance(parsed, int):
        return parsed
    _log_warnings(streams)
    from twisted.internet import task

    ended: list[int] = []

    def start(reactor: Any) -> Deferred[None]:
        running = parsed.run(reactor, os.environ, streams)
        over: Deferred[None] = Deferred()

        def finish(result: int | Failure) -> None | Failure:
            over.callback(None)
            if isinstance(result, Failure):
                return result
            ended.append(result)
            return None

        def stop() -> Deferred[None]:
            if not over.called:
                running.cancel()
            return over

        # At Ctrl-C the reactor waits until the command has ended in order.
        reactor.addSystemEventTrigger("before", "shutdown", stop)
        return running.addBoth(finish)

    # It always ends so, and knows less of the status.
    with contextlib.suppress(SystemExit):
        task.react(start)
    status = ended[0] if ended else CommandStatus.SOFTWARE
    if status == CommandStatus.BROKEN_PIPE:
        # Python writes the rest of its buffer at exit, and complains if that fails.
        with contextlib.suppress(OSError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return status


def _log_warnings(streams: Streams) -> None:
    """
    Have warnings and errors of the log written to stderr.
    """

    @implementer(ILogObserver)
    def observe(event: LogEvent) -> None:
        streams.say(formatEvent(event))

    warnings = LogLevelFilterPredicate(defaultLogLevel=LogLevel.warn)
    observer = FilteringLogObserver(observe, [warnings])
    globalLogBeginner.beginLoggingTo([observer], redirectStandardIO=False)
