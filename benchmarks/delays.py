"""
Delayed publishing under load, with a restart of the broker in the middle.

``python -m benchmarks.delays 4.3.6`` starts a private RabbitMQ of that version,
publishes 100,000 messages with random delays of 1 s to 3 minutes at 1,000 a second,
restarts the broker halfway, and tells how late the messages arrive.  Before that it
measures what a message costs the broker at each level of the delay queues.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import sys
from dataclasses import dataclass, field
from pathlib import Path
from time import monotonic
from typing import Any

from twisted.internet.defer import Deferred, gatherResults
from twisted.internet.task import deferLater, react
from twisted.internet.threads import deferToThread

from txamqp091.arguments import quorum_queue
from txamqp091.message import Delivery
from txamqp091.service import AMQPClientService, Publisher, Queue, Topology
from txamqp091.service.delay_queues import delay_seconds
from txamqp091.test.support.installations import known_brokers
from txamqp091.test.support.rabbit import RabbitNode

#: Delays that take one level, two, three and four.
LEVELS = {8: 1, 6: 2, 7: 3, 15: 4}


@dataclass
class Arrivals:
    """
    What has arrived, and when.

    :ivar due: when each message was published, and its delay.
    """

    due: dict[int, tuple[float, float]] = field(default_factory=dict)
    seen: set[int] = field(default_factory=set)
    late: list[float] = field(default_factory=list)
    early: int = 0
    duplicates: int = 0

    def take(self, delivery: Delivery) -> None:
        """
        Take a message.
        """
        now = monotonic()
        number = int(delivery.body)
        if number in self.seen:
            self.duplicates += 1
        else:
            self.seen.add(number)
            published, delay = self.due[number]
            self.early += now - published < delay
            self.late.append(now - published - delay_seconds(delay))
        delivery.ack()


def cpu_seconds(pid: int) -> float:
    """
    The CPU time of a process so far.
    """
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


async def until(reactor: Any, condition: Any, seconds: float) -> bool:
    """
    Wait for a condition.
    """
    end = monotonic() + seconds
    while not condition() and monotonic() < end:
        await deferLater(reactor, 0.1)
    return bool(condition())


async def measure_levels(
    reactor: Any, node: RabbitNode, service: AMQPClientService, count: int
) -> dict[int, float]:
    """
    The broker's CPU microseconds for a message, by the number of levels.
    """
    publisher = Publisher(service, limit=count + 1)
    costs = {}
    for delay, levels in LEVELS.items():
        arrived: list[Delivery] = []
        name = f"levels-{levels}"
        await service.declare(Queue(name=name, arguments=quorum_queue()))
        await publisher.publish("", name, b"", delay=delay)
        consumer = service.consume(
            name,
            lambda delivery, arrived=arrived: (
                arrived.append(delivery),
                delivery.ack(),
            ),
        )
        await until(reactor, lambda arrived=arrived: arrived, 60)
        before = cpu_seconds(node.pid)
        await gatherResults(
            [publisher.publish("", name, b"x", delay=delay) for _ in range(count)]
        )
        await until(reactor, lambda arrived=arrived: len(arrived) > count, 120)
        print(f"{levels} levels: {len(arrived)} messages", file=sys.stderr, flush=True)
        costs[levels] = (cpu_seconds(node.pid) - before) / count * 1e6
        await consumer.cancel()
    return costs


async def publish_all(
    reactor: Any,
    publisher: Publisher,
    arrivals: Arrivals,
    options: argparse.Namespace,
) -> float:
    """
    Publish at a steady rate, and return how long that took.
    """
    began = monotonic()
    sent: list[Deferred[None]] = []
    number = 0
    while number < options.count:
        target = min(options.count, int((monotonic() - began) * options.rate) + 1)
        while number < target:
            delay = random.uniform(1, options.longest)
            arrivals.due[number] = monotonic(), delay
            sent.append(publisher.publish("", "due", b"%d" % number, delay=delay))
            number += 1
        await deferLater(reactor, 0.02)
    took = monotonic() - began
    await gatherResults(sent)
    return took


async def run(reactor: Any, node: RabbitNode, options: argparse.Namespace) -> None:
    """
    Measure, and print the results as JSON.
    """
    service = AMQPClientService(
        reactor,
        f"amqp://guest:guest@{node.host}:{node.port}",
        topology=Topology.of(Queue(name="due", arguments=quorum_queue())),
    )
    service.startService()
    await service.when_ready()
    result: dict[str, Any] = {"broker": options.broker, "count": options.count}
    costs = await measure_levels(reactor, node, service, options.level_count)
    result["broker_us_by_levels"] = {key: round(cost) for key, cost in costs.items()}
    arrivals = Arrivals()
    publisher = Publisher(service, limit=options.count, size_limit=1 << 30)
    service.consume("due", arrivals.take, prefetch=1000)
    publishing = Deferred.fromCoroutine(
        publish_all(reactor, publisher, arrivals, options)
    )
    await deferLater(reactor, options.count / options.rate / 2)
    stopped = monotonic()
    await deferToThread(node.terminate)
    await deferToThread(node.start)
    result["broker_away_s"] = round(monotonic() - stopped, 1)
    result["published_in_s"] = round(await publishing, 1)
    complete = await until(
        reactor, lambda: len(arrivals.seen) == options.count, options.longest + 600
    )
    late = sorted(arrivals.late)
    result |= {
        "arrived": len(arrivals.seen),
        "complete": complete,
        "early": arrivals.early,
        "duplicates": arrivals.duplicates,
        "published_again": publisher.republished,
        "late_s": {
            name: round(late[min(len(late) - 1, int(len(late) * part))], 2)
            for name, part in (("p50", 0.5), ("p90", 0.9), ("p99", 0.99), ("max", 1.0))
        },
    }
    print(json.dumps(result), flush=True)
    await service.stopService()


def main() -> None:
    """
    The command line.
    """
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("broker", help="version of RabbitMQ, such as 4.3.6")
    parser.add_argument("--count", type=int, default=100_000)
    parser.add_argument("--rate", type=float, default=1000)
    parser.add_argument("--longest", type=float, default=180)
    parser.add_argument("--level-count", type=int, default=5000)
    options = parser.parse_args()
    brokers = {each.name: each.installation for each in known_brokers()}
    installation = brokers.get(options.broker)
    if installation is None:
        sys.exit(f"there is no RabbitMQ {options.broker}; .ci/brokers gets it")
    with RabbitNode(installation) as node:
        react(lambda reactor: Deferred.fromCoroutine(run(reactor, node, options)))


if __name__ == "__main__":
    main()
