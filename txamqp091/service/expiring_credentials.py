# -*- test-case-name: txamqp091.test.unit.service.test_expiring_credentials -*-
"""
Credentials that expire, such as OAuth 2 tokens: `ExpiringCredentials` fetches them for
each connection, and `SecretRefresh` renews those of a connection before they expire.

Where they come from is the user's business: a function.  Here are secrets; nothing here
shows one, or puts one into an error.
"""

from __future__ import annotations

from collections.abc import Callable
from math import inf
from typing import cast

from twisted.internet.defer import CancelledError, Deferred, TimeoutError, maybeDeferred
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.logger import Logger
from twisted.python.failure import Failure
from zope.interface import implementer

from txamqp091._observer import Observers, observe
from txamqp091.credentials import PlainCredentials
from txamqp091.errors import AMQPError, CommandInvalid, ConnectFailed, printable
from txamqp091.interfaces import ICredentials
from txamqp091.protocol import AMQPProtocol
from txamqp091.service.broker_quirks import STEP_TIMEOUT
from txamqp091.service.client import AMQPClientService
from txamqp091.service.retry import Backoff, RetryPolicy

_log = Logger(namespace="txamqp091.service")

#: When to fetch a secret again that could not be had.
FETCHED_AGAIN = RetryPolicy(initial_delay=1.0, max_delay=30.0)

#: How long fetching one may take, in seconds.
FETCH_TIMEOUT = 10.0


class Secret:
    """
    A user name, and a password or token for a while.

    :ivar username: the user name; RabbitMQ's OAuth 2 plugin does not look at it.
    :ivar password: the password or token.
    :ivar lifetime: for how many seconds it can be used, from the moment that it was
        asked for; None is for ever.
    """

    __slots__ = ("lifetime", "password", "username")

    def __init__(
        self, username: str, password: str, lifetime: float | None = None
    ) -> None:
        self.username = username
        self.password = password
        self.lifetime = lifetime

    def __repr__(self) -> str:
        return f"Secret({self.username!r}, ***, lifetime={self.lifetime})"


class SecretUnavailable(Exception):
    """
    Raised by who fetches a secret: there is none now.  What other errors say is not
    shown, as it may have a secret in it; what this one says is.
    """


#: What fetches a secret: now, or later.
Fetch = Callable[[], Secret | Deferred[Secret]]


@implementer(ICredentials)
class ExpiringCredentials:
    """
    Credentials that are fetched anew for each connection, and sent by PLAIN::

        credentials = ExpiringCredentials(reactor, fetch)
        service = AMQPClientService(reactor, uri, credentials=credentials)
        SecretRefresh(service, credentials)

    Use TLS: they are as safe as the connection.

    :ivar last_term: of the last secret that was given to a broker: when it was asked
        for, and for how long it can be used.
    """

    mechanism = "PLAIN"

    def __init__(self, clock: IReactorTime, fetch: Fetch) -> None:
        """
        :param fetch: returns a `Secret`, or a Deferred of one.  It has 10 seconds; the
            Deferred is cancelled then, and when the connection is lost meanwhile.  If
            it fails, there is another attempt to connect, as after any other failure.
        """
        self._clock = clock
        self._fetch = fetch
        self.last_term: tuple[float, float | None] | None = None

    def __repr__(self) -> str:
        return "ExpiringCredentials(***)"

    def respond(self, challenge: bytes | None) -> Deferred[bytes]:
        """
        See `ICredentials.respond`.
        """
        if challenge is not None:
            raise CommandInvalid(
                "connection.secure is out of place: PLAIN knows no challenge"
            )
        began = self._clock.seconds()

        def fetched(secret: Secret) -> bytes:
            self.last_term = began, secret.lifetime
            plain = PlainCredentials(secret.username, secret.password)
            return plain.respond(None)

        return self.fetch().addCallbacks(fetched, _explained)

    def fetch(self) -> Deferred[Secret]:
        """
        Fetch a secret.

        :returns: fires with it; fails as ``fetch`` does, or with ``TimeoutError``.
        """
        fetching = maybeDeferred(cast("Callable[[], Deferred[Secret]]", self._fetch))
        return fetching.addCallback(_checked).addTimeout(FETCH_TIMEOUT, self._clock)


class SecretRefresh:
    """
    Gives the broker a new secret before the last one expires, for each connection of a
    service (``connection.update-secret``).

    An attempt that fails is made again, with growing delays, also when the secret has
    expired; that is logged, and told to observers.

    :ivar refreshes: how often the broker was given a new one.
    """

    def __init__(
        self,
        service: AMQPClientService,
        credentials: ExpiringCredentials,
        *,
        fraction: float = 0.8,
        policy: RetryPolicy = FETCHED_AGAIN,
    ) -> None:
        """
        :param credentials: those of the service.
        :param fraction: which part of its lifetime a secret is used for.
        :param policy: when to try again what has failed; its limits do not count.
        :raises ValueError: there is no such part.
        """
        if not 0 < fraction <= 1:
            raise ValueError(f"fraction is {fraction}, not from 0 to 1")
        self.refreshes = 0
        self._service = service
        self._credentials = credentials
        self._fraction = fraction
        self._policy = policy
        self._refreshed: Observers[[float | None]] = Observers("refreshed", _log)
        self._retrying: Observers[[float, BaseException]]
        self._retrying = Observers("retrying", _log)
        self._expired: Observers[[BaseException]] = Observers("expired", _log)
        self._clock = service.reactor
        self._backoff = Backoff(policy)
        self._connection: AMQPProtocol | None = None
        self._call: IDelayedCall | None = None
        self._fetching: Deferred[None] | None = None
        self._expiry_call: IDelayedCall | None = None
        self._expires_at = 0.0
        # Why the last attempt to renew the secret has failed.
        self._error: BaseException | None = None
        self._stop_observing = service.observe(ready=self._ready)
        if service.connection is not None:
            self._begin(service.connection)

    def observe(
        self,
        *,
        refreshed: Callable[[float | None], object] | None = None,
        retrying: Callable[[float, BaseException], object] | None = None,
        expired: Callable[[BaseException], object] | None = None,
    ) -> Callable[[], None]:
        """
        Have functions called when something happens to the secret.  What a function
        raises is logged, and changes nothing.

        :param refreshed: ``(lifetime)``: the broker has a new secret, for so many
            seconds, or for ever if it is None.
        :param retrying: ``(delay, reason)``: the last attempt to renew the secret has
            failed, and the next one is in ``delay`` seconds.
        :param expired: ``(reason)``: the secret has expired, and there is no new one.
            The attempts go on; meanwhile the broker may refuse everything, or close the
            connection.  ``reason`` is why the last attempt has failed.
        :returns: call this to end the observation; calling it twice is harmless.
        :raises TypeError: one of them is not callable, or there is none.
        """
        return observe(
            refreshed=(self._refreshed, refreshed),
            retrying=(self._retrying, retrying),
            expired=(self._expired, expired),
        )

    def refresh(self) -> None:
        """
        Give the broker a new secret now, whether the last one expires or not.  Without
        a connection there is nothing to do: the next one asks for its own.
        """
        connection = self._service.connection
        if connection is None or self._fetching is not None:
            return
        if self._connection is None:
            self._follow(connection)
            self._expires_at = inf
        _stop(self._call)
        self._refresh()

    def stop(self) -> None:
        """
        Renew nothing any more.
        """
        self._stop_observing()
        self._end()

    def _ready(self, connection: AMQPProtocol, _: object) -> None:
        self._begin(connection)

    def _begin(self, connection: AMQPProtocol) -> None:
        self._end()
        began, lifetime = self._credentials.last_term or (0.0, None)
        if lifetime is not None:
            self._follow(connection)
            self._plan(began, lifetime)

    def _follow(self, connection: AMQPProtocol) -> None:
        self._connection = connection
        connection.when_closed().addBoth(lambda _: self._closed(connection))

    def _closed(self, connection: AMQPProtocol) -> None:
        if self._connection is connection:
            self._end()

    def _end(self) -> None:
        self._connection = None
        _stop(self._call)
        _stop(self._expiry_call)
        fetching, self._fetching = self._fetching, None
        if fetching is not None:
            fetching.cancel()

    def _plan(self, began: float, lifetime: float) -> None:
        """
        A secret is in use: renew it in time, and tell when it expires.
        """
        now = self._clock.seconds()
        self._expires_at = began + lifetime
        self._backoff = Backoff(self._policy)
        self._error = None
        _stop(self._expiry_call)
        self._expiry_call = self._clock.callLater(
            max(self._expires_at - now, 0.0), self._has_expired
        )
        due = began + lifetime * self._fraction
        # A lifetime of nothing must not keep us busy.
        delay = max(due - now, self._policy.initial_delay)
        self._call = self._clock.callLater(delay, self._refresh)

    def _refresh(self) -> None:
        connection = self._connection
        assert connection is not None
        fetching = Deferred.fromCoroutine(self._renew(connection))
        fetching.addErrback(self._failed, connection)
        self._fetching = None if fetching.called else fetching

    async def _renew(self, connection: AMQPProtocol) -> None:
        began = self._clock.seconds()
        secret = await self._credentials.fetch()
        if self._connection is not connection:
            return
        updated = connection.update_secret(secret.password, "the last one expires")
        await updated.addTimeout(STEP_TIMEOUT, self._clock)
        lifetime = secret.lifetime
        del secret
        self._fetching = None
        if self._connection is not connection:
            return
        self.refreshes += 1
        _log.info("The broker has a new secret")
        if lifetime is not None:
            self._plan(began, lifetime)
        else:
            self._expires_at = inf
            _stop(self._expiry_call)
        self._refreshed.tell(lifetime)

    def _failed(self, failure: Failure, connection: AMQPProtocol) -> None:
        self._fetching = None
        error = cast(BaseException, failure.value)
        if self._connection is not connection or not connection.is_open:
            return  # the next connection asks for a secret of its own
        if isinstance(error, CancelledError):
            error = TimeoutError("it was cancelled")
        self._error = error
        now = self._clock.seconds()
        delay = self._backoff.next(now)
        expired = now >= self._expires_at
        if not expired:
            delay = min(delay, max(self._expires_at - now, 0.001))
        _log.error(
            "The secret of the connection was not renewed ({kind}), and {state}; "
            "another attempt follows in {delay:.1f} s",
            delay=delay,
            state="has expired" if expired else "has not expired yet",
            kind=_words(error),
        )
        self._call = self._clock.callLater(delay, self._refresh)
        self._retrying.tell(delay, error)

    def _has_expired(self) -> None:
        error = self._error or TimeoutError("it was not renewed in time")
        _log.error(
            "The secret of the connection has expired, and was not renewed: {kind}",
            kind=_words(error),
        )
        self._expired.tell(error)


def _stop(call: IDelayedCall | None) -> None:
    if call is not None and call.active():
        call.cancel()


def _explained(failure: Failure) -> bytes:
    """
    Say what a failure means to whoever connects: that it may be another matter soon.

    :raises ConnectFailed: that is so.
    """
    error = cast(BaseException, failure.value)
    if isinstance(error, AMQPError | CancelledError | TypeError):
        raise error
    raise ConnectFailed(
        f"the secret to log in with could not be had: {_words(error)}", by_us=True
    ) from error


def _words(error: BaseException) -> str:
    """
    What can be said of an error.
    """
    if isinstance(error, SecretUnavailable):
        return printable(str(error), 500)
    # Its words are not repeated: they may have a secret in them.
    return type(error).__name__


def _checked(secret: object) -> Secret:
    """
    :raises TypeError: it is no secret; it is not shown, for it may be one.
    """
    if not isinstance(secret, Secret):
        raise TypeError(f"fetch returns a Secret, not {type(secret).__name__}")
    return secret
