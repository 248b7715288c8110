# -*- test-case-name: txamqp091.test.unit.service.test_declaration -*-
"""
Telling a broker what should be there: declaring, deleting and comparing a `Topology`.

A declaration that fails costs its channel, and all that was asked for on it after
that.  So it is done on channels that are made for it: what comes first is sent all at
once, and after a failure the rest goes on, on another channel.
"""

from __future__ import annotations

__all__ = ["Declaration", "Difference", "Outcome", "State"]

import enum
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from twisted.internet.defer import CancelledError, Deferred, TimeoutError

from txamqp091.channel import Channel
from txamqp091.errors import (
    ChannelClosed,
    Closed,
    HandshakeTimeout,
    LocalProtocolError,
    NotFound,
    PreconditionFailed,
    printable,
)
from txamqp091.protocol import AMQPProtocol
from txamqp091.service.topology import Binding, Entity, Exchange, Queue, Topology
from txamqp091.wire import spec

#: How long the broker may take for one declaration, in seconds.  A quorum queue whose
#: nodes are away can take for ever.
STEP_TIMEOUT = 15.0

Call = Callable[[Channel], Deferred[Any]]


@dataclass(frozen=True)
class Outcome:
    """
    What became of one entity.

    :ivar entity: the exchange, the queue or the binding.
    :ivar error: why it does not stand, or None if it does.
    :ivar name: the name of a queue; the broker may have made it up.
    """

    entity: Entity
    error: BaseException | None = None
    name: str = ""

    def __str__(self) -> str:
        if self.error is None:
            return f"{self.entity} stands"
        return f"{self.entity}: {printable(str(self.error))}"

    @property
    def ok(self) -> bool:
        """
        Whether it stands.
        """
        return self.error is None

    @property
    def retriable(self) -> bool:
        """
        Whether it can succeed later, with nothing else changed.
        """
        return isinstance(self.error, TimeoutError) or bool(
            getattr(self.error, "retriable", False)
        )


class State(enum.Enum):
    """
    How an entity compares with what a broker has.
    """

    PRESENT = "present"
    MISSING = "missing"
    DIFFERENT = "different"
    UNKNOWN = "unknown"


@dataclass(frozen=True)
class Difference:
    """
    How one entity compares with what a broker has.

    :ivar state: whether it is there, and as described.
    :ivar detail: the broker's words, if it said anything.
    """

    entity: Entity
    state: State
    detail: str = ""

    def __str__(self) -> str:
        detail = f" ({self.detail})" if self.detail else ""
        return f"{self.entity}: {self.state.value}{detail}"


class Declaration:
    """
    A topology, about to meet a broker.

    :ivar culprit: the entity for which the broker has closed the connection, or None.
    """

    def __init__(
        self,
        connection: AMQPProtocol,
        topology: Topology,
        *,
        names: Mapping[str, str] | None = None,
        skip: Mapping[Entity, BaseException] | None = None,
        step_timeout: float = STEP_TIMEOUT,
    ) -> None:
        """
        :param names: the names that the broker has made up, by label.
        :param skip: what not to try, and why.
        :param step_timeout: how many seconds the broker may take for each entity.
        """
        self.culprit: Entity | None = None
        self._connection = connection
        self._topology = topology
        self._names = dict(names or {})
        self._skip = dict(skip or {})
        self._step_timeout = step_timeout

    # -- what can be asked for -------------------------------------------------------

    def apply(self) -> Deferred[list[Outcome]]:
        """
        See `Topology.apply`.
        """
        return Deferred.fromCoroutine(self._apply())

    def delete(self) -> Deferred[list[Outcome]]:
        """
        See `Topology.delete`.
        """
        return Deferred.fromCoroutine(self._delete())

    def diff(self, compare: bool) -> Deferred[list[Difference]]:
        """
        See `Topology.diff`.
        """
        return Deferred.fromCoroutine(self._diff(compare))

    async def _apply(self) -> list[Outcome]:
        topology = self._topology
        # The bindings need the names of the queues.
        made = await self._run([*topology.exchanges, *topology.queues], self._declare)
        bound = await self._run([*topology.bindings], self._bind)
        return made + bound

    async def _delete(self) -> list[Outcome]:
        topology = self._topology
        entities: list[Entity] = [
            *topology.bindings,
            *topology.queues,
            *topology.exchanges,
        ]
        known = [each for each in entities if self._is_known(each)]
        found = {_id(each): each for each in await self._run(known, self._remove)}
        return [found.get(id(each), Outcome(each)) for each in topology]

    async def _diff(self, compare: bool) -> list[Difference]:
        topology = self._topology
        named = [*topology.exchanges, *(each for each in topology.queues if each.name)]
        asked = await self._run(named, self._ask)
        there = [each.entity for each in asked if each.ok and _stays(each.entity)]
        compared: list[Outcome] = []
        if compare:
            compared = await self._run(there, self._declare)
        known = {_id(each): each for each in asked}
        known |= {_id(each): each for each in compared if not each.ok}
        return [_difference(each, known.get(id(each))) for each in topology]

    # -- one entity --------------------------------------------------------------------

    def _declare(self, entity: Entity) -> Call:
        if isinstance(entity, Exchange):
            return lambda channel: channel.exchange_declare(
                entity.name,
                entity.type,
                False,
                entity.durable,
                entity.auto_delete,
                entity.internal,
                entity.arguments,
            )
        assert isinstance(entity, Queue)
        return lambda channel: channel.queue_declare(
            entity.name,
            False,
            entity.durable,
            entity.exclusive,
            entity.auto_delete,
            entity.arguments,
        )

    def _ask(self, entity: Entity) -> Call:
        if isinstance(entity, Exchange):
            return lambda channel: channel.exchange_declare(
                entity.name, entity.type, True
            )
        assert isinstance(entity, Queue)
        return lambda channel: channel.queue_declare(entity.name, True)

    def _bind(self, entity: Entity) -> Call:
        assert isinstance(entity, Binding)
        source, key, arguments = entity.source, entity.routing_key, entity.arguments
        if entity.exchange:
            return lambda channel: channel.exchange_bind(
                entity.exchange, source, key, arguments
            )
        queue = self._name(entity.queue)
        return lambda channel: channel.queue_bind(queue, source, key, arguments)

    def _remove(self, entity: Entity) -> Call:
        if isinstance(entity, Exchange):
            return lambda channel: channel.exchange_delete(entity.name)
        if isinstance(entity, Queue):
            name = self._name(entity.key)
            return lambda channel: channel.queue_delete(name)
        source, key, arguments = entity.source, entity.routing_key, entity.arguments
        if entity.exchange:
            return lambda channel: channel.exchange_unbind(
                entity.exchange, source, key, arguments
            )
        queue = self._name(entity.queue)
        return lambda channel: channel.queue_unbind(queue, source, key, arguments)

    def _is_known(self, entity: Entity) -> bool:
        """
        Whether the broker has named the queue that this is about, or it has a name.
        """
        key = getattr(entity, "queue", getattr(entity, "key", ""))
        found = self._topology.queue(key)
        return found is None or bool(found.name) or key in self._names

    def _name(self, queue: str) -> str:
        """
        What the broker calls a queue.
        """
        found = self._topology.queue(queue)
        if queue in self._names:
            return self._names[queue]
        if found is not None and not found.name:
            raise LocalProtocolError(f"the {found} does not stand")
        return queue

    # -- many ----------------------------------------------------------------------

    async def _run(
        self, entities: list[Any], verb: Callable[[Any], Call]
    ) -> list[Outcome]:
        """
        Do one thing to each of many entities.

        :raises AMQPError: why the connection has ended.
        """
        outcomes: list[Outcome] = []
        while len(outcomes) < len(entities):
            rest = entities[len(outcomes) :]
            outcomes += await self._run_on_channel(rest, verb)
        return outcomes

    async def _run_on_channel(
        self, entities: list[Entity], verb: Callable[[Any], Call]
    ) -> list[Outcome]:
        """
        The same, on one channel, which means: up to the first that fails.
        """
        outcomes: list[Outcome] = []
        try:
            channel = await self._in_time(self._connection.open_channel())
        except TimeoutError:
            raise HandshakeTimeout(
                f"the broker has not opened a channel within {self._step_timeout:g} s",
                by_us=True,
            ) from None
        asked = [self._call(each, verb, channel) for each in entities]
        try:
            for entity, reply in zip(entities, asked, strict=True):
                outcome = await self._outcome(entity, reply)
                outcomes.append(outcome)
                late = isinstance(outcome.error, TimeoutError)
                if late or not (outcome.ok or channel.is_open):
                    break
        finally:
            for reply in asked[len(outcomes) :]:
                reply.addErrback(lambda _: None)
            channel.close()
        return outcomes

    def _call(
        self, entity: Entity, verb: Callable[[Any], Call], channel: Channel
    ) -> Deferred[Any]:
        problem = self._skip.get(entity)
        try:
            if problem is not None:
                raise problem
            return verb(entity)(channel)
        except Exception as error:
            failed: Deferred[Any] = Deferred()
            failed.errback(error)
            return failed

    async def _outcome(self, entity: Entity, reply: Deferred[Any]) -> Outcome:
        name = entity.name if isinstance(entity, Queue) else ""
        try:
            answer = await self._in_time(reply)
        except CancelledError:
            raise
        except Exception as error:
            if not self._connection.is_open:
                self._blame(entity, error)
                raise
            return Outcome(entity, error, name)
        if isinstance(answer, spec.QueueDeclareOk) and isinstance(entity, Queue):
            name = self._names[entity.key] = answer.queue
        return Outcome(entity, None, name)

    def _in_time(self, step: Deferred[Any]) -> Deferred[Any]:
        return step.addTimeout(self._step_timeout, self._connection.reactor)

    def _blame(self, entity: Entity, error: Exception) -> None:
        """
        See whether the connection has ended because of this entity.
        """
        # Answers come in order: the first one that is missing is to what is named.
        if (
            isinstance(error, Closed)
            and not error.by_us
            and error.operation in _OPERATIONS[type(entity)]
        ):
            self.culprit = entity


_OPERATIONS: dict[type, tuple[str, ...]] = {
    Exchange: ("exchange.declare", "exchange.delete"),
    Queue: ("queue.declare", "queue.delete"),
    Binding: ("queue.bind", "queue.unbind", "exchange.bind", "exchange.unbind"),
}


def _id(outcome: Outcome) -> int:
    return id(outcome.entity)


def _stays(entity: Entity) -> bool:
    """
    Whether an entity is there until somebody deletes it.
    """
    if isinstance(entity, Queue):
        expires = "x-expires" in entity.arguments
        return not (entity.exclusive or entity.auto_delete or expires)
    return isinstance(entity, Exchange) and not entity.auto_delete


def _difference(entity: Entity, outcome: Outcome | None) -> Difference:
    if outcome is None:
        return Difference(entity, State.UNKNOWN)
    if outcome.error is None:
        return Difference(entity, State.PRESENT)
    state = State.UNKNOWN
    if isinstance(outcome.error, NotFound):
        state = State.MISSING
    elif isinstance(outcome.error, PreconditionFailed):
        state = State.DIFFERENT
    detail = printable(str(outcome.error))
    if isinstance(outcome.error, ChannelClosed):
        detail = printable(outcome.error.reply_text)
    return Difference(entity, state, detail)
