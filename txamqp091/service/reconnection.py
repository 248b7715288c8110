# -*- test-case-name: txamqp091.test.unit.service.test_reconnection -*-
"""
The loop of a service: an attempt to connect, a connection, its loss, a delay, the next
attempt: `Reconnection`.  `txamqp091.service.client` uses the connection.

Theory.  An attempt includes the topology: a connection counts when all that has to be
done before its use is done.  At any time there is one of these: an attempt, a
connection, or a timer for the next attempt; or the loop has ended.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from twisted.internet.defer import CancelledError, Deferred, DeferredList, succeed
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.internet.task import deferLater
from twisted.logger import Logger, LogLevel
from twisted.python.failure import Failure

from txamqp091._observer import Observers
from txamqp091.errors import AMQPError, printable
from txamqp091.protocol import AMQPProtocol
from txamqp091.service.addresses import Address, Addresses
from txamqp091.service.entities import EntityOutcome
from txamqp091.service.retry import Backoff, RetryPolicy, is_permanent

_log = Logger(namespace="txamqp091.service")


class ServiceObservers:
    """
    The functions that are called when something happens to a service; see
    `txamqp091.service.AMQPClientService.observe`.
    """

    def __init__(self) -> None:
        self.connecting: Observers[[str]] = Observers("connecting", _log)
        self.ready: Observers[[AMQPProtocol, list[EntityOutcome]]]
        self.ready = Observers("ready", _log)
        self.blocked: Observers[[str]] = Observers("blocked", _log)
        self.unblocked: Observers[[]] = Observers("unblocked", _log)
        self.lost: Observers[[BaseException]] = Observers("lost", _log)
        self.recovering: Observers[[int, float, BaseException]]
        self.recovering = Observers("recovering", _log)
        self.failed: Observers[[BaseException]] = Observers("failed", _log)
        self.draining: Observers[[]] = Observers("draining", _log)


class Reconnection:
    """
    The loop, from its start to its end.

    :ivar connection: the present connection.
    :ivar error: why there is none, or why the last one has ended.
    """

    def __init__(
        self,
        reactor: IReactorTime,
        addresses: Addresses,
        policy: RetryPolicy,
        observers: ServiceObservers,
        *,
        prepare: Callable[[AMQPProtocol], Awaitable[bool]],
        connected: Callable[[AMQPProtocol], object],
        disconnected: Callable[[BaseException], object],
        gave_up: Callable[[BaseException], object],
        is_of_a_consumer: Callable[[BaseException], bool],
    ) -> None:
        """
        :param prepare: does what has to be done before a new connection is used; its
            result is false if another connection is needed for the rest, at once.
        :param connected: called with each connection that is prepared.
        :param disconnected: called with the reason when that has ended.
        :param gave_up: called with the reason when there will be no more attempts.
        :param is_of_a_consumer: whether a connection has ended for one consumer, which
            stays away for longer then; the delays do not grow.
        """
        self.connection: AMQPProtocol | None = None
        self.error: BaseException | None = None
        self._reactor = reactor
        self._addresses = addresses
        self._policy = policy
        self._observers = observers
        self._prepare = prepare
        self._connected = connected
        self._disconnected = disconnected
        self._gave_up = gave_up
        self._is_of_a_consumer = is_of_a_consumer
        self._attempt: Deferred[None] | None = None
        self._call: IDelayedCall | None = None
        self._backoff = Backoff(policy)
        # How many attempts in a row have failed, and since when there is no connection.
        self._failures = 0
        self._down_since = reactor.seconds()
        self._has_connected = False
        self._finished = False

    def start(self) -> None:
        """
        Connect.
        """
        self._call = None
        # In a turn of its own: whoever starts it, or is told, may stop it.
        attempt = deferLater(
            self._reactor, 0, lambda: Deferred.fromCoroutine(self._establish())
        )
        self._attempt = attempt.addCallbacks(self._established, self._failed)

    def finish(self) -> None:
        """
        Make no more attempts; the present connection is the last one.
        """
        self._finished = True
        if self._call is not None:
            self._call.cancel()
            self._call = None
        if self._attempt is not None:
            self._attempt.cancel()

    def stop(self) -> Deferred[None]:
        """
        End it now: cancel the attempt, or close the connection.

        :returns: fires when the transport is closed; it does not fail.
        """
        self.finish()
        ends: list[Deferred[None]] = []
        if self._attempt is not None:
            ended: Deferred[None] = Deferred()
            self._attempt.addBoth(ended.callback)
            ends.append(ended)
        if self.connection is not None:
            ends.append(self.connection.close())
        if not ends:
            return succeed(None)
        return DeferredList(ends, consumeErrors=True).addCallback(lambda _: None)

    # -- an attempt --------------------------------------------------------------------

    async def _establish(self) -> tuple[AMQPProtocol, Address]:
        while True:
            connection, address = await self._addresses.connect(
                self._reactor, self._connecting
            )
            try:
                if await self._prepare(connection):
                    return connection, address
            except BaseException:
                await connection.close()
                raise
            await connection.close()

    def _connecting(self, address: Address) -> None:
        _log.debug("Connecting to {address}", address=str(address))
        self._observers.connecting.tell(str(address))

    def _established(self, result: tuple[AMQPProtocol, Address]) -> None:
        self._attempt = None
        connection, address = result
        if self._finished:  # which came too late for the attempt to be cancelled
            connection.close()
            return
        self.connection = connection
        self._failures = 0
        self._has_connected = True
        self._backoff.succeeded(self._reactor.seconds())
        _log.info("Connected to {address}", address=str(address))
        connection.when_closed().addBoth(self._lost, connection, address)
        if self.connection is connection:
            self._connected(connection)

    def _failed(self, failure: Failure) -> None:
        self._attempt = None
        error = failure.value
        assert error is not None
        if self._finished:
            if not isinstance(error, CancelledError | AMQPError):
                _log.failure("An attempt to connect failed", failure=failure)
            return
        self.error = error
        self._failures += 1
        now = self._reactor.seconds()
        delay = self._backoff.next(now, error)
        if not isinstance(error, AMQPError):
            _log.failure("An attempt to connect failed", failure=failure)
        if self._has_to_give_up(error, now, delay):
            _log.critical(
                "No connection to {addresses}: {error}; the service gives up",
                addresses=str(self._addresses),
                error=printable(str(error), 500),
            )
            self.finish()
            self._gave_up(error)
            return
        _log.emit(
            LogLevel.error if is_permanent(error) else LogLevel.warn,
            "No connection to {addresses}: {error}; retry {attempt} follows in "
            "{delay:.2f} s",
            addresses=str(self._addresses),
            error=printable(str(error), 500),
            attempt=self._backoff.attempts,
            delay=delay,
        )
        self._wait(delay, error)

    def _has_to_give_up(self, error: BaseException, now: float, delay: float) -> bool:
        policy = self._policy
        if is_permanent(error):
            if policy.permanent == "fail":
                return True
            if policy.permanent == "fail-at-start" and not self._has_connected:
                return True
        if policy.max_attempts is not None and self._failures >= policy.max_attempts:
            return True
        limit = policy.max_seconds
        return limit is not None and now + delay - self._down_since > limit

    def _wait(self, delay: float, reason: BaseException) -> None:
        """
        Make the next attempt after a delay.
        """
        self._call = self._reactor.callLater(delay, self.start)
        self._observers.recovering.tell(self._backoff.attempts, delay, reason)

    # -- a loss ------------------------------------------------------------------------

    def _lost(self, _: object, connection: AMQPProtocol, address: Address) -> None:
        reason = connection.close_reason
        assert reason is not None
        now = self._reactor.seconds()
        self.connection = None
        self.error = reason
        self._down_since = now
        if self._is_of_a_consumer(reason):
            delay = self._policy.delay(1)
        else:
            delay = self._backoff.next(now, reason)
            address.failed(now, self._policy, reason)
        if not self._finished:
            _log.warn(
                "Lost the connection to {address}: {error}; the service reconnects in "
                "{delay:.2f} s",
                address=str(address),
                error=printable(str(reason), 500),
                delay=delay,
            )
        self._disconnected(reason)
        if not self._finished:
            self._observers.lost.tell(reason)
        if not self._finished:
            self._wait(delay, reason)
