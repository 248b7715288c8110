# -*- test-case-name: txamqp091.test.unit.service.test_topology -*-
"""
Topology as data: exchanges, queues and bindings, and a `Topology` of them.

The same objects say what is to be declared, what is to come back after a reconnect,
and what a broker is compared with.  How a broker is told is in
`txamqp091.service.declaration`.
"""

from __future__ import annotations

__all__ = ["Arguments", "Binding", "Entity", "Exchange", "Queue", "Topology"]

import itertools
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, fields
from difflib import get_close_matches
from typing import TYPE_CHECKING, Any, TypeAlias

from twisted.internet.defer import Deferred

from txamqp091.protocol import AMQPProtocol

if TYPE_CHECKING:
    from txamqp091.service.declaration import Difference, Outcome

#: The arguments of a declaration: `txamqp091.arguments` has typed ones.
Arguments = Mapping[str, Any]

_labels = itertools.count(1)


@dataclass(frozen=True, kw_only=True)
class Exchange:
    """
    An exchange that should be there.

    :ivar name: its name.
    :ivar type: ``direct``, ``fanout``, ``topic``, ``headers``, or one that a plugin
        adds.
    :ivar durable: it outlives a restart of the broker.
    :ivar auto_delete: it goes when its last binding does, and comes back when the
        topology is applied again.
    :ivar internal: only other exchanges may publish to it.
    """

    name: str
    type: str = "direct"
    durable: bool = True
    auto_delete: bool = False
    internal: bool = False
    arguments: Arguments = field(default_factory=dict, hash=False)

    def __post_init__(self) -> None:
        _check(self, name=str, type=str)
        _check(self, durable=bool, auto_delete=bool, internal=bool, arguments=Mapping)
        if not self.name:
            raise ValueError("an exchange has a name; the one without is always there")

    def __str__(self) -> str:
        return f"exchange {self.name!r}"


@dataclass(frozen=True, kw_only=True)
class Queue:
    """
    A queue that should be there.

    :ivar name: its name; "" has the broker make one up, anew for each connection.
    :ivar durable: it outlives a restart of the broker.  By default it does, unless it
        is exclusive.
    :ivar exclusive: it is for one connection, ends with it, and is made again for the
        next.
    :ivar auto_delete: it goes when its last consumer does.
    :ivar arguments: more, such as its type: see `txamqp091.arguments`.
    :ivar label: what a queue is known by here whose name the broker makes up; by
        default, a number.
    """

    name: str = ""
    durable: bool | None = None
    exclusive: bool = False
    auto_delete: bool = False
    arguments: Arguments = field(default_factory=dict, hash=False)
    label: str = ""

    def __post_init__(self) -> None:
        _check(self, name=str, exclusive=bool, auto_delete=bool, label=str)
        _check(self, arguments=Mapping)
        if self.durable is None:
            object.__setattr__(self, "durable", not self.exclusive)
        _check(self, durable=bool)
        if self.name and self.label:
            raise ValueError(f"the queue {self.name!r} needs no label: it has a name")
        if not self.name and not self.label:
            object.__setattr__(self, "label", f"#{next(_labels)}")

    def __str__(self) -> str:
        return (
            f"queue {self.name!r}" if self.name else f"queue without a name {self.key}"
        )

    @property
    def key(self) -> str:
        """
        What it is known by: its name, or its label.
        """
        return self.name or self.label

    @property
    def is_stream(self) -> bool:
        """
        Whether it is a stream.
        """
        return self.arguments.get("x-queue-type") == "stream"


@dataclass(frozen=True, init=False)
class Binding:
    """
    A way that messages should take: from an exchange to a queue, or to another
    exchange.

    :ivar source: the exchange that passes messages on.
    :ivar queue: the queue that gets them: its name, or its label; or...
    :ivar exchange: ... the exchange that gets them.
    """

    source: str
    queue: str = ""
    exchange: str = ""
    routing_key: str = ""
    arguments: Arguments = field(default_factory=dict, hash=False)

    def __init__(
        self,
        *,
        source: str | Exchange,
        queue: str | Queue = "",
        exchange: str | Exchange = "",
        routing_key: str = "",
        arguments: Arguments | None = None,
    ) -> None:
        """
        :param source: an exchange, or its name; so are the others.
        """
        set_field = object.__setattr__
        set_field(self, "source", getattr(source, "name", source))
        set_field(self, "queue", getattr(queue, "key", queue))
        set_field(self, "exchange", getattr(exchange, "name", exchange))
        set_field(self, "routing_key", routing_key)
        set_field(self, "arguments", {} if arguments is None else arguments)
        _check(self, source=str, queue=str, exchange=str, routing_key=str)
        _check(self, arguments=Mapping)
        if not self.source:
            raise ValueError("a binding has a source; the default exchange has none")
        if bool(self.queue) == bool(self.exchange):
            raise ValueError("a binding leads to a queue or to an exchange: give one")

    def __str__(self) -> str:
        target = (
            f"queue {self.queue!r}" if self.queue else f"exchange {self.exchange!r}"
        )
        return f"binding of {self.source!r} to {target} with {self.routing_key!r}"


Entity: TypeAlias = Exchange | Queue | Binding


def _check(entity: object, **kinds: type) -> None:
    for name, kind in kinds.items():
        value = getattr(entity, name)
        if not isinstance(value, kind):
            raise TypeError(f"{name} is {value!r}, not a {kind.__name__}")


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
                {each.name: getattr(entity, each.name) for each in fields(entity)}
                for entity in getattr(self, name)
            ]
            for name in _KINDS
        }

    # -- with a broker -------------------------------------------------------------

    def apply(self, connection: AMQPProtocol) -> Deferred[list[Outcome]]:
        """
        Declare all of it.  What fails does not keep the rest from being declared.

        :returns: fires with what became of each entity, in the order of iteration;
            fails with the reason when the connection ends first.
        """
        from txamqp091.service.declaration import Declaration

        return Declaration(connection, self).apply()

    def delete(self, connection: AMQPProtocol) -> Deferred[list[Outcome]]:
        """
        Delete all of it: bindings first, then queues and exchanges.  Queues without a
        name are passed over: they are known only to who has declared them.

        :returns: as `apply`.
        """
        from txamqp091.service.declaration import Declaration

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
        from txamqp091.service.declaration import Declaration

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
    known = [each.name for each in fields(kind)]
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
