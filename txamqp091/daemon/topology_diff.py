# -*- test-case-name: txamqp091.test.unit.daemon.test_topology_diff -*-
"""
``--diff``: a process that compares the topology of its settings with the broker's,
prints the differences, and ends without changing anything.
"""

from __future__ import annotations

__all__ = ["find_differences", "is_wrong", "make_comparison"]

import sys
from collections.abc import Callable, Sequence
from typing import Any

from twisted.internet.defer import Deferred
from twisted.python.failure import Failure

from txamqp091.daemon.builder import broker_places, token_credentials
from txamqp091.daemon.exit_status import ExitStatus
from txamqp091.daemon.process import Daemon
from txamqp091.daemon.settings import Settings
from txamqp091.errors import printable
from txamqp091.parameters import ConnectionParameters
from txamqp091.protocol import AMQPProtocol
from txamqp091.service import (
    AMQPClientService,
    Difference,
    EntityState,
    Queue,
    RetryPolicy,
    Topology,
)

Write = Callable[[str], object]


def make_comparison(
    reactor: Any,
    settings: Settings,
    parameters: Sequence[ConnectionParameters],
    write: Write | None = None,
) -> Daemon:
    """
    The daemon of ``--diff``.

    :param write: writes a line; by default to stdout.
    """
    client = AMQPClientService(
        reactor,
        broker_places(reactor, settings, parameters),
        parameters=parameters[0],
        credentials=token_credentials(reactor, settings, parameters),
        policy=RetryPolicy(permanent="fail", max_attempts=1),
    )
    daemon = Daemon(reactor, client)
    comparison = _Comparison(daemon, settings, write or sys.stdout.write)
    client.observe(ready=comparison.ready)
    return daemon


class _Comparison:
    """
    Compares, as soon as there is a connection.
    """

    def __init__(self, daemon: Daemon, settings: Settings, write: Write) -> None:
        self._daemon = daemon
        self._settings = settings
        self._write = write

    def ready(self, connection: AMQPProtocol, outcomes: object) -> None:
        """
        Start comparing.
        """
        comparing = Deferred.fromCoroutine(self._compare(connection))
        comparing.addErrback(self._failed)

    async def _compare(self, connection: AMQPProtocol) -> None:
        found = await find_differences(connection, self._settings)
        for each in found:
            self._write(f"{printable(str(each), 500)}\n")
        wrong = [each for each in found if is_wrong(each)]
        self._daemon.finish(
            "compared the topology", ExitStatus.DIFFERENT if wrong else ExitStatus.OK
        )

    def _failed(self, failure: Failure) -> None:
        self._daemon.gave_up(failure.value or Exception("it was cancelled"))


async def find_differences(
    connection: AMQPProtocol, settings: Settings
) -> list[Difference]:
    """
    Compare the topology of settings with the broker's, and change nothing.
    """
    declared = settings.topology()
    # Queues that others declare have to exist, with whatever arguments.
    needed = Topology.of(
        *(
            Queue(name=name)
            for name in dict.fromkeys(each.queue for each in settings.consumers)
            if declared.queue(name) is None
        )
    )
    found = await needed.diff(connection, compare=False)
    return found + await declared.diff(connection)


def is_wrong(difference: Difference) -> bool:
    """
    Whether an entity is missing, or not as the settings describe it.
    """
    return difference.state in (EntityState.MISSING, EntityState.DIFFERENT)
