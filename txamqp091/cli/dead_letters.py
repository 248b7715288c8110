# -*- test-case-name: txamqp091.test.unit.cli.test_dead_letters -*-
"""
Commands for dead messages: list, show, replay, move and purge.

A scan takes messages off the queue one after the other (``basic.get``), and settles
each after its work is done.  What the scan leaves goes back to its place when the scan
ends.  So no message is lost, and a command that is killed may leave a message in both
places.

A quorum queue of RabbitMQ before 4.3 counts each return of a message towards its
delivery limit, and drops the message, or dead-letters it, beyond that.  So a message
that such a queue has counted before is not returned: it is published to the end of the
queue again, and acknowledged, so that its count begins at 0.
"""

from __future__ import annotations

__all__ = [
    "dead",
    "list_messages",
    "matches",
    "move",
    "origin",
    "purge",
    "replay",
    "show",
]

import re
import uuid
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import Any, TypeVar

import click
from twisted.internet.defer import Deferred, DeferredList
from twisted.python.failure import Failure

from txamqp091.channel import Channel
from txamqp091.cli.exit_status import CommandStatus
from txamqp091.cli.program import command, commands
from txamqp091.cli.session import Refused, Session
from txamqp091.cli.streams import message_record, message_text
from txamqp091.errors import (
    ChannelClosed,
    NotImplementedByBroker,
    PublishFailed,
    UndecodableProperty,
    printable,
)
from txamqp091.message import Death, Delivery
from txamqp091.wire.properties import Properties
from txamqp091.worker.retry_queues import broker_delays

#: How many messages are published before their confirms have come.
_WINDOW = 100

#: How many seconds the last confirms may take after Ctrl-C.
_LAST_CONFIRMS = 5.0

#: Headers with which the broker would route a copy again, or that it writes itself.
_ROUTING = re.compile("CC|BCC|x-delivery-count|x-acquired-count")

#: Headers of a death, which a replayed message does not have.  The worker needs
#: x-original-... and x-error-tries, to know where a message came from if it dies again.
_DEATH = re.compile(
    "CC|BCC|x-delivery-count|x-acquired-count|x-retry-count|x-death"
    "|x-(first|last)-death-(exchange|queue|reason)"
    "|x-error(-type|-traceback|-consumer|-queue)?"
)

_FAILED = ("rejected", "delivery_limit")


# -- the scan --------------------------------------------------------------------------

C = TypeVar("C", bound=Callable[..., Any])

#: Processes a message; returns whether the message was settled.
Use = Callable[[Delivery], Awaitable[bool]]


@dataclass
class _Scan:
    """
    A scan of a queue.

    :ivar where: patterns for headers, all of which have to match.
    :ivar limit: how many messages to use at most.
    :ivar used: the number of messages that matched and were settled.
    :ivar left: the number of messages that matched and were not settled.
    """

    session: Session
    queue: str
    where: Mapping[str, str]
    limit: int | None
    used: int = 0
    left: int = 0
    total: int = 0
    _said: set[str] = field(default_factory=set)

    @property
    def matched(self) -> int:
        return self.used + self.left

    async def run(self, use: Use) -> None:
        """
        Go through the messages that are in the queue now.

        :raises Refused: it is a stream.
        """
        channel = await self.session.connection.open_channel()
        declared = await channel.queue_declare(self.queue, passive=True)
        self.total = declared.message_count
        self._publishes = await _confirming(self.session)
        try:
            await self._go_through(channel, use)
        except NotImplementedByBroker:
            raise Refused(
                f"the queue {self.queue!r} is a stream: its messages cannot be taken "
                "out, only consumed"
            ) from None
        finally:
            if channel.is_open:
                await channel.basic_nack(0, multiple=True)
        await channel.flush()

    async def _go_through(self, channel: Channel, use: Use) -> None:
        running: list[Deferred[None]] = []
        try:
            await self._take_messages(channel, use, running)
        except BaseException:
            # The loss of the connection, or Ctrl-C: those that were published may
            # still be confirmed, and so acknowledged.
            await DeferredList(running, consumeErrors=True).addTimeout(
                _LAST_CONFIRMS, self.session.reactor, lambda *_: []
            )
            raise
        await _all(running)

    async def _take_messages(
        self, channel: Channel, use: Use, running: list[Deferred[None]]
    ) -> None:
        seen = 0
        # Not more than there were: a replayed message may be dead again by now.
        # A stream that was published to just now counts 0.
        while seen < max(self.total, 1) and not self._is_full(len(running)):
            delivery = await channel.basic_get(self.queue)
            if delivery is None:
                break
            seen += 1
            if not matches(delivery, self.where):
                await self._keep(delivery)
                continue
            running.append(Deferred.fromCoroutine(self._use(delivery, use)))
            if len(running) >= _WINDOW or self._is_full(len(running)):
                await _all(running)
                running.clear()
            now = self.session.reactor.seconds()
            self.session.streams.progress(now, f"{seen} of {self.total} messages")

    def _is_full(self, running: int) -> bool:
        return self.limit is not None and self.matched + running >= self.limit

    async def _use(self, delivery: Delivery, use: Use) -> None:
        if await use(delivery):
            self.used += 1
        else:
            self.left += 1
            await self._keep(delivery)

    async def _keep(self, delivery: Delivery) -> None:
        """
        Leave a message for the end of the scan, unless its return would count.
        """
        if not delivery.delivery_count or broker_delays(
            self.session.connection.server_properties
        ):
            return
        properties = _without(delivery.properties, _ROUTING)
        if await self.publish("", self.queue, delivery, properties):
            delivery.ack()

    async def publish(
        self, exchange: str, key: str, delivery: Delivery, properties: Properties
    ) -> bool:
        """
        Publish a copy, and wait until a queue has it.
        """
        try:
            await self._publishes.basic_publish(
                exchange, key, delivery.body, properties, mandatory=True
            )
        except PublishFailed as error:
            self.say(f"the broker has not taken a message: {error}")
            return False
        return True

    def say(self, text: str) -> None:
        """
        Say once why messages are left.
        """
        if text not in self._said:
            self._said.add(text)
            self.session.streams.say(text)

    @property
    def status(self) -> int:
        """
        The exit status of a command that settles messages.
        """
        if self.left:
            return CommandStatus.INCOMPLETE
        return CommandStatus.OK if self.used else CommandStatus.NOTHING

    def finish(self, verb: str) -> int:
        """
        Write the result.
        """
        text = f"{verb}: {self.used}" + (f", left: {self.left}" if self.left else "")
        self.session.streams.write(text, **{verb: self.used, "left": self.left})
        return self.status


async def _all(running: list[Deferred[None]]) -> None:
    """
    Wait for all, and raise the first error.
    """
    results: Any = await DeferredList(running, consumeErrors=True)
    for succeeded, result in results:
        if not succeeded:
            assert isinstance(result, Failure)
            result.raiseException()


async def _confirming(session: Session) -> Channel:
    channel = await session.connection.open_channel()
    await channel.confirm_select()
    return channel


def _headers_of(delivery: Delivery) -> Mapping[str, Any]:
    try:
        return delivery.headers
    except UndecodableProperty:
        return {}


def matches(delivery: Delivery, where: Mapping[str, str]) -> bool:
    """
    Whether the headers of a message match all patterns.
    """
    if not where:
        return True
    headers = _headers_of(delivery)
    return all(
        name in headers and fnmatchcase(_text(headers[name]), pattern)
        for name, pattern in where.items()
    )


def _text(value: object) -> str:
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)


def _without(properties: Properties, names: re.Pattern[str]) -> Properties:
    """
    Properties that anyone may publish, without some headers.  Those that cannot be
    decoded stay as they are.
    """
    try:
        headers = properties.headers or {}
        kept = {
            name: value for name, value in headers.items() if not names.fullmatch(name)
        }
        return properties.replace(headers=kept or None, user_id=None)
    except UndecodableProperty:
        return properties


# -- where a message died --------------------------------------------------------------


def _deaths(delivery: Delivery) -> tuple[Death, ...]:
    try:
        return delivery.deaths
    except UndecodableProperty:
        return ()


def _death(delivery: Delivery, dead_queue: str) -> Death | None:
    """
    The last death of a message: of its handler, if the broker says so.
    """
    deaths = [each for each in _deaths(delivery) if each.queue != dead_queue]
    failed = [each for each in deaths if each.reason in _FAILED]
    return next(iter(failed or deaths), None)


def origin(delivery: Delivery, dead_queue: str) -> tuple[str, str]:
    """
    The queue in which a message died, or "" if it does not say so, and the routing key
    that the message had there.
    """
    headers = _headers_of(delivery)
    death = _death(delivery, dead_queue)
    queue = headers.get("x-error-queue")
    key = headers.get("x-original-routing-key")
    if not isinstance(queue, str):
        queue = death.queue if death else ""
    if not isinstance(key, str):
        key = death.routing_keys[0] if death and death.routing_keys else None
    return queue, delivery.routing_key if key is None else key


def _summary(delivery: Delivery, dead_queue: str, number: int) -> dict[str, Any]:
    """
    What ``list`` tells of a message.
    """
    headers = _headers_of(delivery)
    death = _death(delivery, dead_queue)
    queue, key = origin(delivery, dead_queue)
    try:
        message_id = delivery.properties.message_id
    except UndecodableProperty:
        message_id = None
    kind = headers.get("x-error-type") or (death.reason if death else "unknown")
    return {
        "number": number,
        "queue": queue,
        "routing_key": key,
        "message_id": message_id,
        "error_type": _text(kind),
        "error": _text(headers.get("x-error", "")),
        "tries": headers.get("x-error-tries"),
        "size": len(delivery.body),
    }


# -- the commands ----------------------------------------------------------------------


@commands.group("dead")
def dead() -> None:
    """
    Look at dead messages, and send them back.

    The dead-letter queue of a daemon's consumer is QUEUE.dead by default.
    """


def _where(context: object, parameter: object, values: Any) -> dict[str, str]:
    patterns = {}
    for each in values:
        name, equals, pattern = each.partition("=")
        if not name or not equals:
            raise click.BadParameter(f"{each!r} is not HEADER=PATTERN")
        patterns[name] = pattern
    return patterns


_QUEUE = click.argument("queue")
_WHERE = click.option(
    "--where", multiple=True, metavar="HEADER=PATTERN", callback=_where,
    help="Only messages with a header that matches, such as x-error-type=*.KeyError; "
    "may be repeated.",
)  # fmt: skip


def _limit(default: int | None) -> Callable[[C], C]:
    return click.option(
        "--limit", "-n", type=click.IntRange(1), default=default,
        show_default=default is not None, help="Number of messages at most.",
    )  # fmt: skip


@command(dead, "list")
@_QUEUE
@_WHERE
@_limit(100)
async def list_messages(
    session: Session, *, queue: str, where: Mapping[str, str], limit: int
) -> int:
    """
    List the messages of QUEUE, a line each, and leave them where they are.
    """
    numbers = iter(range(1, limit + 1))

    async def use(delivery: Delivery) -> bool:
        found = _summary(delivery, queue, next(numbers))
        text = "{number}  {queue}  {error_type}  {error}  {size} bytes"
        if found["message_id"] is not None:
            text += "  {message_id}"
        session.streams.write(printable(text.format(**found), 2000), **found)
        return False

    scan = _Scan(session, queue, where, limit)
    await scan.run(use)
    if scan.total > scan.matched:
        session.streams.say(f"listed {scan.matched} of {scan.total} messages")
    return CommandStatus.OK if scan.matched else CommandStatus.NOTHING


@command(dead, "show")
@_QUEUE
@_WHERE
@_limit(1)
async def show(
    session: Session, *, queue: str, where: Mapping[str, str], limit: int
) -> int:
    """
    Show messages of QUEUE with their headers and bodies, and leave them where they are.
    """

    async def use(delivery: Delivery) -> bool:
        session.streams.write(message_text(delivery), **message_record(delivery))
        return False

    scan = _Scan(session, queue, where, limit)
    await scan.run(use)
    return CommandStatus.OK if scan.matched else CommandStatus.NOTHING


@command(dead, "replay")
@_QUEUE
@_WHERE
@_limit(None)
@click.option("--to", metavar="QUEUE", help="Queue for the messages.  Default: the "
              "queue in which each message died.")  # fmt: skip
async def replay(
    session: Session,
    *,
    queue: str,
    where: Mapping[str, str],
    limit: int | None,
    to: str | None,
) -> int:
    """
    Send messages of QUEUE back to the queue in which they died.

    The command publishes each message with its routing key, without the headers of its
    death and its retries, waits for the confirm, and then acknowledges the message.
    """
    _check_other(queue, to)
    scan = _Scan(session, queue, where, limit)
    routes = _Routes(scan)

    async def use(delivery: Delivery) -> bool:
        died_in, key = origin(delivery, queue)
        target = to or died_in
        if not target:
            scan.say("a message does not say where it died: give a queue with --to")
            return False
        if target == queue:
            scan.say(f"a message died in {queue!r} itself: give a queue with --to")
            return False
        exchange = await routes.exchange(target)
        if exchange is None:
            return False
        properties = _without(delivery.properties, _DEATH)
        done = await scan.publish(exchange, key, delivery, properties)
        if done:
            delivery.ack()
        return done

    try:
        await scan.run(use)
    finally:
        await routes.remove()
    return scan.finish("replayed")


def _check_other(queue: str, to: str | None) -> None:
    if queue == to:
        raise Refused("the queues are the same", CommandStatus.USAGE)


class _Routes:
    """
    Exchanges that each lead to one queue only, with any routing key.  They are removed
    when the command ends.
    """

    def __init__(self, scan: _Scan) -> None:
        self._scan = scan
        self._found: dict[str, Deferred[str | None]] = {}

    async def exchange(self, queue: str) -> str | None:
        """
        The exchange that leads to a queue; None if there is no such queue.
        """
        if queue not in self._found:
            self._found[queue] = Deferred.fromCoroutine(self._declare(queue))
        waiting: Deferred[str | None] = Deferred()

        def tell(result: Any) -> Any:
            waiting.callback(result)
            return result

        self._found[queue].addBoth(tell)
        return await waiting

    async def _declare(self, queue: str) -> str | None:
        channel = await self._scan.session.connection.open_channel()
        name = f"txamqp091-replay-{uuid.uuid4().hex}"
        try:
            await channel.queue_declare(queue, passive=True)
            await channel.exchange_declare(
                name, "fanout", durable=False, auto_delete=True
            )
            await channel.queue_bind(queue, name)
        except ChannelClosed as error:
            self._scan.say(str(error))
            return None
        await channel.close()
        return name

    async def remove(self) -> None:
        """
        Delete the exchanges.
        """
        connection = self._scan.session.connection
        for found in self._found.values():
            name = found.result if found.called else None
            if isinstance(name, str) and connection.is_open:
                channel = await connection.open_channel()
                await channel.exchange_delete(name)
                await channel.close()


@command(dead, "move")
@_QUEUE
@click.argument("to")
@_WHERE
@_limit(None)
async def move(
    session: Session,
    *,
    queue: str,
    to: str,
    where: Mapping[str, str],
    limit: int | None,
) -> int:
    """
    Move messages of QUEUE to the queue TO, with all their headers.
    """
    _check_other(queue, to)
    scan = _Scan(session, queue, where, limit)

    async def use(delivery: Delivery) -> bool:
        properties = _without(delivery.properties, _ROUTING)
        done = await scan.publish("", to, delivery, properties)
        if done:
            delivery.ack()
        return done

    await scan.run(use)
    return scan.finish("moved")


@command(dead, "purge")
@_QUEUE
@_WHERE
@_limit(None)
@click.option("--yes", is_flag=True, help="Discard the messages: they are lost.")
async def purge(
    session: Session,
    *,
    queue: str,
    where: Mapping[str, str],
    limit: int | None,
    yes: bool,
) -> int:
    """
    Discard messages of QUEUE.
    """
    if not yes:
        raise Refused(
            "purge discards messages: add --yes, or look at them with dead list",
            CommandStatus.USAGE,
        )

    async def use(delivery: Delivery) -> bool:
        delivery.ack()
        return True

    scan = _Scan(session, queue, where, limit)
    await scan.run(use)
    return scan.finish("purged")
