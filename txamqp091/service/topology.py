# -*- test-case-name: txamqp091.test.unit.service.test_topology -*-
"""
A set of exchanges, queues and bindings: `Topology`, and its `Declaration` on a broker.

Theory.  A declaration that fails closes its channel, and fails all later requests on
that channel.  So `Declaration` uses channels of its own: it sends all requests at once,
and after a failure sends the rest on another channel.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, fields
from difflib import get_close_matches
from typing import Any

from twisted.internet.defer import CancelledError, Deferred, TimeoutError
from twisted.logger import Logger

from txamqp091.channel import Channel
from txamqp091.errors import (
    AccessRefused,
    ChannelClosed,
    Closed,
    HandshakeTimeout,
    LocalProtocolError,
    NotFound,
    PreconditionFailed,
    printable,
)
from txamqp091.protocol import AMQPProtocol
from txamqp091.service.broker_quirks import STEP_TIMEOUT
from txamqp091.service.entities import (
    Binding,
    Difference,
    Entity,
    EntityOutcome,
    EntityState,
    Exchange,
    Queue,
)
from txamqp091.wire import spec

_log = Logger(namespace="txamqp091.service")

Call = Callable[[Channel], Deferred[Any]]


@dataclass(frozen=True, kw_only=True)
class Topology:
    """
    What should be there.  It does not change: the methods below make another one.
    """

    exchanges: tuple[Exchange, ...] = ()
    queues: tuple[Queue, ...] = ()
    bindings: tuple[Binding, ...] = ()

    def __post_init__(self) -> None:
        for name, kind in _KINDS.items():
            entities = tuple(getattr(self, name))
            object.__setattr__(self, name, entities)
            for each in entities:
                if not isinstance(each, kind):
                    raise TypeError(f"among the {name} is {each!r}")
        _check_unique("exchange", (each.name for each in self.exchanges))
        _check_unique("queue", (each.key for each in self.queues))

    def __iter__(self) -> Iterator[Entity]:
        """
        All of it, in the order in which it is declared.
        """
        return iter((*self.exchanges, *self.queues, *self.bindings))

    def __contains__(self, entity: object) -> bool:
        return any(each == entity for each in self)

    def __len__(self) -> int:
        return len(self.exchanges) + len(self.queues) + len(self.bindings)

    @classmethod
    def of(cls, *entities: Entity) -> Topology:
        """
        A topology of these, in any order.
        """
        return cls(
            exchanges=tuple(each for each in entities if isinstance(each, Exchange)),
            queues=tuple(each for each in entities if isinstance(each, Queue)),
            bindings=tuple(each for each in entities if isinstance(each, Binding)),
        )

    def with_(self, *entities: Entity) -> Topology:
        """
        This one and these.  Where there is one of the same name, the new one counts.
        """
        found = {_key(each): each for each in self}
        found |= {_key(each): each for each in entities}
        return Topology.of(*found.values())

    def without(self, *entities: Entity) -> Topology:
        """
        This one without these, and without the bindings from and to them.
        """
        gone = {_key(each) for each in entities}
        return Topology.of(
            *(
                each
                for each in self
                if _key(each) not in gone
                and not (isinstance(each, Binding) and _ends(each) & gone)
            )
        )

    def queue(self, name: str) -> Queue | None:
        """
        The queue of that name, or label.
        """
        return next((each for each in self.queues if each.key == name), None)

    def behind(self, exchange: str, routing_key: str) -> Topology:
        """
        What a message needs on its way: the exchange, all that is bound to it, and what
        is behind that, the dead-letter exchanges of its queues included; for the
        default exchange, the queue.
        """
        if not exchange:
            return self.around(routing_key)
        exchanges = [exchange]
        queues: set[str] = set()
        for name in exchanges:  # it grows
            for binding in self.bindings:
                if binding.source != name:
                    continue
                following = [binding.exchange]
                queue = self.queue(binding.queue)
                if queue is not None:
                    queues.add(queue.key)
                    following.append(queue.arguments.get("x-dead-letter-exchange", ""))
                exchanges += [
                    each for each in following if each and each not in exchanges
                ]
        return Topology.of(
            *(each for each in self.exchanges if each.name in exchanges),
            *(each for each in self.queues if each.key in queues),
            *(each for each in self.bindings if each.source in exchanges),
        )

    def around(self, queue: str) -> Topology:
        """
        What a queue needs to be as described: itself, the bindings to it, and their
        exchanges.
        """
        bindings = [each for each in self.bindings if each.queue == queue]
        sources = {each.source for each in bindings}
        exchanges = [each for each in self.exchanges if each.name in sources]
        queues = [each for each in self.queues if each.key == queue]
        return Topology.of(*exchanges, *queues, *bindings)

    # -- as plain data -----------------------------------------------------------

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Topology:
        """
        A topology from plain data, such as a file has::

            {"exchanges": [{"name": "orders", "type": "topic"}],
             "queues": [{"name": "work"}],
             "bindings": [{"source": "orders", "queue": "work", "routing_key": "#"}]}

        :raises ValueError: something in it is not understood; it says what, and where.
        """
        found: list[Entity] = []
        for name in data:
            if name not in _KINDS:
                raise ValueError(_unknown(name, "topology", list(_KINDS)))
        for name, kind in _KINDS.items():
            entries = data.get(name, ())
            if not isinstance(entries, list | tuple):
                raise ValueError(f"{name}: a list, not {entries!r}")
            for place, entry in enumerate(entries):
                found.append(_entity(kind, entry, f"{name}[{place}]"))
        return cls.of(*found)

    def to_dict(self) -> dict[str, list[dict[str, Any]]]:
        """
        The same as plain data.
        """
        return {
            name: [
                {
                    each.name: getattr(entity, each.name)
                    for each in fields(entity)
                    if each.compare
                }
                for entity in getattr(self, name)
            ]
            for name in _KINDS
        }

    # -- with a broker -------------------------------------------------------------

    def apply(self, connection: AMQPProtocol) -> Deferred[list[EntityOutcome]]:
        """
        Declare all of it.  A failure does not keep the rest from being declared.  An
        exchange or a queue that the user may not declare is accepted if it exists,
        whatever its arguments are; where the broker does not even say whether it
        exists, the log warns, and it is taken to exist.

        :returns: fires with an outcome for each entity, in the order of iteration;
            fails with the reason when the connection ends first.
        """
        return Declaration(connection, self).apply()

    def delete(self, connection: AMQPProtocol) -> Deferred[list[EntityOutcome]]:
        """
        Delete all of it: bindings first, then queues and exchanges.  Queues without a
        name are passed over: they are known only to who has declared them.

        :returns: as `apply`.
        """
        return Declaration(connection, self).delete()

    def diff(
        self, connection: AMQPProtocol, *, compare: bool = True
    ) -> Deferred[list[Difference]]:
        """
        Compare with a broker, and change nothing.  AMQP cannot ask for bindings: for
        those it is only said that it is not known.

        :param compare: see also whether what is there is as described.  For that it is
            declared once more, which does nothing, unless it has been deleted at that
            very moment; so what goes by itself, as it is exclusive or ``auto_delete``,
            is not compared.
        :returns: fires with what there is to say of each entity, in the order of
            iteration; fails with the reason when the connection ends first.
        """
        return Declaration(connection, self).diff(compare)


_KINDS: dict[str, type[Entity]] = {
    "exchanges": Exchange,
    "queues": Queue,
    "bindings": Binding,
}


def _check_unique(what: str, names: Iterable[str]) -> None:
    seen: set[str] = set()
    for name in names:
        if name in seen:
            raise ValueError(f"the {what} {name!r} is there more than once")
        seen.add(name)


def _key(entity: Entity) -> object:
    """
    What two entities have in common if there can be only one of them.
    """
    if isinstance(entity, Exchange):
        return "exchange", entity.name
    if isinstance(entity, Queue):
        return "queue", entity.key
    return entity, repr(sorted(entity.arguments.items()))


def _ends(binding: Binding) -> set[object]:
    ends: set[object] = {("exchange", binding.source)}
    ends.add(
        ("queue", binding.queue) if binding.queue else ("exchange", binding.exchange)
    )
    return ends


def _entity(kind: type[Entity], entry: object, where: str) -> Entity:
    if not isinstance(entry, Mapping):
        raise ValueError(f"{where}: a table, not {entry!r}")
    known = [each.name for each in fields(kind) if each.compare]
    for name in entry:
        if name not in known:
            raise ValueError(_unknown(name, where, known))
    try:
        return kind(**entry)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{where}: {error}") from None


def _unknown(name: object, where: str, known: list[str]) -> str:
    near = get_close_matches(str(name), known, 1)
    advice = f"; did you mean {near[0]}?" if near else ""
    return f"{where}: {name!r} is unknown{advice}"


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

    def apply(self) -> Deferred[list[EntityOutcome]]:
        """
        See `Topology.apply`.
        """
        return Deferred.fromCoroutine(self._apply())

    def delete(self) -> Deferred[list[EntityOutcome]]:
        """
        See `Topology.delete`.
        """
        return Deferred.fromCoroutine(self._delete())

    def diff(self, compare: bool) -> Deferred[list[Difference]]:
        """
        See `Topology.diff`.
        """
        return Deferred.fromCoroutine(self._diff(compare))

    async def _apply(self) -> list[EntityOutcome]:
        topology = self._topology
        # The bindings need the names of the queues.
        made = await self._run([*topology.exchanges, *topology.queues], self._declare)
        made = await self._use_existing(made)
        bound = await self._run([*topology.bindings], self._bind)
        return made + bound

    async def _use_existing(self, made: list[EntityOutcome]) -> list[EntityOutcome]:
        """
        Take what the user may not declare, and a queue that differs in optional
        arguments alone, as it is, if it exists.
        """
        refused = [each.entity for each in made if _may_not_declare(each)]
        other = {_id(each): each.error for each in made if _has_other_arguments(each)}
        refused += [each.entity for each in made if _id(each) in other]
        found: dict[int, EntityOutcome] = {}
        for each in await self._run(refused, self._ask):
            if each.ok and _id(each) in other:
                found[_id(each)] = EntityOutcome(each.entity, None, each.name)
                _warn_of_arguments(each.entity, other[_id(each)])
                continue
            unverified = None
            if each.ok:
                text = "which exists; the service uses it as it is"
            elif isinstance(each.error, AccessRefused):
                # RabbitMQ 4.3 wants the same permission for a passive declaration.  If
                # it is missing, whoever consumes from it or publishes to it is told.
                text = "nor ask whether it exists; the service assumes that it does"
                unverified = each.error
            else:
                continue
            found[_id(each)] = EntityOutcome(each.entity, None, each.name, unverified)
            _log.warn(
                "The user may not declare the {entity}, {text}",
                entity=str(each.entity),
                text=text,
            )
        return [found.get(_id(each), each) for each in made]

    async def _delete(self) -> list[EntityOutcome]:
        topology = self._topology
        entities: list[Entity] = [
            *topology.bindings,
            *topology.queues,
            *topology.exchanges,
        ]
        known = [each for each in entities if self._is_known(each)]
        found = {_id(each): each for each in await self._run(known, self._remove)}
        return [found.get(id(each), EntityOutcome(each)) for each in topology]

    async def _diff(self, compare: bool) -> list[Difference]:
        topology = self._topology
        named = [*topology.exchanges, *(each for each in topology.queues if each.name)]
        asked = await self._run(named, self._ask)
        there = [each.entity for each in asked if each.ok and _stays(each.entity)]
        compared: list[EntityOutcome] = []
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
    ) -> list[EntityOutcome]:
        """
        Do one thing to each of many entities.

        :raises AMQPError: why the connection has ended.
        """
        outcomes: list[EntityOutcome] = []
        while len(outcomes) < len(entities):
            rest = entities[len(outcomes) :]
            outcomes += await self._run_on_channel(rest, verb)
        return outcomes

    async def _run_on_channel(
        self, entities: list[Entity], verb: Callable[[Any], Call]
    ) -> list[EntityOutcome]:
        """
        The same, on one channel, which means: up to the first that fails.
        """
        outcomes: list[EntityOutcome] = []
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
                raise problem.with_traceback(None)
            return verb(entity)(channel)
        except Exception as error:
            failed: Deferred[Any] = Deferred()
            failed.errback(error)
            return failed

    async def _outcome(self, entity: Entity, reply: Deferred[Any]) -> EntityOutcome:
        name = entity.name if isinstance(entity, Queue) else ""
        try:
            answer = await self._in_time(reply)
        except CancelledError:
            raise
        except Exception as error:
            if not self._connection.is_open:
                self._blame(entity, error)
                raise
            return EntityOutcome(entity, error, name)
        if isinstance(answer, spec.QueueDeclareOk) and isinstance(entity, Queue):
            name = self._names[entity.key] = answer.queue
        return EntityOutcome(entity, None, name)

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


def _id(outcome: EntityOutcome) -> int:
    return id(outcome.entity)


def _may_not_declare(outcome: EntityOutcome) -> bool:
    """
    Whether the user has no permission to declare an entity, which may exist.
    """
    return isinstance(outcome.error, AccessRefused) and bool(
        getattr(outcome.entity, "name", "")
    )


def _has_other_arguments(outcome: EntityOutcome) -> bool:
    """
    Whether a queue exists, and differs in an optional argument.
    """
    if not isinstance(outcome.error, PreconditionFailed):
        return False
    optional = getattr(outcome.entity, "optional", ())
    return any(f"arg '{name}'" in outcome.error.reply_text for name in optional)


def _warn_of_arguments(entity: Entity, error: BaseException | None) -> None:
    """
    Log how to give a queue that exists the arguments that it lacks.
    """
    assert isinstance(entity, Queue)
    policy = {
        name.removeprefix("x-"): value
        for name, value in entity.arguments.items()
        if name in entity.optional
    }
    _log.warn(
        "The {entity} exists with other arguments; the service uses it as it is "
        "({error}).  To change them without deleting it, set a policy: rabbitmqctl "
        "set_policy --apply-to queues NAME '{pattern}' '{policy}'",
        entity=str(entity),
        error=printable(getattr(error, "reply_text", "")),
        pattern=f"^{re.escape(entity.name)}$",
        policy=json.dumps(policy),
    )


def _stays(entity: Entity) -> bool:
    """
    Whether an entity is there until somebody deletes it.
    """
    if isinstance(entity, Queue):
        expires = "x-expires" in entity.arguments
        return not (entity.exclusive or entity.auto_delete or expires)
    return isinstance(entity, Exchange) and not entity.auto_delete


def _difference(entity: Entity, outcome: EntityOutcome | None) -> Difference:
    if outcome is None:
        return Difference(entity, EntityState.UNKNOWN)
    if outcome.error is None:
        return Difference(entity, EntityState.PRESENT)
    state = EntityState.UNKNOWN
    if isinstance(outcome.error, NotFound):
        state = EntityState.MISSING
    elif isinstance(outcome.error, PreconditionFailed):
        state = EntityState.DIFFERENT
    detail = printable(str(outcome.error))
    if isinstance(outcome.error, ChannelClosed):
        detail = printable(outcome.error.reply_text)
    return Difference(entity, state, detail)
