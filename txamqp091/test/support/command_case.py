# -*- test-case-name: txamqp091.test.unit.cli.test_messages -*-
"""
What tests of the command line inherit: commands that run as functions, on a broker in
memory, or on RabbitMQ.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from io import BytesIO, StringIO
from typing import Any

from twisted.internet.defer import Deferred
from twisted.trial.unittest import SkipTest

from txamqp091.cli.streams import Streams
from txamqp091.testing import BrokerTestCase

__all__ = ["CommandCase", "Started", "start"]


class Started:
    """
    A command that was started.

    :ivar status: fires with its exit status.
    """

    def __init__(self, status: Deferred[int], streams: Streams) -> None:
        self.status = status
        self._streams = streams

    @property
    def out(self) -> str:
        """
        What it has written to stdout.
        """
        assert isinstance(self._streams.stdout, StringIO)
        return self._streams.stdout.getvalue()

    @property
    def err(self) -> str:
        """
        What it has written to stderr.
        """
        assert isinstance(self._streams.stderr, StringIO)
        return self._streams.stderr.getvalue()

    @property
    def records(self) -> list[Any]:
        """
        Its lines of JSON.
        """
        return [json.loads(line) for line in self.out.splitlines()]


def start(
    reactor: Any,
    arguments: tuple[str, ...],
    *,
    stdin: bytes = b"",
    environ: Mapping[str, str] | None = None,
) -> Started:
    """
    Start a command.
    """
    try:
        from txamqp091.cli.program import parse
    except ModuleNotFoundError as error:
        raise SkipTest(f"the command line needs {error.name}") from None

    streams = Streams(BytesIO(stdin), StringIO(), StringIO())
    parsed = parse(arguments, streams)
    status: Deferred[int] = Deferred()
    if isinstance(parsed, int):
        status.callback(parsed)
    else:
        status = parsed.run(reactor, environ or {}, streams)
    return Started(status, streams)


class CommandCase(BrokerTestCase):
    """
    A test case with a broker in memory, on which commands run.
    """

    def begin(
        self,
        *arguments: str,
        stdin: bytes = b"",
        environ: Mapping[str, str] | None = None,
    ) -> Started:
        """
        Start a command, and let it do what it can at once.
        """
        started = start(self.reactor, arguments, stdin=stdin, environ=environ)
        self.flush()
        return started

    def command(
        self,
        *arguments: str,
        status: int = 0,
        stdin: bytes = b"",
        environ: Mapping[str, str] | None = None,
    ) -> Started:
        """
        Run a command, which takes no time and ends with a status.
        """
        started = self.begin(*arguments, stdin=stdin, environ=environ)
        self.assertEqual(self.successResultOf(started.status), status, started.err)
        return started
