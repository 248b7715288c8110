"""
How cost grows with what there is more of: bytes, headers, consumers, channels,
connections, unconfirmed messages.  ``python -m benchmarks.growth``.

Sizes and connections are measured over TCP against the sink, the rest without a
network, so that a few nanoseconds more for each of a thousand channels would show.
A value is the processor time for each of what is counted: a flat line is linear
growth of the whole, and a line that rises is worse than that.
"""

from __future__ import annotations

import json
import random
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable
from dataclasses import asdict, dataclass, field
from statistics import median
from typing import Any

from twisted.internet.defer import Deferred, ensureDeferred, gatherResults
from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import react

from benchmarks.inside import Inside, clock, frame
from txamqp091 import connect
from txamqp091.channel import Channel
from txamqp091.message import Delivery, Message
from txamqp091.wire import spec
from txamqp091.wire.properties import Properties

__all__ = ["measure"]

KIB = 1024
BODY = b"x" * 128

Point = Callable[[int], dict[str, float]]


@dataclass
class Growth:
    """
    What grows.

    :ivar title: what there is more of.
    :ivar unit: of what is measured.
    :ivar points: how much of it.
    :ivar lines: for each thing that is measured, its medians, lowest and highest.
    """

    name: str
    title: str
    unit: str
    points: list[int]
    lines: dict[str, list[list[float]]] = field(default_factory=dict)

    def add(self, rounds: list[list[dict[str, float]]]) -> None:
        """
        :param rounds: for each round and each point, values by the names of lines.
        """
        for name in rounds[0][0]:
            values = [
                sorted(each[place].get(name, 0.0) for each in rounds)
                for place in range(len(self.points))
            ]
            self.lines[name] = [[median(each), each[0], each[-1]] for each in values]


# -- without a network -----------------------------------------------------------------


def consumers(count: int) -> dict[str, float]:
    """
    Consumers on one channel, each of which gets a message in turn.
    """
    inside = Inside()
    channel = inside.open_channel()
    tags = [f"tag-{number}" for number in range(count)]
    for tag in tags:
        channel.basic_consume("work", Delivery.ack, consumer_tag=tag)
    inside.serve()
    inside.ignore()
    total = 4000
    chunks = [
        inside.deliveries(100, BODY, tags[first % count :] + tags[: first % count],
                          [1], first=first)
        for first in range(1, total, 100)
    ]  # fmt: skip

    def receive() -> None:
        for chunk in chunks:
            inside.receive(chunk)

    return {"deliver and ack": clock(receive, total) / 1e3}


def channels(count: int) -> dict[str, float]:
    """
    Channels, each of which does something in turn.
    """
    inside = Inside()
    opened: list[Channel] = []
    opening = clock(
        lambda: opened.extend(inside.open_channel() for _ in range(count)), count
    )
    for channel in opened:
        channel.basic_consume("work", Delivery.ack, consumer_tag="tag")
    inside.serve()
    inside.ignore()
    total = max(4000, count)
    numbers = [channel.number for channel in opened]
    tags: dict[int, int] = {}
    chunks = []
    for first in range(0, total, 100):
        messages = []
        for place in range(first, first + 100):
            number = numbers[place % count]
            tags[number] = tags.get(number, 0) + 1
            messages.append(
                inside.deliveries(1, BODY, ["tag"], [number], first=tags[number])
            )
        chunks.append(b"".join(messages))

    def publish() -> None:
        for first in range(0, total, 100):
            for place in range(first, first + 100):
                opened[place % count].basic_publish("", "work", BODY)
            inside.turn()

    def receive() -> None:
        for chunk in chunks:
            inside.receive(chunk)

    def replace() -> None:
        for place in range(0, count, max(1, count // 50)):
            channel = opened[place]
            channel.close()
            inside.receive(frame(channel.number, spec.ChannelCloseOk()))
            inside.client.open_channel()
            number = next(iter(reversed(inside.client._machine._channels)))
            inside.receive(frame(number, spec.ChannelOpenOk()))

    return {
        "publish": clock(publish, total) / 1e3,
        "deliver and ack": clock(receive, total) / 1e3,
        "open": opening / 1e3,
        "close one, open another": clock(replace, min(count, 50)) / 1e3,
    }


def confirms(count: int) -> dict[str, float]:
    """
    So many messages published before the first one is confirmed: all at once, or one
    by one, in order and in no order.
    """
    shuffled = list(range(1, count + 1))
    random.Random(count).shuffle(shuffled)
    result = {}
    for name, numbers in (
        ("confirmed all at once", [count]),
        ("one by one, in order", range(1, count + 1)),
        ("one by one, in no order", shuffled),
    ):
        result[name] = publish_and_confirm(count, numbers, name.endswith("once"), False)
    result["mandatory, one by one"] = publish_and_confirm(
        count, range(1, count + 1), False, True
    )
    return result


def publish_and_confirm(
    count: int, numbers: Any, multiple: bool, mandatory: bool
) -> float:
    inside = Inside()
    channel = inside.open_channel()
    channel.confirm_select(100000, 1 << 40)
    inside.serve()
    inside.ignore()
    repeat = max(1, 1000 // count)
    acks = [frame(1, spec.BasicAck(number, multiple)) for number in numbers]
    chunks = [b"".join(acks[first : first + 100]) for first in range(0, len(acks), 100)]

    def work() -> None:
        for _ in range(count):
            channel.basic_publish("", "work", BODY, None, mandatory)
        inside.turn()
        for chunk in chunks:
            inside.receive(chunk)

    spent = clock(work, count) / 1e3
    for _ in range(repeat - 1):  # too few to be measured once
        channel._machine.confirms.published = 0  # type: ignore[union-attr]
        channel._machine.confirms._lowest = 1  # type: ignore[union-attr]
        spent = min(spent, clock(work, count) / 1e3)
    return spent


def headers(count: int) -> dict[str, float]:
    """
    Headers of a message, made anew for each.
    """
    table = {f"x-header-{number}": f"value {number}" for number in range(count)}
    inside = Inside()
    channel = inside.open_channel()
    looked_at: list[object] = []

    def look(delivery: Delivery) -> None:
        looked_at[:] = [delivery.headers]

    def look_away(delivery: Delivery) -> None:
        pass

    channel.basic_consume("work", look, True, consumer_tag="look")
    channel.basic_consume("work", look_away, True, consumer_tag="away")
    inside.serve()
    inside.ignore()
    properties = Properties(headers=table)
    total = 1000 if count <= 20 else 300
    seen, unseen = (
        inside.deliveries(total, BODY, [tag], [1], properties)
        for tag in ("look", "away")
    )

    def publish() -> None:
        for _ in range(total):
            channel.basic_publish("", "work", BODY, Properties(headers=table))
        inside.turn()

    return {
        "publish": clock(publish, total) / 1e3,
        "deliver, headers read": clock(lambda: inside.receive(seen), total) / 1e3,
        "deliver, nothing read": clock(lambda: inside.receive(unseen), total) / 1e3,
    }


def held(count: int) -> dict[str, float]:
    """
    Channels of a connection whose consumer has more than it can deal with, so that
    nothing is read, while another channel goes on publishing.
    """
    inside = Inside()
    opened = [inside.open_channel() for _ in range(count + 1)]
    waiting: list[Deferred[None]] = []

    def handle(_: Delivery) -> Deferred[None]:
        waiting.append(Deferred())
        return waiting[-1]

    opened[0].basic_consume("work", handle, True, consumer_tag="tag", prefetch=1)
    inside.serve()
    inside.ignore()
    inside.receive(inside.deliveries(3, BODY, ["tag"], [1]))
    total = 200

    def publish() -> None:
        for _ in range(total):
            opened[-1].basic_publish("", "work", BODY)
            inside.turn()

    return {"publish, a turn each": clock(publish, total) / 1e3}


def waiting(count: int) -> dict[str, float]:
    """
    Messages that wait as the transport is full, and then leave, or are given up.
    """
    inside = Inside()
    channel = inside.open_channel()
    inside.serve()
    inside.ignore()

    def publish() -> list[Deferred[None]]:
        inside.client.pauseProducing()
        return [channel.basic_publish("", "work", BODY) for _ in range(count)]

    def go() -> None:
        publish()
        inside.client.resumeProducing()
        inside.turn()

    def cancel(deferreds: list[Deferred[None]]) -> None:
        for deferred in deferreds:
            deferred.addErrback(_ignore)
            deferred.cancel()

    in_order, last_first = publish(), publish()[::-1]
    return {
        "wait, and leave": clock(go, count) / 1e3,
        "cancelled, last first": clock(lambda: cancel(last_first), count) / 1e3,
        "cancelled, in order": clock(lambda: cancel(in_order), count) / 1e3,
    }


def _ignore(_: object) -> None:
    pass


# -- over TCP --------------------------------------------------------------------------


async def sizes(port: int, size: int) -> dict[str, float]:
    """
    Bytes of a message.
    """
    from twisted.internet import reactor

    total = max(8, min(2000, (32 << 20) // size))
    connection = await connect(reactor, f"amqp://127.0.0.1:{port}/%2F")
    channel = await connection.open_channel()
    await channel.confirm_select()
    body = b"x" * size
    published = await spend(
        lambda: channel.publish_many(Message("", "q", body) for _ in range(total))
    )
    done: Deferred[None] = Deferred()
    left = total

    def handle(_: Delivery) -> None:
        nonlocal left
        left -= 1
        if not left:
            done.callback(None)

    async def consume() -> None:
        await channel.basic_consume(f"bench-{total}-{size}", handle, auto_ack=True)
        await done

    consumed = await spend(consume)
    await connection.close()
    return {"publish": published / total * 1e6, "consume": consumed / total * 1e6}


async def connections(port: int, count: int) -> dict[str, float]:
    """
    Connections, each of which publishes in turn.
    """
    from twisted.internet import reactor

    opened: list[Any] = []

    async def open_all() -> None:
        for first in range(0, count, 50):
            opened.extend(
                await gatherResults(
                    connect(reactor, f"amqp://127.0.0.1:{port}/%2F")
                    for _ in range(min(50, count - first))
                )
            )

    opening = await spend(open_all)
    each = [await connection.open_channel() for connection in opened]
    total = 20 * max(100, count)

    async def publish() -> None:
        for place in range(total):
            each[place % count].basic_publish("", "work", BODY)
        await gatherResults(
            channel.queue_declare("q", passive=True) for channel in each
        )

    publishing = await spend(publish)
    closing = await spend(lambda: gatherResults(each.close() for each in opened))
    return {
        "open": opening / count * 1e6,
        "publish": publishing / total * 1e6,
        "close": closing / count * 1e6,
    }


async def spend(work: Callable[[], Awaitable[object]]) -> float:
    """
    The processor time of some work, in seconds.
    """
    begin = time.process_time()
    await work()
    return time.process_time() - begin


# -- all of it -------------------------------------------------------------------------

INSIDE: tuple[tuple[Growth, Point], ...] = (
    (
        Growth("headers", "headers of a message", "us for a message",
               [0, 1, 2, 5, 10, 20, 50, 100]),
        headers,
    ),
    (
        Growth("consumers", "consumers on a channel", "us for a message",
               [1, 10, 100, 1000]),
        consumers,
    ),
    (
        Growth("channels", "channels of a connection", "us for each",
               [1, 10, 100, 500, 1000, 2000]),
        channels,
    ),
    (
        Growth("confirms", "unconfirmed messages", "us for a message",
               [1, 10, 100, 1000, 10000, 100000]),
        confirms,
    ),
    (
        Growth("held", "channels, while a consumer holds the connection",
               "us for a message", [1, 10, 100, 1000, 2000]),
        held,
    ),
    (
        Growth("waiting", "messages that wait", "us for a message",
               [10, 100, 1000, 10000]),
        waiting,
    ),
)  # fmt: skip


def measure(port: int, rounds: int, quick: bool) -> list[dict[str, Any]]:
    """
    Everything, in a process of its own as it needs a reactor.
    """
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.growth", str(port), str(rounds)]
        + ["quick"] * quick,
        capture_output=True,
        text=True,
        timeout=300,
    )
    if done.returncode:
        raise SystemExit(done.stdout + done.stderr)
    results: list[dict[str, Any]] = json.loads(done.stdout.splitlines()[-1])
    return results


async def run(reactor: IReactorTime) -> None:
    port, rounds = int(sys.argv[1]), int(sys.argv[2])
    growths = []
    for growth, point in INSIDE:
        if "quick" in sys.argv:
            growth.points = growth.points[:4]
        growth.add([[point(each) for each in growth.points] for _ in range(rounds)])
        growths.append(growth)
    for growth, remote in (
        (
            Growth("sizes", "bytes of a message", "us for a message",
                   [64, 256, KIB, 4 * KIB, 16 * KIB, 64 * KIB, 128 * KIB, 256 * KIB,
                    KIB * KIB, 4 * KIB * KIB, 16 * KIB * KIB]),
            sizes,
        ),
        (
            Growth("connections", "connections", "us for each",
                   [1, 10, 100, 300, 1000]),
            connections,
        ),
    ):  # fmt: skip
        if "quick" in sys.argv:
            growth.points = growth.points[:4]
        growth.add(
            [
                [await remote(port, each) for each in growth.points]
                for _ in range(rounds)
            ]
        )
        growths.append(growth)
    print(json.dumps([asdict(each) for each in growths]))


if __name__ == "__main__":
    react(lambda reactor: ensureDeferred(run(reactor)))
