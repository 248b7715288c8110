"""
``make demo``: a service at work on real messages, and what became of each of them.

It publishes orders, a few of which are none, and consumes them, by the service that
programs are written with.  In the middle it pulls the plug on the connection.  In the
end every message is accounted for: if the sum is not right, the exit status is 1.

Environment variables: ``URI`` names a RabbitMQ to use, in place of the broker in
memory, which runs in this process and is spoken to by TCP; ``DEMO_SECONDS`` says how
long, by default 10.
"""

from __future__ import annotations

import json
import os
import sys
from collections import deque
from collections.abc import Sequence
from typing import Any

from demo_display import Display, Figures, choose_display
from twisted.internet.defer import Deferred
from twisted.internet.task import LoopingCall, deferLater, react
from twisted.logger import eventAsText, globalLogBeginner
from twisted.python.failure import Failure

from txamqp091 import AMQPError, AMQPProtocol, Delivery, Properties, connect
from txamqp091.arguments import quorum_queue
from txamqp091.service import (
    AMQPClientService,
    Binding,
    Exchange,
    Publisher,
    Queue,
    RetryPolicy,
    Topology,
)
from txamqp091.testing import MemoryBroker

SECONDS = float(os.environ.get("DEMO_SECONDS") or 10)

#: How long orders are published: the rest is for draining.
PUBLISHING = max(SECONDS - 0.5, SECONDS / 2)

#: Orders per second, in how many bursts they come, and how many of all are none.
RATE, BURSTS, POISON = 1000, 100, 5

#: How long an order takes: here a program would ask a database, and wait.
WORK = 0.004

#: When nothing has happened for so many seconds, nothing will.
PATIENCE = 5

NAME = f"demo-{os.getpid()}"
#: What is left of a demo that was interrupted goes by itself.
FORGOTTEN_AFTER = 60

DEAD = Queue(name=f"{NAME}.dead", arguments=quorum_queue(expires=FORGOTTEN_AFTER))
ORDERS = Queue(
    name=f"{NAME}.orders",
    arguments=quorum_queue(
        delivery_limit=5,
        expires=FORGOTTEN_AFTER,
        dead_letter_exchange="",
        dead_letter_routing_key=DEAD.name,
    ),
)
SHOP = Exchange(name=NAME, type="topic", auto_delete=True)
TOPOLOGY = Topology(
    exchanges=(SHOP,),
    queues=(ORDERS, DEAD),
    bindings=(Binding(source=SHOP, queue=ORDERS, routing_key="order.*"),),
)


class Books:
    """
    What became of every order, by its number.

    An order whose confirm the connection took with it is sent again, and an order whose
    acknowledgement it took comes again: so orders are counted, and not messages.
    """

    def __init__(self) -> None:
        self.sent: dict[int, float] = {}
        self.confirmed: set[int] = set()
        self.acknowledged: set[int] = set()
        self.dead: set[int] = set()
        self.received = 0
        self.redelivered = 0
        self.delays: deque[float] = deque(maxlen=RATE)

    @property
    def open(self) -> int:
        """
        How many orders are under way.
        """
        return len(self.sent) - len(self.acknowledged | self.dead)

    @property
    def balanced(self) -> bool:
        """
        Whether each order was acknowledged or is dead, and none is both.
        """
        return (
            not self.acknowledged & self.dead
            and self.acknowledged | self.dead == self.sent.keys()
        )


class Demo:
    """
    A publisher, a consumer, and the books.
    """

    def __init__(self, reactor: Any, uri: str, display: Display) -> None:
        self.reactor = reactor
        self.display = display
        self.books = Books()
        self.poison = 0
        self.began_at = 0.0
        self.lost_at: float | None = None
        self.service = AMQPClientService(
            reactor,
            uri,
            topology=TOPOLOGY,
            policy=RetryPolicy(initial_delay=0.3),
            name="txamqp091 demo",
        )
        self.service.observe(ready=self.ready, lost=self.lost)
        self.publisher = Publisher(self.service)
        self.service.consume(ORDERS, self.take, prefetch=50, on_failure="reject")
        self.service.consume(DEAD, self.bury)

    async def run(self, inspector: AMQPProtocol) -> bool:
        """
        All of it.

        :param inspector: a connection besides, to see what the broker has.
        :returns: whether the books balance.
        """
        say = self.display.say
        say("topology", f"{SHOP.name} (topic) --order.*--> {ORDERS.name} (quorum)")
        say("", f"{ORDERS.name} --rejected--> {DEAD.name} (quorum)")
        self.service.startService()
        await self.service.when_ready()
        say("consumer", "an AMQPClientService, prefetch 50; a second try, then dead")
        self.began_at = self.reactor.seconds()
        publishing = LoopingCall.withCount(self.publish)
        publishing.clock = self.reactor
        publishing.start(1 / BURSTS)
        showing = LoopingCall(lambda: self.display.show(self.figures()))
        showing.clock = self.reactor
        showing.start(self.display.interval, now=False)
        self.reactor.callLater(PUBLISHING * 0.6, self.pull_the_plug)
        try:
            await deferLater(self.reactor, PUBLISHING)
            publishing.stop()
            await self.drain()
        finally:
            showing.stop()
            await self.service.stopService()
        self.display.end(self.figures())
        return await self.balance(inspector)

    # -- publishing ------------------------------------------------------------------

    def publish(self, bursts: int) -> None:
        """
        Publish some orders, or what should be one.
        """
        for _ in range(bursts * RATE // BURSTS):
            number = len(self.books.sent) + 1
            now = self.reactor.seconds()
            self.books.sent[number] = now
            body = json.dumps({"number": number})
            if now - self.began_at > PUBLISHING * (self.poison + 0.5) / POISON:
                self.poison += 1
                body = "this is no order"
            publishing = self.publisher.publish(
                SHOP.name,
                "order.new",
                body,
                Properties(message_id=str(number), delivery_mode=2),
                mandatory=True,
            )
            publishing.addCallbacks(self.confirm, self.fail, callbackArgs=(number,))

    def confirm(self, _: None, number: int) -> None:
        """
        The broker has an order.
        """
        self.books.confirmed.add(number)

    def fail(self, failure: Failure) -> None:
        """
        It will not get one.
        """
        self.event("problem", failure.getErrorMessage())

    # -- consuming -------------------------------------------------------------------

    async def take(self, delivery: Delivery) -> None:
        """
        Take one order.  What is no order raises an error.  Such a message comes once
        more, and is then rejected, as its consumer says: it goes to the dead letters.
        """
        books = self.books
        books.received += 1
        books.redelivered += delivery.redelivered
        sent = books.sent[int(delivery.properties.message_id or 0)]
        books.delays.append(self.reactor.seconds() - sent)
        order = json.loads(delivery.body)
        await deferLater(self.reactor, WORK)
        delivery.ack()
        books.acknowledged.add(order["number"])

    def bury(self, delivery: Delivery) -> None:
        """
        Take one of the dead letters.
        """
        number = int(delivery.properties.message_id or 0)
        delivery.ack()
        if number not in self.books.dead:
            self.books.dead.add(number)
            death = delivery.headers["x-death"][0]["reason"]
            self.event("poison", f"message {number:,} is no order: {death}")

    # -- the connection --------------------------------------------------------------

    def pull_the_plug(self) -> None:
        """
        Have the connection break, and nobody told.
        """
        if self.service.connection is not None:
            self.event("plug", f"pulled, with {self.books.open} orders under way")
            self.service.connection.transport.abortConnection()

    def lost(self, reason: BaseException) -> None:
        """
        The service says that its connection is lost.
        """
        self.lost_at = self.reactor.seconds()

    def ready(self, connection: AMQPProtocol, outcomes: Sequence[object]) -> None:
        """
        The service says that it has a connection.
        """
        if self.lost_at is not None:
            took = self.reactor.seconds() - self.lost_at
            self.event("back", f"after {took:.2f} s, with all that was on it")

    # -- the end ---------------------------------------------------------------------

    async def drain(self) -> None:
        """
        Wait until every order has come to its end, or nothing happens any more.
        """
        books, began = self.books, self.reactor.seconds()
        left = books.open
        before, moved_at = books.open, began
        while not (books.balanced and len(books.confirmed) == len(books.sent)):
            await deferLater(self.reactor, 0.01)
            now = self.reactor.seconds()
            if books.open != before:
                before, moved_at = books.open, now
            if now > moved_at + PATIENCE:
                break
        took = self.reactor.seconds() - began
        self.event("draining", f"{left} orders under way, took {took:.2f} s")

    async def balance(self, inspector: AMQPProtocol) -> bool:
        """
        Account for every order, and leave nothing on the broker.
        """
        books = self.books
        channel = await inspector.open_channel()
        left = 0
        for queue in (ORDERS, DEAD):
            left += (await channel.queue_delete(queue.name)).message_count
        await inspector.close()
        unconfirmed = len(books.sent) - len(books.confirmed)
        right = books.balanced and left == unconfirmed == 0
        self.display.say(
            "balance",
            f"{len(books.sent)} sent {'=' if right else 'IS NOT'} "
            f"{len(books.acknowledged)} acknowledged + {len(books.dead)} dead-lettered"
            f"{f'; {unconfirmed} were not confirmed' if unconfirmed else ''}"
            f"{f'; {left} are left in the queues' if left else ''}",
        )
        self.display.say(
            "",
            f"{self.publisher.republished} were sent again, {books.redelivered} came "
            "again: that is how nothing is lost",
        )
        return right

    # -- showing it ------------------------------------------------------------------

    def event(self, topic: str, text: str) -> None:
        """
        Say that something has happened.
        """
        seconds = self.reactor.seconds() - self.began_at
        self.display.event(seconds, topic, text)

    def figures(self) -> Figures:
        """
        How far it is; the delays since the last time.
        """
        books = self.books
        delays = sorted(books.delays)
        books.delays.clear()
        return Figures(
            seconds=self.reactor.seconds() - self.began_at,
            of=PUBLISHING,
            sent=len(books.sent),
            received=books.received,
            confirmed=len(books.confirmed),
            open=books.open,
            dead=len(books.dead),
            delays=delays,
        )


async def run(reactor: Any, display: Display) -> bool:
    """
    Find a broker, and run the demo on it.
    """
    uri = os.environ.get("URI", "")
    port = None
    if not uri:
        port = MemoryBroker(reactor).listen(reactor)
        uri = f"amqp://guest:guest@127.0.0.1:{port.getHost().port}"
        display.say(
            "broker", "in memory, in this process (or name one: URI=amqp://...)"
        )
    inspector = await connect(reactor, uri)
    product = inspector.server_properties
    display.say(
        "broker",
        f"{product.get('product')} {product.get('version')}, "
        f"{inspector.parameters.display}",
    )
    try:
        return await Demo(reactor, uri, display).run(inspector)
    finally:
        if port is not None:
            await port.stopListening()


def main() -> None:
    """
    Run the demo, and exit with 1 if the books do not balance.
    """
    # The log would be in the way.  If something goes wrong, its end is shown.
    log: deque[str] = deque(maxlen=30)
    observers: list[Any] = [
        lambda event: log.append(eventAsText(event, includeTimestamp=False))
    ]
    globalLogBeginner.beginLoggingTo(observers, redirectStandardIO=False)
    display = choose_display(sys.stdout)

    def start(reactor: Any) -> Deferred[None]:
        async def finish() -> None:
            try:
                right = await run(reactor, display)
            except AMQPError as error:
                raise SystemExit(f"The demo has failed: {error}") from None
            if not right:
                print(*log, sep="\n", file=sys.stderr)
                raise SystemExit(1)

        return Deferred.fromCoroutine(finish())

    react(start)


if __name__ == "__main__":
    main()
