# -*- test-case-name: txamqp091.test.test_protocol -*-
"""
The connection, as a Twisted protocol: bytes in and out, time limits, heartbeats,
back-pressure.  What may be said when is `txamqp091._machine.connection`.

Theory.  A connection has a *reason* once it is over for its users, and it is *gone*
once its transport is.  `_end` sets the reason: it is the only place that does, the
first reason counts, and everything that waits for the peer fails with it there and
then.  After that the transport is closed, in order where the peer may still read
what we say, and aborted where it may not or does not; ``connectionLost`` follows.
"""

from __future__ import annotations

import ipaddress
import platform
from collections.abc import Callable
from threading import get_ident
from typing import TYPE_CHECKING, Any, cast

from twisted.internet.defer import Deferred, fail, maybeDeferred, succeed
from twisted.internet.interfaces import (
    IAddress,
    IDelayedCall,
    IHandshakeListener,
    IPushProducer,
    IReactorTime,
    ISSLTransport,
    ITransport,
)
from twisted.internet.protocol import Protocol, connectionDone
from twisted.logger import Logger
from twisted.python.failure import Failure
from zope.interface import implementer

from txamqp091._machine.connection import ConnectionMachine, Limits
from txamqp091._machine.states import Role, State
from txamqp091._observer import OneShot
from txamqp091._tls import translate_failure, verify_peer
from txamqp091._version import __version__
from txamqp091.channel import Channel
from txamqp091.credentials import choose
from txamqp091.errors import (
    AMQPError,
    AuthenticationFailed,
    ConnectionClosed,
    ConnectionLost,
    HandshakeTimeout,
    HeartbeatTimeout,
    LocalProtocolError,
    RemoteProtocolError,
)
from txamqp091.interfaces import ICredentials
from txamqp091.parameters import ConnectionParameters
from txamqp091.wire import spec

if TYPE_CHECKING:
    from txamqp091.publisher import Publisher

__all__ = ["AMQPProtocol"]

#: Bytes that wait for the end of the reactor's turn, at the most.
_FLUSH_SIZE = 65536

_CAPABILITIES = {
    "publisher_confirms": True,
    "exchange_exchange_bindings": True,
    "basic.nack": True,
    "consumer_cancel_notify": True,
    "connection.blocked": True,
    "authentication_failure_close": True,
}

#: Where a connection that went without a word was, and what that may mean.
_LOST_WHILE = {
    State.NEW: "before the peer said anything",
    State.GREETED: (
        "before the peer said anything (does it speak AMQP, and without TLS?)"
    ),
    State.AUTHENTICATING: "while logging in (are the user name and password right?)",
    State.OPENING: "while opening the virtual host",
    State.CLOSING: "while closing",
}


@implementer(IPushProducer, IHandshakeListener)
class AMQPProtocol(Protocol):
    """
    An AMQP connection.  `txamqp091.connect` makes one that is open; a factory makes
    one to be waited for with `when_open`.

    :ivar parameters: what it was made with.
    :ivar reactor: the clock, and the way in for other threads.
    :ivar server_properties: what the broker says of itself, such as ``product``,
        ``version`` and ``capabilities``.
    :ivar blocked: why the broker blocks publishing, or None if it does not.
    :ivar may_publish: whether a message may leave now.
    """

    _log = Logger()

    def __init__(self, parameters: ConnectionParameters, reactor: IReactorTime) -> None:
        self.parameters = parameters
        self.reactor = reactor
        self.server_properties: dict[str, Any] = {}
        self.blocked: str | None = None
        self.may_publish = False
        self._thread = get_ident()
        self._machine = ConnectionMachine(
            Role.CLIENT,
            self,
            Limits(
                frame_max=parameters.frame_max,
                channel_max=parameters.channel_max,
                heartbeat=parameters.heartbeat,
                max_body=parameters.max_body_size,
            ),
        )
        self._credentials: ICredentials | None = None
        self._reason: AMQPError | None = None
        self._gone = False
        self._opened: OneShot[AMQPProtocol] = OneShot()
        self._closed: OneShot[None] = OneShot()
        self._unblocked: OneShot[None] = OneShot()
        self._observers: list[Callable[[str | None], object]] = []
        # Bytes that leave at the end of this turn.
        self._outgoing: list[bytes] = []
        self._outgoing_size = 0
        self._flush_call: IDelayedCall | None = None
        self._in_turn = False  # a flush will come without a call
        self._writable = True
        # Publishers with messages that wait for `may_publish`.
        self._publishers: dict[Publisher, None] = {}
        # Who asks for nothing to be read, and on behalf of which channel.
        self._held: dict[object, Channel] = {}
        self._resume_call: IDelayedCall | None = None
        # Timers: of the handshake or the close, and of heartbeats each way.
        self._limit_call: IDelayedCall | None = None
        self._send_call: IDelayedCall | None = None
        self._receive_call: IDelayedCall | None = None
        self._sent_at = 0.0
        self._received_at = 0.0

    def __repr__(self) -> str:
        name = f"{self.parameters.name!r} " if self.parameters.name else ""
        return (
            f"<AMQPProtocol {name}to {self.parameters.host}, "
            f"{self._machine.state.value}>"
        )

    # -- the transport ---------------------------------------------------------

    def connectionMade(self) -> None:
        """
        Twisted: the transport is there.
        """
        self._thread = get_ident()
        transport = self._transport()
        transport.registerProducer(self, True)
        self._limit_call = self.reactor.callLater(
            self.parameters.handshake_timeout, self._handshake_timed_out
        )
        # Under TLS nothing is said before the certificate has been looked at.
        if not self._is_tls():
            self._begin()

    def handshakeCompleted(self) -> None:
        """
        Twisted: the TLS handshake has succeeded.
        """
        if self._reason is not None:
            return
        name = self.parameters.certified_name
        try:
            if name is not None:
                verify_peer(self.transport, name)
        except AMQPError as error:
            self._end(error)
            self._transport().abortConnection()
        else:
            self._begin()

    def _begin(self) -> None:
        self._received_at = self._sent_at = self.reactor.seconds()
        self._machine.begin()
        self.flush()

    def dataReceived(self, data: bytes) -> None:
        """
        Twisted: bytes came.
        """
        self._received_at = self.reactor.seconds()
        self._receive(data)

    def _receive(self, data: bytes) -> None:
        self._in_turn = True
        try:
            self._machine.receive(data)
        except RemoteProtocolError as error:
            self._violated(error)
        finally:
            self._in_turn = False
        if self._outgoing:
            self.flush()

    def _violated(self, error: RemoteProtocolError) -> None:
        """
        The peer has broken the rules: tell it, once, and go.
        """
        if self._reason is None:
            self._log.error("{peer} broke the rules: {error}", peer=self, error=error)
        self._machine.violated(error)
        self._end(error)
        self._leave()

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """
        Twisted: the transport has gone.
        """
        if self._reason is None:
            self._end(self._lost(reason))
        self._gone = True
        self._cancel_calls()
        self._outgoing.clear()
        ours = self._reason
        if type(ours) is ConnectionClosed and ours.by_us:
            self._closed.fire(None)
        else:
            assert ours is not None
            self._closed.fail(ours)

    def _lost(self, reason: Failure) -> AMQPError:
        """
        What the end of the transport means.
        """
        state = self._machine.state
        error = translate_failure(
            reason,
            transport=self.transport,
            hostname=self.parameters.certified_name,
            peer=self.parameters.host,
            in_tls_handshake=state is State.NEW and self._is_tls(),
        )
        where = _LOST_WHILE.get(state)
        if where is None or type(error) is not ConnectionLost:
            return error
        explained = ConnectionLost(f"{error.reply_text}, {where}")
        explained.__cause__ = error.__cause__
        return explained

    def _end(self, reason: AMQPError) -> None:
        """
        It is over for everyone who waits, and this is why.
        """
        if self._reason is not None:
            return
        self._reason = reason
        self._cancel_calls()
        self.may_publish = False
        self._held.clear()
        self._machine.lost(reason)
        self._publishers.clear()
        self._opened.fail(reason)
        self._unblocked.fail(reason)

    def _leave(self) -> None:
        """
        Close the transport, once what we have to say has left; and not much later.
        """
        self.flush()
        self._limit_call = self.reactor.callLater(
            self.parameters.close_timeout, self._abort
        )
        transport = self._transport()
        # TLS waits for its producer to be done, and for the peer's last word.
        transport.unregisterProducer()
        transport.resumeProducing()
        transport.loseConnection()

    def _abort(self) -> None:
        self._limit_call = None
        self._transport().abortConnection()

    def _is_tls(self) -> bool:
        return bool(ISSLTransport.providedBy(self.transport))

    def _transport(self) -> Any:
        # Twisted's interfaces for TCP and TLS do not say so, but both have all of
        # what we use: IConsumer, IPushProducer and abortConnection.
        return cast(Any, self.transport)

    def _cancel_calls(self) -> None:
        for call in (
            self._limit_call,
            self._send_call,
            self._receive_call,
            self._flush_call,
            self._resume_call,
        ):
            if call is not None and call.active():
                call.cancel()
        self._limit_call = self._send_call = self._receive_call = None
        self._flush_call = self._resume_call = None

    # -- bytes out -------------------------------------------------------------

    def write(self, data: bytes) -> None:
        """
        The machine's: send bytes, with all else that is sent in this turn.
        """
        if self._gone:
            return
        self._outgoing.append(data)
        self._outgoing_size += len(data)
        if self._outgoing_size >= _FLUSH_SIZE:
            self.flush()
        elif self._flush_call is None and not self._in_turn:
            self._flush_call = self.reactor.callLater(0, self._flush_now)

    def _flush_now(self) -> None:
        self._flush_call = None
        self.flush()

    def flush(self) -> None:
        """
        Give the transport what waits for the end of this turn.
        """
        outgoing = self._outgoing
        if outgoing and not self._gone:
            self._outgoing = []
            self._outgoing_size = 0
            self._sent_at = self.reactor.seconds()
            data = outgoing[0] if len(outgoing) == 1 else b"".join(outgoing)
            cast(ITransport, self.transport).write(data)

    # -- back-pressure ---------------------------------------------------------

    def pauseProducing(self) -> None:
        """
        Twisted: the transport is full.
        """
        self._writable = False
        self.may_publish = False

    def resumeProducing(self) -> None:
        """
        Twisted: the transport has room again.
        """
        self._writable = True
        self._wake()

    def stopProducing(self) -> None:
        """
        Twisted: the transport wants no more; ``connectionLost`` follows.
        """
        self.pauseProducing()

    def wake_when_writable(self, publisher: Publisher) -> None:
        """
        A publisher's: it has messages that wait for `may_publish`.
        """
        if not self.may_publish and self._reason is None:
            self._publishers[publisher] = None

    def _wake(self) -> None:
        self.may_publish = (
            self._writable
            and self.blocked is None
            and self._reason is None
            and self._machine.state is State.OPEN
        )
        if self.may_publish:
            publishers, self._publishers = self._publishers, {}
            for publisher in publishers:
                publisher.release()

    def _hold(self, owner: object, channel: Channel) -> None:
        """
        A consumer's: read nothing more, as too much was read already.
        """
        if not self._held and self._reason is None:
            self._machine.pause()
            self._transport().pauseProducing()
        self._held[owner] = channel

    def _release(self, owner: object) -> None:
        """
        A consumer's: it can take more.
        """
        if self._held.pop(owner, None) is not None and not self._held:
            self._resume_reading()

    def _release_channel(self, channel: Channel) -> None:
        for owner, held in list(self._held.items()):
            if held is channel:
                self._release(owner)

    def _resume_reading(self) -> None:
        if self._reason is None or self._machine.state is State.CLOSING:
            # In a turn of its own: whoever released may be in the middle of things.
            if self._resume_call is None:
                self._resume_call = self.reactor.callLater(0, self._read_on)

    def _read_on(self) -> None:
        self._resume_call = None
        if self._held or self._gone or self._machine.state is State.CLOSED:
            return
        self._received_at = self.reactor.seconds()
        self._transport().resumeProducing()
        self._machine.resume()
        self._receive(b"")

    # -- the handshake: what the machine calls ---------------------------------

    def started(self, start: spec.ConnectionStart) -> None:
        """
        The machine's: choose the mechanism, and ask the credentials.
        """
        self.server_properties = dict(start.server_properties)
        try:
            credentials = choose(self.parameters.credentials, start.mechanisms)
        except AMQPError as error:
            self._fail_handshake(error)
            return
        self._credentials = credentials
        self._warn_of_plain_text(credentials.mechanism)
        self._ask(
            None,
            lambda response: self._machine.start_ok(
                self._client_properties(),
                credentials.mechanism,
                response,
                self.parameters.locale,
                self.parameters.virtual_host,
            ),
        )

    def challenged(self, challenge: bytes) -> None:
        """
        The machine's: the mechanism goes on.
        """
        self._ask(challenge, self._machine.secure_ok)

    def _ask(self, challenge: bytes | None, answer: Callable[[bytes], None]) -> None:
        """
        Ask the credentials, who may take their time, and go on with the answer.
        """
        assert self._credentials is not None

        def answered(response: bytes) -> None:
            if self._reason is None:
                answer(response)

        def failed(failure: Failure) -> None:
            error = failure.value
            if isinstance(error, RemoteProtocolError):
                self._violated(error)
            elif isinstance(error, AMQPError):
                self._fail_handshake(error)
            else:
                refused = AuthenticationFailed(
                    "the credentials could not be had: "
                    f"{type(error).__name__} from {type(self._credentials).__name__}",
                    reply_code=0,
                    by_us=True,
                )
                refused.__cause__ = error
                self._fail_handshake(refused)

        respond = cast("Callable[..., Deferred[bytes]]", self._credentials.respond)
        asked = maybeDeferred(respond, challenge)
        asked.addCallback(answered).addErrback(failed)

    def _fail_handshake(self, error: AMQPError) -> None:
        self._end(error)
        self._leave()

    def _client_properties(self) -> dict[str, Any]:
        properties: dict[str, Any] = {
            "product": "txamqp091",
            "version": __version__,
            "platform": f"Python {platform.python_version()}",
            "information": "AMQP 0-9-1 for Twisted",
        }
        if self.parameters.name:
            properties["connection_name"] = self.parameters.name
        properties.update(self.parameters.client_properties)
        properties["capabilities"] = {
            **_CAPABILITIES,
            **properties.get("capabilities", {}),
        }
        return properties

    def _warn_of_plain_text(self, mechanism: str) -> None:
        if (
            mechanism in ("PLAIN", "AMQPLAIN")
            and not self._is_tls()
            and not _is_local(self._transport().getPeer())
        ):
            self._log.warn(
                "The password for {host} travels unencrypted: use amqps://",
                host=self.parameters.host,
            )

    def opened(self) -> None:
        """
        The machine's: the connection is open.
        """
        self._cancel_limit()
        self._start_heartbeats(self._machine.limits.heartbeat)
        self._wake()
        self._opened.fire(self)

    def _handshake_timed_out(self) -> None:
        self._limit_call = None
        state = self._machine.state
        where = _LOST_WHILE.get(state, f"while {state.value}")
        self._end(
            HandshakeTimeout(
                f"{self.parameters.host} did not open the connection within "
                f"{self.parameters.handshake_timeout} s: it fell silent {where}",
                by_us=True,
            )
        )
        self._transport().abortConnection()

    def _cancel_limit(self) -> None:
        if self._limit_call is not None and self._limit_call.active():
            self._limit_call.cancel()
        self._limit_call = None

    # -- heartbeats ------------------------------------------------------------

    def _start_heartbeats(self, interval: int) -> None:
        if interval:
            later = self.reactor.callLater
            self._send_call = later(interval / 2, self._send_heartbeat)
            self._receive_call = later(interval * 2, self._check_heartbeat)

    def _send_heartbeat(self) -> None:
        """
        Say something if nothing was said for half an interval.  Bytes that the
        transport has not got rid of will do.
        """
        half = self._machine.limits.heartbeat / 2
        quiet = self.reactor.seconds() - self._sent_at
        if quiet >= half:
            quiet = 0.0
            if self._writable:
                self._machine.heartbeat()
                self.flush()
        self._send_call = self.reactor.callLater(half - quiet, self._send_heartbeat)

    def _check_heartbeat(self) -> None:
        """
        Give up on a peer that was silent for two intervals; unless it is we who do
        not listen.
        """
        limit = self._machine.limits.heartbeat * 2
        now = self.reactor.seconds()
        if self._held:
            self._received_at = now
        quiet = now - self._received_at
        if quiet < limit:
            self._receive_call = self.reactor.callLater(
                limit - quiet, self._check_heartbeat
            )
            return
        self._receive_call = None
        self._end(
            HeartbeatTimeout(
                f"nothing was heard from {self.parameters.host} for {limit} s, "
                "two heartbeat intervals"
            )
        )
        # To lose the connection in order would be to wait for the peer to read.
        self._transport().abortConnection()

    # -- blocking --------------------------------------------------------------

    def blocked_by(self, reason: str) -> None:
        """
        The machine's: the broker asks for no more publishing.
        """
        self.blocked = reason
        self.may_publish = False
        self._tell_observers()

    def unblocked(self) -> None:
        """
        The machine's: publishing may go on.
        """
        self.blocked = None
        self._tell_observers()
        waiting, self._unblocked = self._unblocked, OneShot()
        waiting.fire(None)
        self._wake()

    def _tell_observers(self) -> None:
        for observer in list(self._observers):
            try:
                observer(self.blocked)
            except Exception:
                self._log.failure("An observer of connection.blocked failed")

    def when_unblocked(self) -> Deferred[None]:
        """
        :returns: fires when the broker does not block publishing, which may be at
            once; fails with the reason when the connection ends.  Each caller has a
            Deferred of their own; cancelling it does nothing else.
        """
        if self._reason is not None:
            return fail(self._reason)
        if self.blocked is None:
            return succeed(None)
        return self._unblocked.when_fired()

    def observe_blocked(self, observer: Callable[[str | None], object]) -> None:
        """
        Have a function told when the broker blocks publishing, with its reason, and
        when it goes on, with None.
        """
        self._observers.append(observer)

    # -- using the connection --------------------------------------------------

    @property
    def is_open(self) -> bool:
        """
        Whether channels can be opened and used.
        """
        return self._reason is None and self._machine.state is State.OPEN

    def when_open(self) -> Deferred[AMQPProtocol]:
        """
        :returns: fires with this connection once AMQP is open; fails with the reason
            when it ends before that.  Each caller has a Deferred of their own;
            cancelling it does nothing else.
        """
        return self._opened.when_fired()

    def when_closed(self) -> Deferred[None]:
        """
        :returns: fires once the connection was closed by `close` and its transport
            has gone; fails with the reason when it ended otherwise.  Each caller has
            a Deferred of their own; cancelling it does nothing else.
        """
        return self._closed.when_fired()

    def open_channel(self) -> Deferred[Channel]:
        """
        Open a channel.

        :returns: fires with the `Channel`; fails with `ChannelsExhausted` when there
            are as many as the broker allows, with the reason when the connection
            ends first, and with `LocalProtocolError` before `when_open` has fired.
            When it is cancelled, the channel is closed again.
        """
        result: Deferred[Channel] = Deferred(lambda _: None)
        channel = Channel(self)
        reply: Deferred[spec.ChannelOpenOk] = Deferred()

        def agreed(_: spec.ChannelOpenOk) -> None:
            if result.called:
                channel.close()
            else:
                result.callback(channel)

        def refused(failure: Failure) -> None:
            if not result.called:
                result.errback(failure)

        reply.addCallbacks(agreed, refused)
        try:
            self._check_open()
            self._machine.open_channel(channel._attach, reply)
        except AMQPError as error:
            result.errback(error)
        return result

    def update_secret(
        self, secret: str | bytes, reason: str = ""
    ) -> Deferred[spec.ConnectionUpdateSecretOk]:
        """
        Give the broker a new secret, such as an OAuth 2 token, before the last one
        expires.

        :param reason: for the broker's log.
        :returns: fires when the broker has accepted it.  If it does not, it closes
            the connection, and this fails with the reason.
        """
        deferred: Deferred[spec.ConnectionUpdateSecretOk] = Deferred()
        if isinstance(secret, str):
            secret = secret.encode()
        try:
            self._check_open()
            self._machine.update_secret(secret, reason, deferred)
        except AMQPError as error:
            deferred.errback(error)
        return deferred

    def _check_open(self) -> None:
        if self._reason is not None:
            raise self._reason
        if not self.is_open:
            raise LocalProtocolError(
                f"the connection is {self._machine.state.value}, not open: wait for "
                "when_open()"
            )

    def close(self, reply_code: int = 200, reply_text: str = "") -> Deferred[None]:
        """
        Close the connection: AMQP first, then the transport.  All that waits for the
        broker fails at once.

        :returns: fires when the transport has gone, however it did; it does not
            fail.  A broker that does not answer is dropped after the parameter
            ``close_timeout``.  Closing again is harmless, and so is cancelling the
            Deferred.
        """
        if self._reason is None:
            ours = ConnectionClosed(
                reply_text or "the connection was closed by us",
                reply_code=reply_code,
                by_us=True,
            )
            if self._machine.state is State.OPEN:
                self._close(ours)
            else:
                self._end(ours)
                if self.transport is not None:
                    self._transport().abortConnection()
        return self._closed.when_fired().addErrback(lambda _: None)

    def _close(self, reason: ConnectionClosed) -> None:
        self._cancel_calls()
        self._reason = reason
        self.may_publish = False
        held = bool(self._held)
        self._held.clear()
        self._machine.close(reason)
        self.flush()
        self._publishers.clear()
        self._unblocked.fail(reason)
        self._limit_call = self.reactor.callLater(
            self.parameters.close_timeout, self._abort
        )
        if held:
            self._resume_reading()

    def closed(self, reason: AMQPError | None) -> None:
        """
        The machine's: AMQP is over; the broker's close has been answered, or ours has
        been.
        """
        if reason is not None:
            self._end(reason)
        self._cancel_limit()
        self._leave()


def _is_local(peer: IAddress) -> bool:
    """
    Whether a peer is on this machine.
    """
    host = getattr(peer, "host", None)
    try:
        return host is None or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
