# -*- test-case-name: txamqp091.test.unit.cli.test_delays -*-
"""
Commands for the delay queues: show and remove.
"""

from __future__ import annotations

__all__ = ["delay", "remove", "show"]

import click

from txamqp091.cli.exit_status import CommandStatus
from txamqp091.cli.program import command, commands
from txamqp091.cli.session import Refused, Session
from txamqp091.errors import NotFound
from txamqp091.service import Entity, Queue, Topology
from txamqp091.service.delay_queues import DelayQueues


@commands.group("delay")
def delay() -> None:
    """
    Show and remove the queues of delayed messages; "publish --delay" fills them.
    """


async def _counts(session: Session, queues: list[Queue]) -> dict[str, int]:
    """
    The number of messages in each queue that exists.
    """
    counts = {}
    for queue in queues:
        # The broker closes the channel if there is no such queue.
        channel = await session.connection.open_channel()
        try:
            declared = await channel.queue_declare(queue.name, passive=True)
        except NotFound:
            continue
        counts[queue.name] = declared.message_count
        await channel.close()
    return counts


@command(delay, "show")
async def show(session: Session) -> int:
    """
    Show how many messages wait in each delay queue.
    """
    queues = DelayQueues().queues
    counts = await _counts(session, queues)
    if not counts:
        session.streams.say("there are no delay queues")
        return CommandStatus.NOTHING
    for level, queue in enumerate(queues):
        if queue.name in counts:
            messages = counts[queue.name]
            session.streams.write(
                f"{queue.name}  {1 << level:>9} s  {messages} messages",
                queue=queue.name,
                seconds=1 << level,
                messages=messages,
            )
    return CommandStatus.OK


@command(delay, "remove")
@click.option("--discard", is_flag=True, help="Discard the messages that wait.")
async def remove(session: Session, *, discard: bool) -> int:
    """
    Remove the delay queues and their exchanges.  A program that publishes with a delay
    declares them again.

    The command refuses to remove queues in which messages wait, unless --discard is
    given.
    """
    parts = DelayQueues()
    connection = session.connection
    counts = await _counts(session, parts.queues)
    _refuse(counts, discard)
    # Without the exchanges no message comes in.  Then the counts are final.
    await _delete(session, *parts.exchanges)
    try:
        _refuse(await _counts(session, parts.queues), discard)
    except Refused:
        await Topology.of(*parts.entities()).apply(connection)
        raise
    await _delete(session, *parts.queues, parts.out)
    session.streams.write(f"removed: {len(counts)} queues", removed=len(counts))
    return CommandStatus.OK


async def _delete(session: Session, *entities: Entity) -> None:
    for outcome in await Topology.of(*entities).delete(session.connection):
        if outcome.error is not None and not isinstance(outcome.error, NotFound):
            raise outcome.error


def _refuse(counts: dict[str, int], discard: bool) -> None:
    waiting = sum(counts.values())
    if waiting and not discard:
        raise Refused(
            f"{waiting} messages wait in the delay queues: publish nothing with a "
            "delay until they have arrived, or discard them with --discard"
        )
