# -*- test-case-name: txamqp091.test.unit.cli.test_messages -*-
"""
Commands for messages: ping, publish, get, consume and tap.
"""

from __future__ import annotations

__all__ = ["consume", "get", "ping", "publish", "tap"]

from collections import deque
from collections.abc import AsyncIterator
from typing import Any

import click
from twisted.internet.defer import CancelledError, Deferred, TimeoutError

from txamqp091.channel import Channel
from txamqp091.cli.exit_status import CommandStatus, status_of
from txamqp091.cli.program import command, commands
from txamqp091.cli.session import Refused, Session
from txamqp091.cli.streams import message_record, message_text
from txamqp091.errors import NotImplementedByBroker, PublishFailed, printable
from txamqp091.message import Delivery
from txamqp091.service import Topology
from txamqp091.service.delay_queues import MAX_DELAY, DelayQueues, delay_seconds
from txamqp091.wire.properties import Properties

#: How many messages of ``publish --lines`` may wait for their confirm.
_WINDOW = 1000

#: How many messages of ``tap`` the broker keeps for a slow terminal.
_TAP_LENGTH = 10_000


@command(commands, "ping")
async def ping(session: Session) -> int:
    """
    Log in, open a channel, and tell what the broker is.
    """
    began = session.reactor.seconds()
    await session.connection.open_channel()
    seconds = session.reactor.seconds() - began
    properties = session.connection.server_properties
    product = str(properties.get("product", "unknown"))
    version = str(properties.get("version", ""))
    cluster = str(properties.get("cluster_name", ""))
    display = session.parameters.display
    text = f"{product} {version}".strip()
    if cluster:
        text += f", cluster {cluster}"
    session.streams.write(
        f"{printable(text)}, {display}: answered in {seconds * 1000:.1f} ms",
        product=product,
        version=version,
        cluster=cluster,
        broker=display,
        seconds=seconds,
    )
    return CommandStatus.OK


# -- publishing ------------------------------------------------------------------------


def _delay(context: object, parameter: object, value: float | None) -> int:
    try:
        return delay_seconds(value or 0)
    except ValueError as error:
        raise click.BadParameter(str(error)) from None


def _headers(context: object, parameter: object, values: Any) -> dict[str, str]:
    return dict(_pair(each) for each in values)


def _pair(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not name or not equals:
        raise click.BadParameter(f"{text!r} is not NAME=VALUE")
    return name, value


@command(commands, "publish")
@click.argument("routing_key")
@click.argument("body", required=False)
@click.option(
    "--exchange",
    "-e",
    default="",
    help="Default: the default exchange, "
    "which routes to the queue that ROUTING_KEY names.",
)
@click.option("--lines", is_flag=True, help="Each line of stdin is a message.")
@click.option(
    "--delay",
    type=float,
    callback=_delay,
    metavar="SECONDS",
    help=f"Have the broker hold the message, for {MAX_DELAY} s at most.",
)
@click.option("--optional", is_flag=True, help="It is no error if no queue takes it.")
@click.option(
    "--transient",
    is_flag=True,
    help="The message need not survive a restart of the broker.",
)
@click.option(
    "--header",
    "-H",
    "headers",
    multiple=True,
    metavar="NAME=VALUE",
    callback=_headers,
    help="A header; may be repeated.",
)
@click.option("--content-type")
@click.option("--content-encoding")
@click.option("--message-id")
@click.option("--correlation-id")
@click.option("--reply-to", metavar="QUEUE")
@click.option("--type", help="Type of the message.")
@click.option("--app-id")
@click.option("--priority", type=click.IntRange(0, 255))
@click.option("--expiration", type=click.FloatRange(0), metavar="SECONDS",
              help="Time after which a queue drops the message.")  # fmt: skip
async def publish(
    session: Session,
    *,
    routing_key: str,
    body: str | None,
    exchange: str,
    lines: bool,
    delay: int,
    optional: bool,
    transient: bool,
    headers: dict[str, str],
    expiration: float | None,
    **properties: Any,
) -> int:
    """
    Publish BODY, or stdin without BODY or with "-", and wait for the broker's confirm.
    """
    if lines and body not in (None, "-"):
        raise Refused("--lines reads stdin: leave out BODY", CommandStatus.USAGE)
    streams, reactor = session.streams, session.reactor
    channel = await session.connection.open_channel()
    await channel.confirm_select()
    found: dict[str, Any] = dict(headers)
    if delay:
        queues = DelayQueues()
        await _declare(session, queues, exchange, routing_key)
        found = queues.headers(found, exchange, routing_key, delay)
        exchange = queues.entry(delay)
        optional = False
    if expiration is not None:
        properties["expiration"] = str(round(expiration * 1000))
    whole = Properties(
        headers=found or None, delivery_mode=1 if transient else 2, **properties
    )
    publishing = _Publishing(session, channel, exchange, routing_key, whole)
    publishing.mandatory = not optional
    if lines:
        async for line in streams.lines(reactor):
            await publishing.add(line)
    elif body is None or body == "-":
        await publishing.add(await streams.read(reactor))
    else:
        await publishing.add(body.encode("utf-8", "surrogateescape"))
    await publishing.finish()
    text = f"published: {publishing.confirmed}"
    if publishing.failed:
        text += f", failed: {publishing.failed}"
    streams.write(text, published=publishing.confirmed, failed=publishing.failed)
    return publishing.status


async def _declare(
    session: Session, queues: DelayQueues, exchange: str, routing_key: str
) -> None:
    """
    Declare the delay queues and the binding to a destination.
    """
    topology = Topology.of(
        *queues.entities(), queues.destination(exchange, routing_key)
    )
    for outcome in await topology.apply(session.connection):
        if outcome.error is not None:
            raise outcome.error


class _Publishing:
    """
    Messages that are published one after the other.
    """

    mandatory = True

    def __init__(
        self,
        session: Session,
        channel: Channel,
        exchange: str,
        routing_key: str,
        properties: Properties,
    ) -> None:
        self.confirmed = 0
        self.failed = 0
        self.status: int = CommandStatus.OK
        self._session = session
        self._channel = channel
        self._route = exchange, routing_key
        self._properties = properties
        self._sent: deque[Deferred[None]] = deque()

    async def add(self, body: bytes) -> None:
        """
        Publish a message, and wait for the first ones if many are unconfirmed.
        """
        if len(self._sent) >= _WINDOW:
            await self._take()
        exchange, key = self._route
        self._sent.append(
            self._channel.basic_publish(
                exchange, key, body, self._properties, self.mandatory
            )
        )

    async def finish(self) -> None:
        """
        Wait for all confirms.
        """
        while self._sent:
            await self._take()

    async def _take(self) -> None:
        try:
            await self._sent.popleft()
        except PublishFailed as error:
            self.failed += 1
            if not self.status:
                self._session.streams.say(
                    f"the broker has not taken a message: {error}"
                )
                self.status = status_of(error, True)
        else:
            self.confirmed += 1
            seconds = self._session.reactor.seconds()
            self._session.streams.progress(seconds, f"published: {self.confirmed}")


# -- receiving -------------------------------------------------------------------------


def _show(session: Session, delivery: Delivery, body_only: bool) -> None:
    if body_only:
        session.streams.write_raw(delivery.body)
    else:
        session.streams.write(message_text(delivery), **message_record(delivery))


_BODY_ONLY = click.option(
    "--body", "body_only", is_flag=True, help="Write the body and the end of a line "
    "only.",
)  # fmt: skip


@command(commands, "get")
@click.argument("queue")
@click.option(
    "--limit",
    "-n",
    type=click.IntRange(1),
    default=1,
    show_default=True,
    help="Number of messages at most.",
)
@click.option(
    "--keep",
    is_flag=True,
    help="Return the messages to the queue.  Quorum "
    "queues of RabbitMQ before 4.3 count that towards their delivery limit.",
)
@_BODY_ONLY  # fmt: skip
async def get(
    session: Session, *, queue: str, limit: int, keep: bool, body_only: bool
) -> int:
    """
    Take messages off QUEUE, and write them.  A message is acknowledged after it was
    written.
    """
    channel = await session.connection.open_channel()
    count = 0
    while count < limit:
        try:
            delivery = await channel.basic_get(queue)
        except NotImplementedByBroker:
            raise Refused(
                f"the queue {queue!r} is a stream: use consume", CommandStatus.REFUSED
            ) from None
        if delivery is None:
            break
        count += 1
        _show(session, delivery, body_only)
        if not keep:
            delivery.ack()
    if keep and count:
        # All at once: a quorum queue keeps their order.
        await channel.basic_nack(0, multiple=True)
    await channel.flush()
    if not count:
        session.streams.say(f"the queue {queue!r} is empty")
    return CommandStatus.OK if count else CommandStatus.NOTHING


@command(commands, "consume")
@click.argument("queue")
@click.option("--limit", "-n", type=click.IntRange(1), help="End after so many.")
@click.option(
    "--idle",
    type=click.FloatRange(0, min_open=True),
    metavar="SECONDS",
    help="End when no message has come for so long.",
)
@click.option(
    "--prefetch",
    type=click.IntRange(1, 65535),
    default=100,
    show_default=True,
    help="Number of unacknowledged messages at most.",
)
@click.option(
    "--offset",
    metavar="OFFSET",
    help="Where to begin in a stream: first, last, next or a number.",
)
@_BODY_ONLY  # fmt: skip
async def consume(
    session: Session,
    *,
    queue: str,
    limit: int | None,
    idle: float | None,
    prefetch: int,
    offset: str | None,
    body_only: bool,
) -> int:
    """
    Write the messages of QUEUE as they come, until Ctrl-C.  A message is acknowledged
    after it was written.
    """
    arguments: dict[str, Any] = {}
    if offset is not None:
        arguments["x-stream-offset"] = int(offset) if offset.isdecimal() else offset
    prefetch = prefetch if limit is None else min(prefetch, limit)
    channel = await session.connection.open_channel()
    count = 0
    async for delivery in _deliveries(
        session, channel, queue, prefetch, idle, arguments
    ):
        _show(session, delivery, body_only)
        delivery.ack()
        count += 1
        if count == limit:
            break
    if session.connection.is_open:
        await channel.flush()
    return CommandStatus.OK if count or idle is None else CommandStatus.NOTHING


async def _deliveries(
    session: Session,
    channel: Channel,
    queue: str,
    prefetch: int,
    idle: float | None,
    arguments: dict[str, Any],
) -> AsyncIterator[Delivery]:
    """
    The messages of a queue, until Ctrl-C, or until none has come for some time.
    """
    deliveries = await channel.consume(queue, prefetch=prefetch, arguments=arguments)
    while True:
        waiting = deliveries.get()
        if idle is not None:
            waiting.addTimeout(idle, session.reactor)
        try:
            delivery = await waiting
        except (CancelledError, TimeoutError):
            return
        yield delivery


@command(commands, "tap")
@click.option(
    "--exchange",
    "-e",
    default="amq.rabbitmq.trace",
    show_default=True,
    help="Exchange to listen to.",
)
@click.option(
    "--key",
    "-k",
    "keys",
    multiple=True,
    default=("#",),
    show_default=True,
    help="Routing key of the binding; may be repeated.  In RabbitMQ's "
    "firehose: publish.EXCHANGE and deliver.QUEUE.",
)
@click.option("--limit", "-n", type=click.IntRange(1), help="End after so many.")
@_BODY_ONLY  # fmt: skip
async def tap(
    session: Session,
    *,
    exchange: str,
    keys: tuple[str, ...],
    limit: int | None,
    body_only: bool,
) -> int:
    """
    Write copies of the messages that pass an exchange, until Ctrl-C.

    By default that is RabbitMQ's firehose, which has all messages of the virtual host
    while "rabbitmqctl trace_on" is in force.  The copies come through a queue of the
    command's own, so no consumer misses a message.
    """
    channel = await session.connection.open_channel()
    declared = await channel.queue_declare(
        "", exclusive=True, arguments={"x-max-length": _TAP_LENGTH}
    )
    queue = declared.queue
    for key in keys:
        await channel.queue_bind(queue, exchange, key)
    session.streams.say(f"listening to {exchange} with {', '.join(keys)}")
    count = 0
    async for delivery in _deliveries(session, channel, queue, 100, None, {}):
        _show(session, delivery, body_only)
        delivery.ack()
        count += 1
        if count == limit:
            break
    return CommandStatus.OK
