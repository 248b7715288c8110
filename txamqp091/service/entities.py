# -*- test-case-name: txamqp091.test.unit.service.test_entities -*-
"""
Exchanges, queues and bindings as data: `Exchange`, `Queue` and `Binding`.  What a
broker has answered about one of them is an `EntityOutcome` or a `Difference`.
"""

from __future__ import annotations

import enum
import itertools
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from twisted.internet.defer import TimeoutError

from txamqp091.errors import printable

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
    :ivar optional: the arguments that a policy of the broker can set as well: a queue
        that exists without them, or with other values, is used as it is.
    """

    name: str = ""
    durable: bool | None = None
    exclusive: bool = False
    auto_delete: bool = False
    arguments: Arguments = field(default_factory=dict, hash=False)
    label: str = ""
    optional: frozenset[str] = field(default=frozenset(), compare=False, repr=False)

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


@dataclass(frozen=True)
class EntityOutcome:
    """
    What became of one entity.

    :ivar entity: the exchange, the queue or the binding.
    :ivar error: why it does not stand, or None if it does.
    :ivar name: the name of a queue; the broker may have made it up.
    :ivar unverified: why the broker neither declared the entity nor told whether it
        exists, as the user has no permission to ask; the service assumes that it does.
        Otherwise None.
    """

    entity: Entity
    error: BaseException | None = None
    name: str = ""
    unverified: BaseException | None = None

    def __str__(self) -> str:
        if self.unverified is not None:
            reason = printable(str(self.unverified))
            return f"{self.entity} is assumed to exist: {reason}"
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


class EntityState(enum.Enum):
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
    state: EntityState
    detail: str = ""

    def __str__(self) -> str:
        detail = f" ({self.detail})" if self.detail else ""
        return f"{self.entity}: {self.state.value}{detail}"
