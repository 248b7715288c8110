# -*- test-case-name: txamqp091.test.unit.service.test_client -*-
"""
The loop of a service: an attempt to connect, a session, its loss, a delay, the next
attempt.  What is done with a session is in `txamqp091.service.client`.

Theory.  Twisted's ``ClientService`` is the loop.  An attempt is everything up to the
topology, and its endpoint does all of that, not its ``prepareConnection``:
``ClientService`` has no state for a connection that is lost while it is being prepared.
What it takes for a connection is a `Session`: one that is ready.
"""

from __future__ import annotations

__all__ = ["Reconnection", "ReconnectionSink", "Session"]

from collections.abc import Callable
from typing import Protocol, cast

from twisted.application.internet import ClientService
from twisted.internet import protocol
from twisted.internet.defer import CancelledError, Deferred, DeferredList
from twisted.internet.interfaces import (
    IAddress,
    IDelayedCall,
    IProtocol,
    IProtocolFactory,
    IReactorTime,
    IStreamClientEndpoint,
    ITransport,
)
from twisted.internet.task import deferLater
from twisted.logger import Logger
from twisted.python.failure import Failure
from zope.interface import implementer

from txamqp091.errors import AMQPError, ConnectionClosed, printable
from txamqp091.protocol import AMQPProtocol
from txamqp091.service.addresses import Address, Addresses
from txamqp091.service.retry import Backoff, RetryPolicy, is_permanent

_log = Logger(namespace="txamqp091.service")


class Session:
    """
    A connection that is ready: what ``ClientService`` takes for a transport.

    :ivar connection: the connection.
    :ivar address: where it leads to.
    :ivar proxy: what ``ClientService`` takes for its protocol.
    """

    def __init__(self, connection: AMQPProtocol, address: Address) -> None:
        self.connection = connection
        self.address = address
        self.proxy: IProtocol

    def loseConnection(self) -> None:
        """
        Twisted: close it.  AMQP first.
        """
        self.connection.close()


class ReconnectionSink(Protocol):
    """
    Who is told how the loop goes on.
    """

    def connecting(self, address: Address) -> None:
        """
        An address is tried.
        """

    async def prepare_connection(self, connection: AMQPProtocol) -> bool:
        """
        Do what has to be done with a new connection before it is ready.

        :returns: whether that was all.  If not, another connection is made at once.
        """

    def begun(self, session: Session) -> None:
        """
        There is a session.
        """

    def lost(self, session: Session, reason: BaseException) -> None:
        """
        There is none any more.
        """

    def over(self, reason: BaseException) -> None:
        """
        The same, a little later: ``ClientService`` knows by now.
        """

    def recovering(self, attempt: int, delay: float, reason: BaseException) -> None:
        """
        There will be another attempt.
        """

    def gave_up(self, reason: BaseException) -> None:
        """
        There will be none.
        """


class Reconnection:
    """
    The loop, from its start to its end.

    :ivar session: the present session.
    :ivar error: why there is none, or why the last one has ended.
    """

    def __init__(
        self,
        reactor: IReactorTime,
        addresses: Addresses,
        policy: RetryPolicy,
        sink: ReconnectionSink,
    ) -> None:
        self.session: Session | None = None
        self.error: BaseException | None = None
        self._reactor = reactor
        self._addresses = addresses
        self._policy = policy
        self._sink = sink
        self._attempt: Deferred[None] | None = None
        self._soon: IDelayedCall | None = None
        self._backoff = Backoff(policy)
        # How many attempts in a row have failed, and since when there is no session.
        self._failures = 0
        self._down_since = reactor.seconds()
        self._last = False
        self._client = ClientService(
            _Attempts(self._connect, repr(addresses)),
            _NoFactory(),
            retryPolicy=self._next_delay,
            clock=reactor,
        )

    def start(self) -> None:
        """
        Connect.
        """
        self._client.startService()

    def finish(self) -> None:
        """
        The present session is the last one.
        """
        self._last = True
        self._clear_soon()
        if self.session is None:
            self._client.stopService()

    def stop(self) -> Deferred[None]:
        """
        End it now: give up the attempt, or close the connection.

        :returns: fires when the transport has gone; it does not fail.
        """
        self.finish()
        ends: list[Deferred[None]] = [self._client.stopService()]
        if self._attempt is not None:
            ended: Deferred[None] = Deferred()
            self._attempt.addBoth(ended.callback)
            ends.append(ended)
        return DeferredList(ends).addCallback(lambda _: None)

    def _clear_soon(self) -> None:
        if self._soon is not None:
            self._soon.cancel()
            self._soon = None

    # -- an attempt ------------------------------------------------------------------

    def _connect(self, factory: IProtocolFactory) -> Deferred[IProtocol]:
        """
        What ``ClientService`` takes for an attempt to connect.
        """
        result: Deferred[IProtocol] = Deferred(lambda _: attempt.cancel())

        def established(session: Session) -> None:
            self._attempt = None
            if result.called:  # it was cancelled, too late
                session.connection.close()
                return
            proxy = factory.buildProtocol(cast(IAddress, None))
            assert proxy is not None
            proxy.makeConnection(cast(ITransport, session))
            session.proxy = proxy
            result.callback(proxy)
            self._begin(session)

        def failed(failure: Failure) -> None:
            self._attempt = None
            if not result.called:
                result.errback(failure)

        # In a turn of its own: observers may do anything, and ``ClientService`` is in
        # the middle of something.
        attempt = deferLater(
            self._reactor, 0, lambda: Deferred.fromCoroutine(self._establish())
        )
        self._attempt = attempt.addCallbacks(established, failed)
        return result

    async def _establish(self) -> Session:
        try:
            while True:
                connection, address = await self._addresses.connect(
                    self._reactor, self._sink.connecting
                )
                try:
                    if await self._sink.prepare_connection(connection):
                        return Session(connection, address)
                except BaseException:
                    await connection.close()
                    raise
                await connection.close()
        except CancelledError:
            raise
        except Exception as error:
            self.error = error
            self._failures += 1
            if isinstance(error, AMQPError):
                _log.error(
                    "There is no connection: {error}", error=printable(str(error), 500)
                )
            else:
                _log.failure("An attempt to connect failed")
            raise

    def _next_delay(self, _: int) -> float:
        """
        ``ClientService`` asks how long to wait, as an attempt has failed, or a session
        was lost.
        """
        reason = self.error
        assert reason is not None
        now = self._reactor.seconds()
        delay = self._backoff.next(now, reason)
        # It is in the middle of something: what others do about it has to wait.
        self._clear_soon()
        if self._has_to_give_up(reason, now, delay):
            self._soon = self._reactor.callLater(0, self._give_up, reason)
        else:
            attempt = self._backoff.attempts
            self._soon = self._reactor.callLater(
                0, self._recovering, attempt, delay, reason
            )
        return delay

    def _has_to_give_up(self, reason: BaseException, now: float, delay: float) -> bool:
        policy = self._policy
        if not self._failures:  # a session was lost, and nothing was tried yet
            return False
        if policy.permanent == "fail" and is_permanent(reason):
            return True
        if policy.max_attempts is not None and self._failures >= policy.max_attempts:
            return True
        limit = policy.max_seconds
        return limit is not None and now + delay - self._down_since > limit

    def _recovering(self, attempt: int, delay: float, reason: BaseException) -> None:
        self._soon = None
        _log.info(
            "The next attempt to connect, number {attempt}, is in {delay:.2f} s",
            attempt=attempt,
            delay=delay,
        )
        self._sink.recovering(attempt, delay, reason)

    def _give_up(self, reason: BaseException) -> None:
        self._soon = None
        _log.critical("Giving up: {error}", error=printable(str(reason), 500))
        self.finish()
        self._sink.gave_up(reason)

    # -- a session -------------------------------------------------------------------

    def _begin(self, session: Session) -> None:
        self.session = session
        self._failures = 0
        self._backoff.succeeded(self._reactor.seconds())
        _log.info("Connected to {address}", address=str(session.address))
        session.connection.when_closed().addBoth(self._lost, session)
        if self.session is session:
            self._sink.begun(session)

    def _lost(self, result: Failure | None, session: Session) -> None:
        reason: BaseException = ConnectionClosed("it was closed by us", by_us=True)
        if isinstance(result, Failure) and result.value is not None:
            reason = result.value
        now = self._reactor.seconds()
        self.session = None
        self.error = reason
        self._down_since = now
        session.address.failed(now, self._policy, reason)
        if not self._last:
            _log.warn(
                "The connection was lost: {error}", error=printable(str(reason), 500)
            )
        self._sink.lost(session, reason)
        session.proxy.connectionLost(Failure(reason))
        if self._last:
            self.finish()
        else:
            self._sink.over(reason)


class _NoFactory(protocol.Factory):
    """
    Nothing that makes anything: what is needed is there.
    """

    noisy = False

    def buildProtocol(self, addr: IAddress | None) -> protocol.Protocol:
        """
        Twisted: make a protocol, which does nothing.
        """
        return protocol.Protocol()


@implementer(IStreamClientEndpoint)
class _Attempts:
    """
    What ``ClientService`` takes for its endpoint.
    """

    def __init__(
        self, connect: Callable[[IProtocolFactory], Deferred[IProtocol]], name: str
    ) -> None:
        self._connect = connect
        self._name = name

    def __repr__(self) -> str:
        return self._name

    def connect(self, protocolFactory: IProtocolFactory) -> Deferred[IProtocol]:
        """
        See ``IStreamClientEndpoint``.
        """
        return self._connect(protocolFactory)
