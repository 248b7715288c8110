# -*- test-case-name: txamqp091.test.faults.test_nemesis -*-
"""
Who breaks things: `Nemesis` does one fault after the other to a cluster, its network
and its clients, in the order of a `plan` that depends on nothing but its seed.
"""

from __future__ import annotations

__all__ = ["KINDS", "Nemesis", "Step", "plan"]

import random
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from typing import NamedTuple

from twisted.internet.defer import Deferred
from twisted.internet.task import deferLater

from txamqp091.channel import Channel
from txamqp091.endpoint import connect
from txamqp091.errors import AMQPError
from txamqp091.service import Queue
from txamqp091.test.support.chaos import ChaosProxy, Direction
from txamqp091.test.support.cluster import RabbitCluster
from txamqp091.test.support.history import History, Kind
from txamqp091.test.support.integration import in_thread, until
from txamqp091.test.support.rabbit import RabbitNode
from txamqp091.test.support.workload import Workload

#: What lasts: from how many seconds to how many.
LASTING = {
    "hole": (1.0, 10.0),
    "freeze": (1.0, 14.0),
    "kill": (0.0, 6.0),
    "alarm": (1.0, 8.0),
}

#: What is over at once, and may also happen while something else lasts.
SUDDEN = ("reset", "close connections", "close channel", "cancel consumer")

#: What is over at once, and needs the whole cluster.
ALONE = ("delete queue",)

#: All of it.
KINDS = (*LASTING, *SUDDEN, *ALONE)

_CLOSE_CONNECTIONS = (
    '[rabbit_reader:shutdown(P, "chaos")'
    " || P <- rabbit_networking:local_connections()], ok."
)

#: What a hole swallows: everything, or what goes one way.
_HOLES = (tuple(Direction), (Direction.UP,), (Direction.DOWN,))

#: Where: on a node of which nobody knows yet which it will be.
LEADER = -1

#: How long things are left alone after each fault, in seconds.
QUIET = (3.0, 9.0)

#: How long it may take until all work again, in seconds: a guard.
PATIENCE = 120.0


class Step(NamedTuple):
    """
    One fault.

    :ivar fault: one of `KINDS`.
    :ivar node: the number of a node, or `LEADER`.
    :ivar seconds: how long it lasts.
    :ivar also: what happens in the middle of it, or "".
    :ivar pick: whom it hits, if that is a client: of how many there are, by division.
    :ivar quiet: how long to leave things alone afterwards.
    """

    fault: str
    node: int
    seconds: float
    also: str
    pick: int
    quiet: float

    def __str__(self) -> str:
        where = "the leader" if self.node == LEADER else f"node {self.node + 1}"
        also = f" with {self.also}" if self.also else ""
        return f"{self.fault}{also} at {where}, for {self.seconds:.1f} s"


def plan(seed: int, size: int = 3) -> Iterator[Step]:
    """
    Faults without end, the same for each seed.  They are dealt like cards: no kind
    comes for the next time before all others have been there.

    :param size: how many nodes there are.
    """
    chance = random.Random(seed)
    while True:
        for fault in chance.sample(KINDS, len(KINDS)):
            low, high = LASTING.get(fault, (0.0, 0.0))
            also = chance.choice(SUDDEN)
            yield Step(
                fault,
                chance.choice([LEADER, *range(size)]),
                chance.uniform(low, high),
                also if fault in LASTING and chance.random() < 0.5 else "",
                chance.randrange(1000),
                chance.uniform(*QUIET),
            )


class Nemesis:
    """
    Does what is planned, and undoes it.

    :ivar done: how many steps are done.
    """

    def __init__(
        self,
        cluster: RabbitCluster,
        proxies: Sequence[ChaosProxy],
        workload: Workload,
        history: History,
        *,
        kept: Queue,
        doomed: Queue,
    ) -> None:
        """
        :param proxies: the way of the clients to each node.
        :param kept: the queue whose leader is looked for.
        :param doomed: the queue that is deleted.
        """
        self.done = 0
        self._cluster = cluster
        self._proxies = proxies
        self._workload = workload
        self._history = history
        self._kept = kept
        self._doomed = doomed

    async def run(self, step: Step) -> None:
        """
        Do one step, and wait until all work again.

        :raises AssertionError: they do not.
        """
        number = await self._number(step)
        await self._break(step, number)
        before = self._workload.got_on
        try:
            await until(lambda: self._workload.has_got_on_since(before), PATIENCE)
        except AssertionError:
            raise AssertionError(
                f"{PATIENCE} s after step {self.done} ({step}), they have not got on "
                f"since {dict(before)}:\n{self._workload}"
            ) from None
        self.done += 1
        await self._wait(step.quiet)

    async def _number(self, step: Step) -> int:
        if step.node != LEADER:
            return step.node
        leader = await in_thread(self._cluster.leader_of, self._kept.name)
        return self._cluster.nodes.index(leader)

    async def _break(self, step: Step, number: int) -> None:
        node, proxy = self._cluster[number], self._proxies[number]
        self._history.add(Kind.BROKEN, "nemesis", node.name, step.fault)
        try:
            if step.fault == "hole":
                ways = _HOLES[step.pick % len(_HOLES)]
                await self._while(lambda: proxy.hole(*ways), proxy.heal, step)
            elif step.fault == "freeze":
                await self._while(node.pause, node.resume, step)
            elif step.fault == "kill":
                await self._while(node.kill, lambda: node.start(PATIENCE), step)
            elif step.fault == "alarm":
                await self._while(
                    lambda: node.set_memory_alarm(True),
                    lambda: node.set_memory_alarm(False),
                    step,
                )
            else:
                await self._strike(step.fault, number, step.pick)
            await in_thread(self._cluster.await_members, len(self._cluster))
        finally:
            self._history.add(Kind.MENDED, "nemesis", node.name, step.fault)

    async def _while(
        self, begin: Callable[[], object], end: Callable[[], object], step: Step
    ) -> None:
        """
        Have something last, with something else in the middle.
        """
        await in_thread(begin)
        try:
            await self._wait(step.seconds / 2)
            if step.also:
                other = step.pick % len(self._cluster)
                name = self._cluster[other].name
                self._history.add(Kind.BROKEN, "nemesis", name, step.also)
                await self._strike(step.also, other, step.pick)
                self._history.add(Kind.MENDED, "nemesis", name, step.also)
            await self._wait(step.seconds / 2)
        finally:
            await in_thread(end)

    def _wait(self, seconds: float) -> Deferred[None]:
        from twisted.internet import reactor

        return deferLater(reactor, seconds, lambda: None)

    # -- what is over at once ----------------------------------------------------------

    async def _strike(self, fault: str, number: int, pick: int) -> None:
        consumers, publishers = self._workload.consumers, self._workload.publishers
        consumer = consumers[pick % len(consumers)]
        node = self._cluster[number]
        if fault == "reset":
            # One in three cuts everything.
            for proxy in self._proxies if pick % 3 == 0 else [self._proxies[number]]:
                proxy.reset()
        elif fault == "close connections":
            if node in self._cluster.alive:
                # Not through the node's own function: that asks the frozen ones, too.
                await in_thread(node.eval, _CLOSE_CONNECTIONS)
        elif fault == "cancel consumer":
            consumer.cancel()
            consumer.consume()
        elif fault == "close channel":
            publisher = publishers[pick % len(publishers)].publisher
            for refused in (
                # An exchange of the wrong kind: 406 for the channel.
                consumer.consumer.channel.call(
                    Channel.exchange_declare, "amq.direct", "fanout", durable=True
                ),
                publisher.publish("no such exchange", "", b""),
            ):
                refused.addErrback(lambda _: None)
        else:
            assert fault == "delete queue"
            victims = [each for each in consumers if each.queue == self._doomed]
            if pick % 2:  # with what is in it, or under its consumers
                for each in victims:
                    each.cancel()
                await self._wait(0.5)
            await self._delete(node, self._doomed.name)
            if pick % 2:
                for each in victims:
                    each.consume()

    async def _delete(self, node: RabbitNode, queue: str) -> None:
        """
        Delete a queue, as somebody else would.
        """
        from twisted.internet import reactor

        uri = f"amqp://guest:guest@{node.host}:{node.port}"
        connection = await connect(reactor, uri)
        try:
            channel = await connection.open_channel()
            with suppress(AMQPError):  # it may be gone, or being made
                await channel.queue_delete(queue)
        finally:
            self._history.add(Kind.DELETED, "nemesis", queue)
            await connection.close()
