# -*- test-case-name: txamqp091.test.unit.service.test_addresses -*-
"""
Tests for `txamqp091.service.addresses`: several places to connect to.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any, cast

from twisted.internet.defer import CancelledError, Deferred, fail, succeed
from twisted.internet.error import ConnectionRefusedError, DNSLookupError
from twisted.internet.interfaces import IReactorTime, IStreamClientEndpoint
from twisted.internet.task import Clock
from twisted.names.common import ResolverBase
from twisted.names.dns import Record_A, Record_SRV, RRHeader
from twisted.trial.unittest import SynchronousTestCase
from zope.interface import implementer

from txamqp091.credentials import PlainCredentials
from txamqp091.errors import (
    AuthenticationFailed,
    ConnectFailed,
    InvalidURI,
    TLSFailed,
)
from txamqp091.parameters import ConnectionParameters, TLSParameters
from txamqp091.protocol import AMQPProtocol
from txamqp091.service.addresses import Address, Addresses, SRVRecords
from txamqp091.service.retry import RetryPolicy
from txamqp091.test.support.service_case import POLICY, Place, ServiceCase


@implementer(IStreamClientEndpoint)
class BlackHole:
    """
    An endpoint that never answers.

    :ivar tries: the attempts.
    """

    def __init__(self) -> None:
        self.tries: list[Deferred[Any]] = []

    def connect(self, protocolFactory: object) -> Deferred[Any]:
        """
        See ``IStreamClientEndpoint``.
        """
        self.tries.append(Deferred())
        return self.tries[-1]


@implementer(IStreamClientEndpoint)
class Wall:
    """
    An endpoint that refuses.

    :ivar tries: how often it was asked.
    """

    def __init__(self) -> None:
        self.tries = 0

    def connect(self, protocolFactory: object) -> Deferred[Any]:
        """
        See ``IStreamClientEndpoint``.
        """
        self.tries += 1
        return fail(ConnectionRefusedError())


class RoundTests(ServiceCase):
    """
    Tests for `Addresses.connect`.
    """

    def setUp(self) -> None:
        """
        Have no chance in the order.
        """
        super().setUp()
        self.tried: list[str] = []
        self.chances: Iterator[float] = iter([])

    def address(self, name: str, endpoint: object, **changes: Any) -> Address:
        """
        An address.
        """
        parameters = ConnectionParameters(host=name, **changes)
        return Address(parameters, endpoint)  # type: ignore[arg-type]

    def addresses(self, *places: Address, order: list[float]) -> Addresses:
        """
        All of them, drawn in this order.
        """
        draws = iter(order)
        policy = replace(POLICY, random=lambda: next(draws, 0.5))
        return Addresses(places, policy)

    def connect(self, addresses: Addresses) -> Deferred[tuple[AMQPProtocol, Address]]:
        """
        Go through them.
        """
        return addresses.connect(
            self.reactor, lambda address: self.tried.append(address.parameters.host)
        )

    def connected(self, connecting: Deferred[Any]) -> str:
        """
        Where a round has led to; the connection is closed again.
        """
        self.turn()
        connection, address = self.successResultOf(connecting)
        connection.close()
        self.turn()
        self.assertEqual(self.broker.sessions, [])
        return cast(str, address.parameters.host)

    def test_order(self) -> None:
        """
        They are tried in random order.
        """
        places = [self.address(name, Wall()) for name in "abc"]
        addresses = self.addresses(*places, order=[0.3, 0.1, 0.2])
        connecting = self.connect(addresses)
        self.turn()
        self.failureResultOf(connecting, ConnectFailed)
        self.assertEqual(self.tried, ["b", "c", "a"])
        self.assertEqual(
            str(addresses), ", ".join(f"amqp://guest@{name}:5672/%2F" for name in "abc")
        )
        self.assertEqual(repr(places[0]), "<Address amqp://guest@a:5672/%2F>")

    def test_refused(self) -> None:
        """
        One that refuses costs nothing.
        """
        addresses = self.addresses(
            self.address("a", Wall()), self.address("b", self.endpoint), order=[0, 1]
        )
        self.assertEqual(self.connected(self.connect(addresses)), "b")

    def test_dead(self) -> None:
        """
        One that does not answer costs two seconds: then the next is tried as well, and
        the first is given up when that has AMQP open.
        """
        dead = BlackHole()
        addresses = self.addresses(
            self.address("a", dead), self.address("b", self.endpoint), order=[0, 1]
        )
        connecting = self.connect(addresses)
        self.passes(1.5)
        self.assertEqual(self.tried, ["a"])
        self.passes(0.5)
        self.assertEqual(self.connected(connecting), "b")
        self.assertTrue(dead.tries[0].called)

    def test_slow(self) -> None:
        """
        One that is only slow can still be the first.
        """
        slow, dead = BlackHole(), BlackHole()
        addresses = self.addresses(
            self.address("a", slow), self.address("b", dead), order=[0, 1]
        )
        connecting = self.connect(addresses)
        self.passes(5)
        self.assertEqual(self.tried, ["a", "b"])
        factory = self.factory_of(addresses)
        self.endpoint.connect(factory).addCallback(slow.tries[0].callback)
        self.assertEqual(self.connected(connecting), "a")
        self.assertTrue(dead.tries[0].called)

    def factory_of(self, addresses: Addresses) -> Any:
        """
        A factory, as an endpoint gets.
        """
        from txamqp091.factory import AMQPClientFactory

        return AMQPClientFactory(clock=self.reactor)

    def test_silent_broker(self) -> None:
        """
        One that accepts the connection and says nothing is as dead.
        """
        silent = Place(self.broker)
        silent.spoil = lambda link: link.hole()
        addresses = self.addresses(
            self.address("a", silent), self.address("b", self.endpoint), order=[0, 1]
        )
        connecting = self.connect(addresses)
        self.passes(2)
        self.assertEqual(self.connected(connecting), "b")
        self.assertFalse(silent.links[0].is_up)

    def test_all_dead(self) -> None:
        """
        When nobody answers, each has the time of a whole handshake.
        """
        addresses = self.addresses(
            self.address("a", BlackHole()), self.address("b", BlackHole()), order=[0, 1]
        )
        connecting = self.connect(addresses)
        self.passes(11)
        self.assertNoResult(connecting)
        self.passes(1)
        self.failureResultOf(connecting)
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_failed_ones_last(self) -> None:
        """
        What has failed lately is tried after the others.
        """
        wall = Wall()
        addresses = self.addresses(
            self.address("a", wall),
            self.address("b", self.endpoint),
            order=[0, 1, 0.5, 0, 1, 0, 1, 0, 1],  # one of them is for the jitter
        )
        self.connected(self.connect(addresses))
        self.assertEqual(wall.tries, 1)
        self.connected(self.connect(addresses))
        self.assertEqual(wall.tries, 1)
        self.passes(4)
        self.connected(self.connect(addresses))
        self.assertEqual(wall.tries, 1)
        self.passes(2)
        self.connected(self.connect(addresses))
        self.assertEqual(wall.tries, 2)

    def test_back_off_grows(self) -> None:
        """
        The more often it has failed, the longer that counts.
        """
        address = self.address("a", Wall())
        error = ConnectFailed("no")
        waits = []
        for _ in range(3):
            address.failed(0.0, POLICY, error)
            waits.append(address.not_before)
        self.assertEqual(waits, [1, 2, 4])
        address.succeeded(10.0)
        self.assertEqual(address.not_before, 0)
        address.failed(100.0, POLICY, error)
        self.assertEqual(address.not_before, 101)

    def test_verdict(self) -> None:
        """
        When all fail, the error is one that may pass, if there is one, and tells of the
        others.
        """
        self.broker.add_user("guest", "other")
        addresses = self.addresses(
            self.address("a", Wall()), self.address("b", self.endpoint), order=[0, 1]
        )
        connecting = self.connect(addresses)
        self.turn()
        failure = self.failureResultOf(connecting, ConnectFailed)
        (note,) = failure.value.__notes__
        self.assertIn("amqp://guest@b:5672/%2F: 403 ACCESS_REFUSED", note)

    def test_permanent(self) -> None:
        """
        When none may pass, it is the first.
        """
        self.broker.add_user("guest", "other")
        addresses = self.addresses(self.address("b", self.endpoint), order=[])
        connecting = self.connect(addresses)
        self.turn()
        self.failureResultOf(connecting, AuthenticationFailed)

    def test_cancelled_by_who_is_told(self) -> None:
        """
        Whoever is told of an address may have it all cancelled.
        """
        wall = Wall()
        addresses = self.addresses(self.address("a", wall), order=[])
        connecting = addresses.connect(self.reactor, lambda _: connecting.cancel())
        self.turn()
        self.assertEqual(wall.tries, 0)
        self.failureResultOf(connecting, CancelledError)
        self.turn()
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_cancel(self) -> None:
        """
        Cancelled in whichever turn, it leaves nothing behind.
        """
        for turns in range(25):
            addresses = self.addresses(
                self.address("a", Wall()),
                self.address("b", self.endpoint),
                self.address("c", BlackHole()),
                order=[0, 1, 2],
            )
            connecting = self.connect(addresses)
            self.turn(turns)
            if connecting.called:
                self.connected(connecting)
                continue
            connecting.cancel()
            self.failureResultOf(connecting, CancelledError)
            self.turn()
            self.assertEqual(self.broker.sessions, [])
            self.assertEqual(self.clock.getDelayedCalls(), [])


class SourcesTests(SynchronousTestCase):
    """
    What a service may be told to connect to.
    """

    def test_kinds(self) -> None:
        """
        A URI, parameters, an endpoint, an address, records; one, or many.
        """
        hole = BlackHole()
        records = SRVRecords("example.org")
        addresses = Addresses(
            [
                "amqp://one",
                b"amqp://two",
                ConnectionParameters(host="three"),
                hole,
                Address(ConnectionParameters(host="five")),
                records,
            ],
            POLICY,
            parameters=ConnectionParameters(host="four"),
            adapt=lambda each: replace(each, name="x"),
        )
        self.assertEqual(
            str(addresses),
            "amqp://guest@one:5672/%2F, amqp://guest@two:5672/%2F, "
            "amqp://guest@three:5672/%2F, amqp://guest@four:5672/%2F, "
            "amqp://guest@five:5672/%2F, SRV _amqp._tcp.example.org",
        )
        self.assertEqual(records.parameters.name, "x")
        self.assertEqual(repr(addresses), f"<Addresses {addresses}>")
        self.assertEqual(
            str(Addresses("amqp://one", POLICY)), "amqp://guest@one:5672/%2F"
        )
        self.assertEqual(
            str(Addresses(hole, POLICY)), "amqp://guest@localhost:5672/%2F"
        )

    def test_refused(self) -> None:
        """
        Anything else, and nothing, is refused.
        """
        with self.assertRaises(ValueError):
            Addresses([], POLICY)
        with self.assertRaises(InvalidURI):
            Addresses("http://one", POLICY)
        with self.assertRaises(TypeError):
            Addresses([1], POLICY)  # type: ignore[list-item]


def record(host: str, port: int = 5672, priority: int = 0, weight: int = 0) -> RRHeader:
    """
    An SRV record.
    """
    payload = Record_SRV(priority, weight, port, host)
    return RRHeader(b"_amqp._tcp.example.org", 33, payload=payload)


class Resolver(ResolverBase):
    """
    Knows some answers.
    """

    def __init__(self, *answers: object) -> None:
        super().__init__()
        self.answers: Any = list(answers)
        self.asked: list[str] = []

    def lookupService(self, name: str, timeout: object = None) -> Deferred[Any]:
        """
        See ``IResolver``.
        """
        self.asked.append(name)
        if isinstance(self.answers, Exception):
            return fail(self.answers)
        if isinstance(self.answers, Deferred):
            return self.answers
        return succeed((self.answers, [], []))


class RecordTests(SynchronousTestCase):
    """
    Tests for `SRVRecords`.
    """

    def look_up(
        self, resolver: Resolver, chance: float = 0.5, **options: Any
    ) -> Deferred[list[Address]]:
        """
        Ask.
        """
        records = SRVRecords("Example.org.", resolver=resolver, **options)
        self.records = records
        return Deferred.fromCoroutine(records.look_up(lambda: chance))

    def hosts(self, *answers: RRHeader, chance: float = 0.5) -> list[str]:
        """
        The hosts in the order in which to try them.
        """
        found = self.successResultOf(self.look_up(Resolver(*answers), chance))
        return [each.parameters.host for each in found]

    def test_order(self) -> None:
        """
        By priority, then at random by weight.
        """
        answers = [
            record("c.example.org", priority=2),
            record("a.example.org", priority=1, weight=10),
            record("b.example.org", priority=1, weight=90),
        ]
        names = [f"{each}.example.org" for each in "abc"]
        self.assertEqual(self.hosts(*answers, chance=0.05), names)
        self.assertEqual(
            self.hosts(*answers, chance=0.5), [names[1], names[0], names[2]]
        )

    def test_addresses(self) -> None:
        """
        Each record is an address, and all else is as the parameters say.
        """
        resolver = Resolver(
            record("a.example.org", 5673),
            RRHeader(b"a.example.org", 1, payload=Record_A("127.0.0.1")),
        )
        parameters = ConnectionParameters(credentials=[PlainCredentials("ann", "x")])
        (found,) = self.successResultOf(self.look_up(resolver, parameters=parameters))
        self.assertEqual(str(found), "amqp://ann@a.example.org:5673/%2F")
        self.assertEqual(resolver.asked, ["_amqp._tcp.example.org"])

    def test_same_addresses(self) -> None:
        """
        An address that is found again is the same, and remembers how it has done.
        """
        resolver = Resolver(record("a.example.org"))
        (first,) = self.successResultOf(self.look_up(resolver))
        again = Deferred.fromCoroutine(self.records.look_up(lambda: 0.5))
        (second,) = self.successResultOf(again)
        self.assertIs(first, second)

    def test_tls(self) -> None:
        """
        With TLS the service is another, and hosts of other domains are refused, unless
        there is a name for certificates.
        """
        resolver = Resolver(
            record("a.example.org", 5671),
            record("example.org", 5671),
            record("evil-example.org", 5671),
            record("example.org.evil.net", 5671),
        )
        parameters = ConnectionParameters(tls=TLSParameters())
        found = self.successResultOf(self.look_up(resolver, parameters=parameters))
        self.assertEqual(
            {each.parameters.host for each in found}, {"a.example.org", "example.org"}
        )
        self.assertEqual(resolver.asked, ["_amqps._tcp.example.org"])
        only = Resolver(record("evil.net", 5671))
        self.failureResultOf(self.look_up(only, parameters=parameters), TLSFailed)
        named = replace(parameters, tls=TLSParameters(server_name="mq.example.org"))
        (one,) = self.successResultOf(self.look_up(only, parameters=named))
        self.assertEqual(one.parameters.certified_name, "mq.example.org")

    def test_none(self) -> None:
        """
        No records, a service that decidedly is not there, or a failure are failures to
        connect.
        """
        self.failureResultOf(self.look_up(Resolver()), ConnectFailed)
        self.failureResultOf(self.look_up(Resolver(record(""))), ConnectFailed)
        resolver = Resolver()
        resolver.answers = DNSLookupError("no")
        failure = self.failureResultOf(self.look_up(resolver), ConnectFailed)
        self.assertIn("SRV _amqp._tcp.example.org: DNSLookupError", str(failure.value))
        self.assertIsInstance(failure.value.__cause__, DNSLookupError)

    def test_cancel(self) -> None:
        """
        It can be cancelled.
        """
        resolver = Resolver()
        resolver.answers = Deferred()
        looking = self.look_up(resolver)
        looking.cancel()
        self.failureResultOf(looking, CancelledError)

    def test_in_a_round(self) -> None:
        """
        Among other addresses, records that cannot be had cost nothing; alone, they are
        the reason.  The order of records is kept.
        """
        clock = Clock()
        tried: list[str] = []

        def round_of(*places: Any) -> Deferred[Any]:
            tried.clear()
            policy = RetryPolicy(random=lambda: 0.5, next_address_after=0.1)
            addresses = Addresses(places, policy)
            connecting = addresses.connect(
                cast(IReactorTime, clock),
                lambda address: tried.append(address.parameters.host),
            )
            clock.advance(0)
            return connecting

        nothing = SRVRecords("example.org", resolver=Resolver())
        self.failureResultOf(round_of(nothing), ConnectFailed)
        wall = Address(ConnectionParameters(host="wall"), Wall())
        failure = self.failureResultOf(round_of(nothing, wall), ConnectFailed)
        self.assertEqual(tried, ["wall"])
        self.assertIn("there are no such records", failure.value.__notes__[0])

    def test_default_resolver(self) -> None:
        """
        By default, the system's name servers are asked.
        """
        from twisted.names import client

        resolver = Resolver(record("a.example.org"))
        self.patch(client, "createResolver", lambda: resolver)
        records = SRVRecords("example.org")
        found = Deferred.fromCoroutine(records.look_up(lambda: 0.5))
        self.assertEqual(len(self.successResultOf(found)), 1)
