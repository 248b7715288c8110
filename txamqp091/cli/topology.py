# -*- test-case-name: txamqp091.test.unit.cli.test_topology -*-
"""
Commands for the topology of a file of settings: declare and diff.
"""

from __future__ import annotations

__all__ = ["declare", "diff"]

from txamqp091.cli.exit_status import CommandStatus, status_of
from txamqp091.cli.program import command, commands
from txamqp091.cli.session import Refused, Session
from txamqp091.daemon.topology_diff import find_differences, is_wrong
from txamqp091.errors import printable


@command(commands, "declare", takes_file=True)
async def declare(session: Session) -> int:
    """
    Declare the exchanges, queues and bindings of FILE, in the daemon's TOML.
    """
    topology = session.settings.topology()
    if not len(topology):
        raise Refused("the file declares nothing", CommandStatus.CONFIG)
    status = CommandStatus.OK
    for outcome in await topology.apply(session.connection):
        error = "" if outcome.error is None else printable(str(outcome.error), 1000)
        text = f"{outcome.entity}: {error or 'declared'}"
        session.streams.write(
            printable(text, 1500), entity=str(outcome.entity), error=error or None
        )
        if outcome.error is not None and not status:
            status = status_of(outcome.error, True)
    return status


@command(commands, "diff", takes_file=True)
async def diff(session: Session) -> int:
    """
    Compare FILE with the broker, and change nothing.

    AMQP cannot ask for bindings, so their state is unknown.
    """
    found = await find_differences(session.connection, session.settings)
    for each in found:
        session.streams.write(
            printable(str(each), 1500),
            entity=str(each.entity),
            state=each.state.value,
            detail=each.detail,
        )
    return CommandStatus.DIFFERENT if any(map(is_wrong, found)) else CommandStatus.OK
