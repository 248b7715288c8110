# -*- test-case-name: txamqp091.test.unit.service.test_addresses -*-
"""
Where to connect to, when there are several places: `Addresses`.

In each round every address is tried, in random order, those that have failed lately
after the others.  One that does not answer soon is not waited for: the next one is
tried as well, and the first to open AMQP is it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, TypeAlias

from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.interfaces import (
    IDelayedCall,
    IReactorTime,
    IResolver,
    IStreamClientEndpoint,
)
from twisted.python.failure import Failure

from txamqp091.endpoint import connect_once
from txamqp091.errors import AMQPError, ConnectFailed, TLSFailed, printable
from txamqp091.parameters import ConnectionParameters
from txamqp091.protocol import AMQPProtocol
from txamqp091.service.retry import Backoff, RetryPolicy

#: One place to connect to, or many.
_Place: TypeAlias = (
    "str | bytes | ConnectionParameters | IStreamClientEndpoint | Address | SRVRecords"
)
Where: TypeAlias = "_Place | Sequence[_Place]"

#: For how many seconds, at the least, an address that has failed is tried last.
_AVOIDED = 5.0


class Address:
    """
    One place to connect to.

    :ivar parameters: how.
    :ivar not_before: until when other addresses are tried first, by the clock.
    :ivar failed_at: when it has failed the last time; None if it is well.
    """

    def __init__(
        self,
        parameters: ConnectionParameters,
        endpoint: IStreamClientEndpoint | None = None,
    ) -> None:
        """
        :param endpoint: what connects, instead of what the parameters say.
        """
        self.parameters = parameters
        self.not_before = 0.0
        self.failed_at: float | None = None
        self._endpoint = endpoint
        self._backoff: Backoff | None = None

    def __str__(self) -> str:
        return self.parameters.display

    def __repr__(self) -> str:
        return f"<Address {self}>"

    def connect(self, reactor: IReactorTime) -> Deferred[AMQPProtocol]:
        """
        Try it, once: see `txamqp091.endpoint.connect_once`.
        """
        return connect_once(reactor, self.parameters, endpoint=self._endpoint)

    def succeeded(self, now: float) -> None:
        """
        It has led to a connection.
        """
        if self._backoff is not None:
            self._backoff.succeeded(now)
        self.not_before = 0.0
        self.failed_at = None

    def failed(self, now: float, policy: RetryPolicy, error: BaseException) -> None:
        """
        It has not, or not for long.
        """
        if self._backoff is None:
            self._backoff = Backoff(policy)
        self.not_before = now + self._backoff.next(now, error)
        self.failed_at = now


class SRVRecords:
    """
    The places that the DNS has SRV records of.

    With TLS, hosts of another domain are refused: who can answer for the DNS could
    send us to a host with a certificate of its own.  If the parameters have a
    ``server_name``, certificates are checked for that, and hosts may be anywhere.

    :ivar resolver: what to ask; None is what the system asks.
    """

    def __init__(
        self,
        domain: str,
        parameters: ConnectionParameters | None = None,
        *,
        service: str = "",
        resolver: IResolver | None = None,
    ) -> None:
        """
        :param domain: such as ``example.org``.
        :param parameters: everything but host and port.
        :param service: the service to ask for; by default ``amqps`` with TLS, and
            ``amqp`` without.
        :param resolver: what to ask; by default, what the system asks.
        """
        self.parameters = parameters or ConnectionParameters()
        self.domain = domain.strip(".").lower()
        service = service or ("amqp" if self.parameters.tls is None else "amqps")
        self.name = f"_{service.strip('_')}._tcp.{self.domain}"
        self.resolver = resolver
        self._known: dict[tuple[str, int], Address] = {}

    def __str__(self) -> str:
        return f"SRV {self.name}"

    async def look_up(self, random: Callable[[], float]) -> list[Address]:
        """
        Ask the DNS.  The most wanted address comes first (RFC 2782).

        :raises AMQPError: there are none.
        """
        if self.resolver is None:
            from twisted.names.client import createResolver

            self.resolver = createResolver()
        try:
            answers: Any
            answers, _, _ = await self.resolver.lookupService(self.name, (2, 5))
        except CancelledError:
            raise
        except Exception as error:
            problem = f"{self}: {type(error).__name__} {printable(str(error))}"
            raise ConnectFailed(problem.strip()) from error
        records = [each.payload for each in answers if each.payload.TYPE == 33]
        targets = [
            (str(each.target).lower().strip("."), each.port)
            for each in _ordered(records, random)
        ]
        # A lone "." says that there decidedly is no such service.
        found = [(host, port) for host, port in targets if host]
        if not found:
            raise ConnectFailed(f"{self}: there are no such records")
        allowed = [place for place in found if self._is_allowed(place[0])]
        if not allowed:
            raise TLSFailed(
                f"{self} leads to {printable(found[0][0])}, which is not in "
                f"{self.domain}: give a server_name, if that is right"
            )
        self._known = {place: self._address(*place) for place in allowed}
        return list(self._known.values())

    def _is_allowed(self, host: str) -> bool:
        tls = self.parameters.tls
        if tls is None or not tls.verified or tls.server_name is not None:
            return True
        return f".{host}".endswith(f".{self.domain}")

    def _address(self, host: str, port: int) -> Address:
        known = self._known.get((host, port))
        return known or Address(replace(self.parameters, host=host, port=port))


def _ordered(records: list[Any], random: Callable[[], float]) -> list[Any]:
    """
    Records in the order in which to try them: by priority, and among equals at random,
    by weight.
    """
    ordered: list[Any] = []
    waiting = sorted(records, key=lambda each: (each.priority, each.weight))
    while waiting:
        equals = [each for each in waiting if each.priority == waiting[0].priority]
        place = random() * sum(each.weight for each in equals)
        for chosen in equals:
            place -= chosen.weight
            if place <= 0:
                break
        ordered.append(chosen)
        waiting.remove(chosen)
    return ordered


class Addresses:
    """
    All the places that a service may connect to.
    """

    def __init__(
        self,
        where: Where,
        policy: RetryPolicy,
        *,
        parameters: ConnectionParameters | None = None,
        adapt: Callable[[ConnectionParameters], ConnectionParameters] = lambda it: it,
    ) -> None:
        """
        :param where: one of these, or many: a URI, `ConnectionParameters`, an endpoint,
            an `Address`, or `SRVRecords`.
        :param parameters: what goes with endpoints.
        :param adapt: has the last word on all parameters but those of an `Address`.
        :raises InvalidURI: a URI cannot be understood.
        """
        self._policy = policy
        self._sources: list[Address | SRVRecords] = []
        places: Any = where
        if isinstance(where, str | bytes) or not isinstance(where, Sequence):
            places = [where]
        for each in places:
            self._sources.append(_source(each, parameters, adapt))
        if not self._sources:
            raise ValueError("there is no address to connect to")

    def __str__(self) -> str:
        return ", ".join(str(each) for each in self._sources)

    def __repr__(self) -> str:
        return f"<Addresses {self}>"

    def connect(
        self, reactor: IReactorTime, trying: Callable[[Address], object]
    ) -> Deferred[tuple[AMQPProtocol, Address]]:
        """
        Go through all of them, once.

        :param trying: told of each address before it is tried.
        :returns: fires with a connection that is open, and its address; fails when all
            have failed, with the error that says most.  When it is cancelled, nothing
            is left behind.
        """
        return Deferred.fromCoroutine(self._connect(reactor, trying))

    async def _connect(
        self, reactor: IReactorTime, trying: Callable[[Address], object]
    ) -> tuple[AMQPProtocol, Address]:
        errors: list[tuple[str, BaseException]] = []
        addresses: list[Address] = []
        for source in self._sources:
            if isinstance(source, Address):
                addresses.append(source)
                continue
            try:
                addresses += await source.look_up(self._policy.random)
            except AMQPError as error:
                errors.append((str(source), error))
        if not addresses:
            raise _verdict(errors)
        ordered = self._ordered(addresses, reactor.seconds())
        found = await _Round(reactor, self._policy, ordered, errors, trying).start()
        if isinstance(found, BaseException):
            # Raised here: Twisted 24.7 takes an errback for an older failure.
            raise found
        return found

    def _ordered(self, addresses: list[Address], now: float) -> list[Address]:
        srv_only = all(isinstance(each, SRVRecords) for each in self._sources)
        if not (srv_only and len(self._sources) == 1):
            # The records of one name have their order; all else is shuffled.
            drawn = [(self._policy.random(), each) for each in addresses]
            addresses = [each for _, each in sorted(drawn, key=lambda pair: pair[0])]
        # Delays may be short, and a node that was silent for two heartbeats still be.
        return sorted(
            addresses,
            key=lambda each: max(
                now,
                each.not_before,
                0.0 if each.failed_at is None else each.failed_at + _AVOIDED,
            ),
        )


def _source(
    place: Any,
    parameters: ConnectionParameters | None,
    adapt: Callable[[ConnectionParameters], ConnectionParameters],
) -> Address | SRVRecords:
    if isinstance(place, Address):
        return place
    if isinstance(place, SRVRecords):
        place.parameters = adapt(place.parameters)
        return place
    if isinstance(place, str | bytes):
        place = ConnectionParameters.from_uri(place)
    if isinstance(place, ConnectionParameters):
        return Address(adapt(place))
    if IStreamClientEndpoint.providedBy(place):
        return Address(adapt(parameters or ConnectionParameters()), place)
    raise TypeError(f"{type(place).__name__} is nothing to connect to")


#: A connection, and the address that it leads to.
_Found: TypeAlias = tuple[AMQPProtocol, Address]


class _Round:
    """
    Every address, once.
    """

    def __init__(
        self,
        reactor: IReactorTime,
        policy: RetryPolicy,
        addresses: list[Address],
        errors: list[tuple[str, BaseException]],
        trying: Callable[[Address], object],
    ) -> None:
        self._reactor = reactor
        self._policy = policy
        self._waiting = deque(addresses)
        self._errors = errors
        self._trying = trying
        self._running: dict[Address, Deferred[Any]] = {}
        self._call: IDelayedCall | None = None
        self._over = False
        self._result: Deferred[_Found | BaseException] = Deferred(self._cancelled)

    def start(self) -> Deferred[_Found | BaseException]:
        """
        Begin, in a turn of its own: whoever is told of the first address may cancel it.
        """
        self._call = self._reactor.callLater(0, self._try_next)
        return self._result

    def _cancelled(self, _: object) -> None:
        self._end()

    def _end(self) -> None:
        self._over = True
        self._waiting.clear()
        self._clear_call()
        running, self._running = self._running, {}
        for attempt in running.values():
            attempt.cancel()

    def _clear_call(self) -> None:
        if self._call is not None and self._call.active():
            self._call.cancel()
        self._call = None

    def _try_next(self) -> None:
        self._clear_call()
        address = self._waiting.popleft()
        if self._waiting:
            seconds = self._policy.next_address_after
            self._call = self._reactor.callLater(seconds, self._try_next)
        self._trying(address)
        if self._over:  # whoever was told does not want it
            return
        attempt = address.connect(self._reactor)
        self._running[address] = attempt
        attempt.addCallbacks(
            self._connected,
            self._failed,
            callbackArgs=(address,),
            errbackArgs=(address,),
        )

    def _connected(self, connection: AMQPProtocol, address: Address) -> None:
        self._running.pop(address, None)
        if self._over:
            connection.close()
            return
        self._end()
        address.succeeded(self._reactor.seconds())
        self._result.callback((connection, address))

    def _failed(self, failure: Failure, address: Address) -> None:
        self._running.pop(address, None)
        error = failure.value
        if self._over or error is None:
            return
        address.failed(self._reactor.seconds(), self._policy, error)
        self._errors.append((str(address), error))
        if self._waiting:
            self._try_next()
        elif not self._running:
            self._over = True
            self._result.callback(_verdict(self._errors))


def _verdict(errors: list[tuple[str, BaseException]]) -> BaseException:
    """
    The error that says most: as long as one of them may pass, that one.
    """
    passing = [each for each in errors if getattr(each[1], "retriable", False)]
    chosen = passing[-1] if passing else errors[0]
    for each in errors:
        if each is not chosen:
            chosen[1].add_note(f"{each[0]}: {printable(str(each[1]))}")
    return chosen[1]
