"""
``make demo``: the consumer daemon at work on real messages, and what became of them.

It publishes orders to a RabbitMQ, a few of which are none; the daemon, which is the
real ``twistd`` in a process of its own, takes them with the handler in
``handlers.py``.  After some seconds the daemon gets a SIGTERM, and then every message
is accounted for: if the sum is not right, the exit status is 1.

Environment variables: ``URI`` names a RabbitMQ to use, in place of a private one that
is started, and stopped, for the demo; ``DEMO_SECONDS`` says how long, by default 6.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import sys
from collections.abc import Iterator
from pathlib import Path

from twisted.internet.task import LoopingCall, deferLater, react

from txamqp091 import AMQPError, connect
from txamqp091.channel import Channel
from txamqp091.parameters import ConnectionParameters
from txamqp091.test.daemons import DaemonProcess
from txamqp091.test.installations import known_brokers
from txamqp091.test.rabbit import RabbitNode
from txamqp091.wire.properties import Properties

SECONDS = float(os.environ.get("DEMO_SECONDS") or 6)
QUEUE = f"txamqp091-demo-{os.getpid()}"
DEAD = f"{QUEUE}-dead"

#: Orders per second, and in how many bursts they come.
RATE, BURSTS = 500, 50


def say(topic: str, text: str) -> None:
    """
    Print a line.
    """
    print(f"{topic:<10} {text}", flush=True)


@contextlib.contextmanager
def broker() -> Iterator[str]:
    """
    The URI of a RabbitMQ, which is a private one unless ``URI`` says otherwise.
    """
    if os.environ.get("URI"):
        yield os.environ["URI"]
        return
    installations = [each.installation for each in known_brokers()]
    installation = next(filter(None, installations), None)
    if installation is None:
        sys.exit(
            "There is no RabbitMQ on this machine: install it (on Debian as root: apt "
            "install rabbitmq-server), or name one that runs: make demo "
            "URI=amqp://user:password@host"
        )
    say("broker", f"starting a private RabbitMQ {installation.version} ...")
    with RabbitNode(installation) as node:
        yield f"amqp://guest:guest@{node.host}:{node.port}"


class Demo:
    """
    A publisher, a daemon, and the books.
    """

    def __init__(self, reactor, uri: str) -> None:
        self.reactor = reactor
        self.uri = uri
        self.channel: Channel
        self.daemon: DaemonProcess
        self.sent = 0
        self.confirmed = 0
        self.failed: list[str] = []

    async def run(self) -> bool:
        """
        All of it.

        :returns: whether the books balance.
        """
        parameters = ConnectionParameters.from_uri(self.uri)
        connection = await connect(self.reactor, parameters)
        product = connection.server_properties
        say(
            "broker",
            f"{product.get('product')} {product.get('version')}, {parameters.display}",
        )
        self.channel = await connection.open_channel()
        await self.channel.confirm_select()
        await self.channel.queue_declare(DEAD)
        await self.channel.queue_declare(
            QUEUE,
            arguments={
                "x-dead-letter-exchange": "",
                "x-dead-letter-routing-key": DEAD,
            },
        )
        try:
            return await self.show()
        finally:
            await self.channel.queue_delete(QUEUE)
            await self.channel.queue_delete(DEAD)
            await connection.close()

    async def show(self) -> bool:
        """
        The part between the queue's beginning and its end.
        """
        say("queue", f"{QUEUE}; what is rejected goes to {DEAD}")
        arguments = ["--queue", QUEUE, "--handler", "handlers:order"]
        arguments += ["--prefetch", "50"]
        say("daemon", f"twistd -n amqp-consumer {' '.join(arguments)}")
        self.daemon = DaemonProcess(
            *arguments,
            directory=Path(__file__).parent,
            environment={"TXAMQP091_URI": self.uri},
        )
        try:
            await self.daemon.when_said("Consuming from the queue")
            publishing = LoopingCall(self.publish_burst)
            publishing.clock = self.reactor
            publishing.start(1 / BURSTS)
            await self.watch()
            before = self.reactor.seconds()
            # Publishing goes on: what the daemon does not take any more, it leaves.
            await self.daemon.terminate()
            took = self.reactor.seconds() - before
            publishing.stop()
        finally:
            await self.daemon.end()
        [end] = self.daemon.said("Stopped (") or ["it said nothing"]
        say("SIGTERM", f"gone after {took:.2f} s, exit status {self.daemon.status}")
        say("daemon", end)
        return await self.balance(end)

    def publish_burst(self) -> None:
        """
        Publish some orders; about every two seconds, one of them is none.
        """
        for _ in range(RATE // BURSTS):
            self.sent += 1
            body = json.dumps({"number": self.sent})
            if self.sent % (2 * RATE) == RATE // 5:
                body = "this is no order"
            properties = Properties(message_id=str(self.sent), delivery_mode=2)
            publishing = self.channel.basic_publish(
                "", QUEUE, body, properties, mandatory=True
            )
            publishing.addCallbacks(self.confirm, self.fail)

    def confirm(self, _: None) -> None:
        """
        The broker has a message.
        """
        self.confirmed += 1

    def fail(self, failure) -> None:
        """
        The broker has not got a message.
        """
        self.failed.append(failure.getErrorMessage())

    async def watch(self) -> None:
        """
        Print a line each second.
        """
        start = self.reactor.seconds()
        second = 0.0
        while second < SECONDS:
            second = min(second + 1, SECONDS)
            await deferLater(self.reactor, start + second - self.reactor.seconds())
            if self.daemon.status is not None:
                raise SystemExit(f"The daemon has gone:\n{self.daemon.output}")
            taken = self.daemon.said("orders so far")[-1:] or ["0"]
            waiting, dead = await self.depth(QUEUE), await self.depth(DEAD)
            say(
                f"{second:4.1f} s",
                f"sent {self.sent:6}   confirmed {self.confirmed:6}   "
                f"taken by the daemon {taken[0].split()[0]:>6}   "
                f"waiting {waiting:4}   rejected {dead:2}",
            )

    async def depth(self, queue: str) -> int:
        """
        How many messages a queue has ready.
        """
        return (await self.channel.queue_declare(queue, passive=True)).message_count

    async def balance(self, end: str) -> bool:
        """
        Account for every message.

        :param end: what the daemon said at last.
        """
        while self.confirmed + len(self.failed) < self.sent:
            await deferLater(self.reactor, 0.01)
        counts = re.search(r"(\d+) acknowledged, .* (\d+) rejected", end)
        acknowledged, rejected = map(int, counts.groups()) if counts else (0, 0)
        # The broker moves a rejected message a moment after it was rejected.
        for _ in range(100):
            left, dead = await self.depth(QUEUE), await self.depth(DEAD)
            right = self.sent == self.confirmed == acknowledged + dead + left
            if right and dead == rejected:
                break
            await deferLater(self.reactor, 0.02)
        say(
            "balance",
            f"{self.sent} sent {'=' if right else 'IS NOT'} "
            f"{acknowledged} acknowledged + {dead} rejected + {left} left",
        )
        for problem in self.failed[:3]:
            say("problem", f"a message was not confirmed: {problem}")
        if not right or dead != rejected or self.daemon.status != 0:
            print(self.daemon.output, self.daemon.errors, sep="\n", file=sys.stderr)
            return False
        return True


def main() -> None:
    """
    Run the demo, and exit with 1 if the books do not balance.
    """

    async def run(reactor) -> None:
        try:
            if not await Demo(reactor, uri).run():
                raise SystemExit(1)
        except AMQPError as error:
            raise SystemExit(f"The demo has failed: {error}") from None

    with broker() as uri:
        react(run)


if __name__ == "__main__":
    main()
