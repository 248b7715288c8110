# -*- test-case-name: txamqp091.test.unit.testing.test_exchanges -*-
"""
The exchanges of the in-memory broker, and how each type routes a message.

Each type has a table of bindings, which finds the destinations of a message without
looking at other bindings; only the one of headers exchanges looks at all of them.  An
`Exchange` routes one step; `txamqp091.testing._broker.vhosts` follows the steps to the
queues.
"""

from __future__ import annotations

import bisect
import itertools
import re
import zlib
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, NamedTuple, Protocol, TypeAlias, Union

from txamqp091.testing._broker.messages import Message, read_property
from txamqp091.testing._broker.refusals import (
    binary,
    broker_fails,
    field_type,
    precondition,
)
from txamqp091.wire.types import FieldValue

if TYPE_CHECKING:
    from txamqp091.testing._broker.queues import AnyQueue

__all__ = ["Binding", "Destination", "Exchange", "RoutingTable"]

#: What a message can be passed on to.
Destination: TypeAlias = Union["AnyQueue", "Exchange"]

Arguments: TypeAlias = Mapping[str, FieldValue]


class Binding(NamedTuple):
    """
    One binding.  Two with the same arguments are the same.
    """

    destination: Destination
    routing_key: str
    arguments: tuple[tuple[str, str], ...]

    @classmethod
    def of(
        cls, destination: Destination, routing_key: str, arguments: Arguments
    ) -> Binding:
        """
        A binding, with arguments as they came.
        """
        frozen = sorted((name, repr(value)) for name, value in arguments.items())
        return cls(destination, routing_key, tuple(frozen))


class RoutingTable(Protocol):
    """
    The bindings of an exchange of one type, arranged to be looked up.
    """

    def add(self, binding: Binding, arguments: Arguments) -> None:
        """
        There is a new binding.
        """

    def remove(self, binding: Binding) -> None:
        """
        A binding has gone.
        """

    def find(self, message: Message, headers: Arguments) -> Iterable[Destination]:
        """
        The destinations of a message; some may come up more than once.

        :param headers: the message's.
        """


class DirectTable:
    """
    The routing key is that of the binding.
    """

    def __init__(self) -> None:
        self._keys: dict[str, Counter[Destination]] = {}

    def add(self, binding: Binding, arguments: Arguments) -> None:
        self._keys.setdefault(binding.routing_key, Counter())[binding.destination] += 1

    def remove(self, binding: Binding) -> None:
        found = self._keys[binding.routing_key]
        _take_one(found, binding.destination)
        if not found:
            del self._keys[binding.routing_key]

    def find(self, message: Message, headers: Arguments) -> Iterable[Destination]:
        for key in message.routing_keys:
            yield from self._keys.get(key, ())


class FanoutTable:
    """
    Everybody gets everything.
    """

    def __init__(self) -> None:
        self._all: Counter[Destination] = Counter()

    def add(self, binding: Binding, arguments: Arguments) -> None:
        self._all[binding.destination] += 1

    def remove(self, binding: Binding) -> None:
        _take_one(self._all, binding.destination)

    def find(self, message: Message, headers: Arguments) -> Iterable[Destination]:
        return self._all


class _Word:
    """
    A place in the tree of patterns: what follows each word, and who is bound by the
    pattern that ends here.
    """

    __slots__ = ("bound", "next", "takes_more")

    def __init__(self, word: str) -> None:
        self.next: dict[str, _Word] = {}
        self.bound: Counter[Destination] = Counter()
        self.takes_more = word == "#"


class TopicTable:
    """
    The routing key fits the pattern of the binding, word by word: ``*`` stands for one
    word, ``#`` for any number of them.
    """

    def __init__(self) -> None:
        self._root = _Word("")

    def add(self, binding: Binding, arguments: Arguments) -> None:
        place = self._root
        for word in _words(binding.routing_key):
            place = place.next.setdefault(word, _Word(word))
        place.bound[binding.destination] += 1

    def remove(self, binding: Binding) -> None:
        words = _words(binding.routing_key)
        path = [self._root]
        for word in words:
            path.append(path[-1].next[word])
        _take_one(path[-1].bound, binding.destination)
        for word in reversed(words):
            place = path.pop()
            if place.bound or place.next:
                break
            del path[-1].next[word]

    def find(self, message: Message, headers: Arguments) -> Iterable[Destination]:
        for key in message.routing_keys:
            # The places in the tree where the words so far may have led.  A word
            # costs at most the size of the tree, whatever the patterns are.
            places = _with_hashes([self._root])
            for word in _words(key):
                places = _with_hashes(_step(places, word))
            for place in places:
                yield from place.bound


def _step(places: Iterable[_Word], word: str) -> list[_Word]:
    """
    Where one word leads from these places.
    """
    reached = []
    for place in places:
        reached += [place.next[each] for each in (word, "*") if each in place.next]
        if place.takes_more:
            reached.append(place)
    return reached


def _with_hashes(places: list[_Word]) -> list[_Word]:
    """
    The places, and those to which a ``#`` that stands for no word leads from them.
    """
    known = dict.fromkeys(places)
    waiting = list(known)
    for place in waiting:
        after = place.next.get("#")
        if after is not None and after not in known:
            known[after] = None
            waiting.append(after)
    return waiting


def _words(key: str) -> list[str]:
    # To RabbitMQ an empty key has no words, not an empty one.
    return key.split(".") if key else []


#: For ``x-match``: whether one header is enough, and whether those with a name that
#: begins with ``x-`` count.
_MATCHES = {
    "all": (False, False),
    "any": (True, False),
    "all-with-x": (False, True),
    "any-with-x": (True, True),
}


class HeadersTable:
    """
    The headers of the message are those of the binding: all of them, or any.
    """

    def __init__(self) -> None:
        self._bindings: dict[Binding, tuple[bool, dict[str, FieldValue]]] = {}

    def add(self, binding: Binding, arguments: Arguments) -> None:
        match = arguments.get("x-match", "all")
        if not isinstance(match, str):
            raise precondition(
                f"Invalid x-match field type {field_type(match)} (value "
                f"{_term(match)}); expected longstr"
            )
        if match not in _MATCHES:
            raise precondition(
                f"Invalid x-match field value {binary(match)}; expected all, any, "
                "all-with-x, or any-with-x"
            )
        any_will_do, with_x = _MATCHES[match]
        wanted = {
            name: value
            for name, value in arguments.items()
            if name != "x-match" and (with_x or not name.startswith("x-"))
        }
        self._bindings[binding] = any_will_do, wanted

    def remove(self, binding: Binding) -> None:
        del self._bindings[binding]

    def find(self, message: Message, headers: Arguments) -> Iterable[Destination]:
        for binding, (any_will_do, wanted) in self._bindings.items():
            fits = (_fits(name, value, headers) for name, value in wanted.items())
            if any(fits) if any_will_do else all(fits):
                yield binding.destination


def _term(value: FieldValue) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def _fits(name: str, wanted: FieldValue, headers: Arguments) -> bool:
    if name not in headers:
        return False
    # A binding without a value asks only whether the header is there.
    return wanted is None or _same(wanted, headers[name])


def _same(one: FieldValue, other: FieldValue) -> bool:
    # True is not 1 there, and neither is 1.0.
    return field_type(one) == field_type(other) and one == other


def _take_one(counter: Counter[Destination], destination: Destination) -> None:
    counter[destination] -= 1
    if not counter[destination]:
        del counter[destination]


class LocalRandomTable:
    """
    One of the bound queues gets the message.  RabbitMQ chooses one at random; here they
    take turns.
    """

    def __init__(self) -> None:
        self._bindings: dict[Binding, None] = {}

    def add(self, binding: Binding, arguments: Arguments) -> None:
        if binding.routing_key:
            raise precondition(
                f"Non empty binding '{binding.routing_key}' key not permitted"
            )
        if isinstance(binding.destination, Exchange):
            raise precondition("Destination not found")
        kind = binding.destination.settings.type
        if kind != "classic":
            raise precondition(
                f"Queue type rabbit_{kind}_queue not valid for this exchange type"
            )
        self._bindings[binding] = None

    def remove(self, binding: Binding) -> None:
        del self._bindings[binding]

    def find(self, message: Message, headers: Arguments) -> Iterable[Destination]:
        for binding in self._bindings:
            del self._bindings[binding]
            self._bindings[binding] = None
            return [binding.destination]
        return []


class ModulusHashTable:
    """
    The routing key decides which one of the bindings gets the message, whatever their
    own keys are.
    """

    def __init__(self) -> None:
        self._bindings: dict[Binding, None] = {}

    def add(self, binding: Binding, arguments: Arguments) -> None:
        self._bindings[binding] = None

    def remove(self, binding: Binding) -> None:
        del self._bindings[binding]

    def find(self, message: Message, headers: Arguments) -> Iterable[Destination]:
        if not self._bindings:
            return []
        found = sorted(self._bindings, key=lambda each: each.destination.name)
        place = _hash(message.routing_keys) % len(found)
        return [found[place].destination]


class ConsistentHashTable:
    """
    The routing key, a header or a property decides which one of the destinations gets
    the message.  The key of a binding is the weight of its destination.
    """

    def __init__(self, arguments: Arguments) -> None:
        """
        :param arguments: the exchange's.
        """
        self._header = _hash_argument(arguments, "hash-header")
        self._property = _hash_argument(arguments, "hash-property")
        if self._property is not None:
            if self._header is not None:
                raise precondition(
                    "hash-header and hash-property are mutually exclusive"
                )
            if self._property not in _HASHED_PROPERTIES:
                raise precondition(f"Unsupported property: {self._property}")
        self._weights: dict[Destination, int] = {}

    def add(self, binding: Binding, arguments: Arguments) -> None:
        key = binding.routing_key
        if not _WHOLE_NUMBER.fullmatch(key):
            raise precondition(f"The binding key must be an integer: {binary(key)}")
        if int(key) < 1:
            raise precondition("The binding key must be greater than 0")
        # Of several bindings of a destination, the first one counts.
        self._weights.setdefault(binding.destination, int(key))

    def remove(self, binding: Binding) -> None:
        self._weights.pop(binding.destination, None)

    def find(self, message: Message, headers: Arguments) -> Iterable[Destination]:
        if not self._weights:
            return []
        value: object = message.routing_keys
        if self._header is not None:
            value = headers.get(self._header)
        elif self._property is not None:
            value = read_property(message.properties, self._property)
        ends = list(itertools.accumulate(self._weights.values()))
        bucket = _jump(_hash(value), ends[-1])
        return [list(self._weights)[bisect.bisect_right(ends, bucket)]]


_WHOLE_NUMBER = re.compile("[+-]?[0-9]+")
_HASHED_PROPERTIES = ("correlation_id", "message_id", "timestamp")


def _hash_argument(arguments: Arguments, name: str) -> str | None:
    value = arguments.get(name)
    if value is None or isinstance(value, str):
        return value
    raise broker_fails()


def _hash(value: object) -> int:
    """
    A number that is the same in every run.
    """
    return zlib.crc32(repr(value).encode("utf-8", "surrogateescape"))


def _jump(key: int, count: int) -> int:
    """
    The bucket of a key, by jump consistent hashing: of all keys, as few as possible
    change their bucket when there is one more.
    """
    bucket, following = 0, 0
    while following < count:
        bucket = following
        key = (key * 2862933555777941757 + 1) % (1 << 64)
        following = int((bucket + 1) * (1 << 31) / ((key >> 33) + 1))
    return bucket


#: The types of exchanges that have no arguments of their own.
_TABLES: Mapping[str, Callable[[], RoutingTable]] = {
    "direct": DirectTable,
    "fanout": FanoutTable,
    "topic": TopicTable,
    "headers": HeadersTable,
    "x-local-random": LocalRandomTable,
    "x-modulus-hash": ModulusHashTable,
}


def _table(type: str, arguments: Arguments) -> RoutingTable:
    if type == "x-consistent-hash":
        return ConsistentHashTable(arguments)
    return _TABLES[type]()


class Exchange:
    """
    An exchange, with its bindings.

    :ivar name: its name; that of the default exchange is empty.
    :ivar alternate: the name of the exchange that gets what this one has nobody for,
        or None.
    :ivar sources: the exchanges that pass messages on to this one.
    """

    def __init__(
        self,
        name: str,
        type: str = "direct",
        *,
        durable: bool = True,
        auto_delete: bool = False,
        internal: bool = False,
        arguments: Arguments | None = None,
    ) -> None:
        self.name = name
        self.type = type
        self.durable = durable
        self.auto_delete = auto_delete
        self.internal = internal
        self.arguments = dict(arguments or {})
        alternate = self.arguments.get("alternate-exchange")
        self.alternate = alternate if isinstance(alternate, str) else None
        self.sources: dict[Exchange, None] = {}
        self._bindings: dict[Binding, None] = {}
        self._bound: dict[Destination, dict[Binding, None]] = {}
        self._table = _table(type, self.arguments)

    def __repr__(self) -> str:
        return f"<Exchange {self.name!r}, {self.type}>"

    @property
    def bindings(self) -> list[Binding]:
        """
        The bindings, in the order in which they were made.
        """
        return list(self._bindings)

    @property
    def in_use(self) -> bool:
        """
        Whether anything is bound to it.
        """
        return bool(self._bindings)

    def bind(
        self, destination: Destination, routing_key: str, arguments: Arguments
    ) -> None:
        """
        Pass messages on to a destination.  Doing it again changes nothing.

        :raises Refused: the arguments make no sense to this type.
        """
        binding = Binding.of(destination, routing_key, arguments)
        if binding not in self._bindings:
            self._table.add(binding, arguments)
            self._bindings[binding] = None
            self._bound.setdefault(destination, {})[binding] = None
            destination.sources[self] = None

    def unbind(
        self, destination: Destination, routing_key: str, arguments: Arguments
    ) -> bool:
        """
        Undo `bind`.

        :returns: whether there was such a binding.
        """
        binding = Binding.of(destination, routing_key, arguments)
        if binding not in self._bindings:
            return False
        self._drop(binding)
        return True

    def forget(self, destination: Destination) -> None:
        """
        A destination is gone, and all bindings to it with it.
        """
        for binding in list(self._bound.get(destination, ())):
            self._drop(binding)

    def _drop(self, binding: Binding) -> None:
        destination = binding.destination
        del self._bindings[binding]
        bound = self._bound[destination]
        del bound[binding]
        if not bound:
            del self._bound[destination]
            del destination.sources[self]
        self._table.remove(binding)

    def release(self) -> list[Destination]:
        """
        The exchange is gone.

        :returns: what was bound to it.
        """
        destinations = list(self._bound)
        for destination in destinations:
            self.forget(destination)
        return destinations

    def find(self, message: Message, headers: Arguments) -> dict[Destination, None]:
        """
        The destinations of a message, each once, in order.

        :param headers: the message's.
        """
        return dict.fromkeys(self._table.find(message, headers))
