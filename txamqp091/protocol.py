# -*- test-case-name: txamqp091.test.unit.client.test_protocol -*-
"""
The connection, as a Twisted protocol: bytes in and out, time limits, back-pressure.
The order of methods is the subject of `txamqp091._machine.connection`.

Theory.  A connection has a *reason* when it has ended for its users, and it is *gone*
when its transport is.  `AMQPProtocol._end` and `AMQPProtocol.close` set the reason.
The first reason counts, and everything that waits for the peer fails with it at once.
Then the transport is closed, in order if the peer can still read, and aborted
otherwise; ``connectionLost`` follows.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any, Self, cast
from weakref import WeakSet

from twisted.internet.defer import Deferred, fail, succeed
from twisted.internet.error import ConnectionDone
from twisted.internet.interfaces import (
    IDelayedCall,
    IHandshakeListener,
    IPushProducer,
    IReactorTime,
    ISSLTransport,
    ITCPTransport,
)
from twisted.internet.protocol import Protocol, connectionDone
from twisted.logger import Logger
from twisted.python.failure import Failure
from zope.interface import implementer

from txamqp091._flow import EXCESS, Flow
from txamqp091._immediate import immediate_write, is_plain_tcp
from txamqp091._login import Login, client_properties
from txamqp091._machine.connection import ConnectionMachine, Limits
from txamqp091._machine.states import Role, State
from txamqp091._observer import Observers, OneShot
from txamqp091._shutdown import forget
from txamqp091._timers import Heartbeats, Outgoing, ReadPauses
from txamqp091._tls import Stage, translate_failure, verify_peer
from txamqp091.channel import Channel
from txamqp091.consumer import Consumer
from txamqp091.errors import (
    AMQPError,
    ConnectionClosed,
    ConnectionLost,
    EncodeError,
    HandshakeTimeout,
    HeartbeatTimeout,
    LocalProtocolError,
    RemoteProtocolError,
    ResourceError,
)
from txamqp091.interfaces import AnyReactor
from txamqp091.message import Settler, SettlerFactory
from txamqp091.parameters import ConnectionParameters
from txamqp091.wire import spec

__all__ = ["AMQPProtocol"]

#: How many bytes the transport may hold before publishing waits: two writes of
#: `Outgoing` fill it.  With a third, bodies of 1 MiB cost up to three times as much, as
#: the C library gives the memory for it back each time.
_TRANSPORT_BUFFER = 2 * 131072 - 1

#: How many bytes of answers may wait for a peer that asks for them and does not read.
_UNREAD = 8 << 20

#: How far a connection had come when its transport ended; AMQP, where it is not here.
_STAGES = {State.NEW: Stage.TLS_HANDSHAKE, State.GREETED: Stage.GREETING}

#: What a connection was doing when it ended or timed out, and the likely cause.
_ABOUT = {
    State.NEW: "before TLS was agreed on",
    State.GREETED: (
        "before the peer said anything (does it speak AMQP, and without TLS?)"
    ),
    State.STARTED: "while the credentials were being fetched",
    State.CHALLENGED: "while the credentials were being fetched",
    State.AUTHENTICATING: "while logging in (are the user name and password right?)",
    State.OPENING: "while opening the virtual host",
    State.CLOSING: "while closing",
}


@implementer(IPushProducer, IHandshakeListener)
class AMQPProtocol(Protocol):
    """
    An AMQP connection.  `txamqp091.connect` makes one that is open; after a factory has
    made one, wait for `when_open`.

    :ivar parameters: the `ConnectionParameters`.
    :ivar reactor: the reactor: for timers, and for calls from other threads.
    :ivar transport: Twisted's transport.
    :ivar server_properties: the broker's properties, such as ``product``, ``version``
        and ``capabilities``.
    :ivar blocked: why the broker blocks publishing, or None if it does not.
    :ivar bytes_received: the number of bytes of AMQP that were received.
    :ivar bytes_sent: the number of bytes that the transport was given.
    :ivar untold: the number of consumers that ended with the connection while no
        Deferred waited for their end.
    """

    # Twisted's interfaces for TCP and TLS do not say so, but both have all of what is
    # used: IConsumer, IPushProducer and abortConnection.
    transport: Any

    _log = Logger(namespace="txamqp091.connection")

    def __init__(self, parameters: ConnectionParameters, reactor: AnyReactor) -> None:
        self.parameters = parameters
        self.reactor = cast(IReactorTime, reactor)
        self.server_properties: dict[str, Any] = {}
        self.blocked: str | None = None
        self.bytes_received = 0
        self.bytes_sent = 0
        self.untold = 0
        self._transport_write: Callable[[bytes], object]
        self._write_failure: Exception | None = None
        self._outgoing = Outgoing(self.reactor, self._write)
        self._machine = ConnectionMachine(
            Role.CLIENT,
            self._outgoing.write,
            self,
            Limits(
                frame_max=parameters.frame_max,
                channel_max=parameters.channel_max,
                heartbeat=parameters.heartbeat,
                max_body=parameters.max_body_size,
            ),
        )
        self._flow = Flow(
            self.reactor,
            self._stop_reading,
            self._read_on,
            self._machine.answers_due,
            self._overrun,
        )
        self._read_pauses: ReadPauses | None = None
        self._login: Login | None = None
        self._heartbeats: Heartbeats | None = None
        # The time limit of the handshake, and later of the close.
        self._limit_call: IDelayedCall | None = None
        self._reason: AMQPError | None = None
        self._gone = False
        self._channels: set[Channel] = set()
        self._opened: OneShot[AMQPProtocol] = OneShot()
        self._closed: OneShot[None] = OneShot()
        self._unblocked: OneShot[None] = OneShot()
        self._observers: Observers[[str | None]] = Observers(
            "connection.blocked", self._log
        )
        self._writable = True
        # The bytes of answers that wait, as the peer does not read.
        self._unread = 0
        _connections.add(self)

    def __repr__(self) -> str:
        name = f"{self.parameters.name!r} " if self.parameters.name else ""
        return (
            f"<AMQPProtocol {name}to {self.parameters.host}, "
            f"{self._machine.state.value}>"
        )

    # -- using the connection ------------------------------------------------------

    @property
    def is_open(self) -> bool:
        """
        Whether channels can be opened and used.
        """
        return self._reason is None and self._machine.state is State.OPEN

    @property
    def close_reason(self) -> AMQPError | None:
        """
        The reason why the connection has ended or is ending; None while it is open.
        """
        # Whoever raises it must not lengthen the traceback of the last one.
        return None if self._reason is None else self._reason.with_traceback(None)

    @property
    def heartbeat(self) -> int:
        """
        The heartbeat interval in seconds, 0 for none: what both sides agreed on, and
        the parameter ``heartbeat`` before that.
        """
        return self._machine.limits.heartbeat

    @property
    def frame_max(self) -> int:
        """
        The size of the largest frame in bytes: what both sides agreed on, and the
        parameter ``frame_max`` before that.
        """
        return self._machine.limits.frame_max

    @property
    def channel_max(self) -> int:
        """
        The highest channel number, and so the number of channels: what both sides
        agreed on, and the parameter ``channel_max`` before that.
        """
        return self._machine.limits.channel_max

    @property
    def heard_at(self) -> float | None:
        """
        The time by the reactor's clock when the broker last sent something; None before
        AMQP is open.
        """
        return None if self._heartbeats is None else self._heartbeats.heard_at

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *reason: object) -> None:
        """
        Close the connection, and wait until the transport has gone.
        """
        await self.close()

    def when_open(self) -> Deferred[AMQPProtocol]:
        """
        Wait until AMQP is open.

        :returns: fires with this connection when AMQP is open; fails with the reason
            when the connection ends before that.  Each caller has a Deferred of their
            own; cancelling it does nothing else.
        """
        return self._opened.when_fired()

    def when_closed(self) -> Deferred[None]:
        """
        Wait until the connection has ended.

        :returns: fires when `close` has closed the connection and the transport has
            gone; fails with the reason when the connection ended otherwise.  Each
            caller has a Deferred of their own; cancelling it does nothing else.
        """
        return self._closed.when_fired()

    @property
    def has_work(self) -> bool:
        """
        Whether an answer of the broker is due, or messages wait to be published.
        """
        return self._machine.answers_due() or self._flow.waiting > 0

    def consumers(self) -> list[Consumer]:
        """
        The consumers of all channels.
        """
        return [
            consumer
            for consumer in self._machine.consumers()
            if isinstance(consumer, Consumer)
        ]

    def open_channel(
        self, *, settler: SettlerFactory = Settler, number: int | None = None
    ) -> Deferred[Channel]:
        """
        Open a channel.

        :param settler: the class of the object that sends the settlements of the
            channel's deliveries, a subclass of `txamqp091.message.Settler`: for
            adapters and services.
        :param number: the channel's number; None is the next free one.
        :returns: fires with the `Channel`; fails with `ChannelsExhausted` when
            `channel_max` channels are open, with the reason when the connection ends
            first, and with `LocalProtocolError` before `when_open` has fired, or when
            the number is not free.  Cancelling it closes the channel again.
        """
        result: Deferred[Channel] = Deferred(lambda _: None)
        channel = Channel(self, self._flow, settler)
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
            self._machine.open_channel(channel._attach, reply, number)
            self._channels.add(channel)
        except AMQPError as error:
            result.errback(error.with_traceback(None))
        return result

    def update_secret(
        self, secret: str | bytes, reason: str = ""
    ) -> Deferred[spec.ConnectionUpdateSecretOk]:
        """
        Give the broker a new secret, such as an OAuth 2 token, before the last one
        expires.

        :param reason: for the broker's log.
        :returns: fires when the broker has accepted the secret.  A broker that does not
            accept the secret closes the connection, and the Deferred fails with the
            reason.  Cancelling it ends the waiting only.
        """
        deferred: Deferred[spec.ConnectionUpdateSecretOk] = Deferred()
        try:
            self._check_open()
            if isinstance(secret, str):
                secret = secret.encode("utf-8", "surrogateescape")
            self._machine.update_secret(secret, reason, deferred)
        except UnicodeEncodeError:  # which has the secret in it
            deferred.errback(EncodeError("secret", "it cannot be encoded in UTF-8"))
        except AMQPError as error:
            # Its stack has the secret among its variables.
            deferred.errback(error.with_traceback(None))
        return deferred

    def _check_open(self) -> None:
        if self._reason is not None:
            raise self._reason.with_traceback(None)
        if not self.is_open:
            raise LocalProtocolError(
                f"the connection is {self._machine.state.value}, not open: wait for "
                "when_open()"
            )

    def when_unblocked(self) -> Deferred[None]:
        """
        Wait until the broker does not block publishing.

        :returns: fires then, which can be at once; fails with the reason when the
            connection ends.  Each caller has a Deferred of their own; cancelling it
            does nothing else.
        """
        if self._reason is not None:
            return fail(self._reason.with_traceback(None))
        if self.blocked is None:
            return succeed(None)
        return self._unblocked.when_fired()

    def observe_blocked(
        self, observer: Callable[[str | None], object]
    ) -> Callable[[], None]:
        """
        Have a function called when the broker blocks publishing, with the broker's
        reason, and when the broker stops blocking, with None.  What the function raises
        is logged.

        :returns: ends the observation when it is called; calling it again is harmless.
        """
        return self._observers.add(observer)

    def close(self, reply_code: int = 200, reply_text: str = "") -> Deferred[None]:
        """
        Close the connection: AMQP first, then the transport.  Everything that waits for
        the broker fails at once.

        :returns: fires when the transport has gone, for whatever reason; fails with
            `EncodeError` for a code or a text that AMQP cannot carry.  If the broker
            does not answer within ``close_timeout``, the transport is aborted.  Calling
            it again is harmless, and so is cancelling the Deferred.
        """
        if self._reason is None:
            reason = ConnectionClosed(
                reply_text or "the connection was closed by us",
                reply_code=reply_code,
                by_us=True,
            )
            try:
                spec.ConnectionClose(reply_code, reason.reply_text).encode()
            except AMQPError as error:
                return fail(error)
            if self._machine.state is State.OPEN:
                for channel in self._channels:
                    channel.settler.catch_up()
                self._stop(reason)
                self._set_limit(self.parameters.close_timeout, self._abort)
                self._machine.close(reason)
                self._outgoing.flush()
            else:
                self._end(reason)
                if self.transport is not None:
                    self.transport.abortConnection()
        return self._closed.when_over()

    # -- the transport -------------------------------------------------------------

    def connectionMade(self) -> None:
        """
        Twisted: the transport is there.
        """
        transport = self.transport
        if self._reason is not None:  # closed before it was connected
            transport.abortConnection()
            return
        # Or else one write of `Outgoing` would fill the transport, and stop publishing
        # until the next turn: 15 % of the cost of a publish, for 192 KiB at the most.
        transport.bufferSize = _TRANSPORT_BUFFER
        # And so that all of it leaves by one system call: a fifth of that of 1 MiB.
        transport.SEND_LIMIT = 2 * _TRANSPORT_BUFFER
        transport.registerProducer(self, True)
        self._transport_write = immediate_write(transport, self._write_failed)
        seconds = self.parameters.read_pause
        if seconds and is_plain_tcp(transport):
            self._read_pauses = ReadPauses(
                self.reactor, seconds, self._pause_reads, self._resume_reads
            )
        if ITCPTransport.providedBy(transport):
            # `Outgoing` joins what belongs together.  Without this, a small write waits
            # until the peer has acknowledged the one before: 40 ms, often.
            transport.setTcpNoDelay(True)
        self._set_limit(self.parameters.handshake_timeout, self._handshake_timed_out)
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
            self.transport.abortConnection()
        else:
            self._begin()

    def _begin(self) -> None:
        self._machine.begin()
        self._outgoing.flush()

    def dataReceived(self, data: bytes) -> None:
        """
        Twisted: bytes came.
        """
        self.bytes_received += len(data)
        if self._heartbeats is not None:
            self._heartbeats.heard()
        outgoing = self._outgoing
        outgoing.in_turn = True
        full, unsent = outgoing.paused, outgoing.size
        try:
            self._machine.receive(data)
        except RemoteProtocolError as error:
            # On its stack are the peer's bytes, which it would keep.
            self._violated(error.with_traceback(None))
        finally:
            outgoing.in_turn = self._gone
        if not outgoing.paused:
            outgoing.flush()
        elif full:  # and so what was sent now are no messages, which wait elsewhere
            self._replied(unsent, outgoing.size)
        if self._read_pauses is not None:
            self._read_pauses.received(len(data))

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """
        Twisted: the transport has gone.
        """
        if self._write_failure is not None and reason.check(ConnectionDone):
            reason = Failure(self._write_failure)
        self._end(self._reason or self._lost(reason))
        self._gone = True
        forget(self)
        self._clear_limit()
        self._outgoing.stop()
        if self._read_pauses is not None:
            self._read_pauses.stop()
        ours = self._reason
        assert ours is not None
        if self.untold and not self._closed.awaited:
            self._log.warn(
                "The connection to {host} has ended: {reason}.  {consumers} "
                "consumer(s) on it have ended.  Wait for when_closed() to connect "
                "again, or use AMQPClientService, which does so by itself",
                host=self.parameters.host,
                reason=ours,
                consumers=self.untold,
            )
        if type(ours) is ConnectionClosed and ours.by_us:
            self._closed.fire(None)
        else:
            self._closed.fail(ours)

    def _lost(self, reason: Failure) -> AMQPError:
        """
        Make the error for the end of the transport.
        """
        state = self._machine.state
        error = translate_failure(
            reason,
            stage=_STAGES.get(state, Stage.AMQP),
            transport=self.transport,
            hostname=self.parameters.certified_name,
            peer=self.parameters.host,
        )
        about = self._about(state)
        if not about or type(error) is not ConnectionLost:
            return error
        explained = ConnectionLost(f"{error.reply_text}, {about}", by_us=error.by_us)
        explained.__cause__ = error.__cause__
        return explained

    def _replied(self, before: int, now: int) -> None:
        """
        Count the answers to what was received while the transport is full.

        :param before: the bytes that waited to leave before that.
        :param now: the bytes that wait now.
        """
        # What leaves first was written first.
        self._unread = min(self._unread, before) + max(now - before, 0)
        if self._unread > _UNREAD and self._reason is None:
            self._end(
                ResourceError(
                    f"{self.parameters.host} makes us answer, and does not read the "
                    f"answers: {self._unread} bytes wait to be sent",
                    by_us=True,
                )
            )
            self.transport.abortConnection()

    def _overrun(self) -> None:
        """
        End the connection: a consumer cannot take more, and an answer that is due does
        not come.
        """
        self._violated(
            ResourceError(
                f"the broker has sent {EXCESS >> 20} MiB of deliveries that no handler "
                "has taken, and not the answer that it owes: limit what is sent by "
                "acknowledgements and a prefetch",
                by_us=True,
            )
        )

    def _about(self, state: State) -> str:
        """
        What the connection was doing when it ended, as a part of a sentence, or "".
        """
        if state is State.GREETED and self._is_tls():
            return (
                "before the peer said anything (does it speak AMQP, and does it want "
                "a client certificate?)"
            )
        return _ABOUT.get(state, "")

    def _write_failed(self, error: Exception) -> None:
        self._write_failure = error

    def _write(self, data: bytes) -> None:
        self.bytes_sent += len(data)
        self._transport_write(data)
        if not self._flow.reading:
            self._flow.said()

    def _is_tls(self) -> bool:
        return bool(ISSLTransport.providedBy(self.transport))

    # -- the end -------------------------------------------------------------------

    def _stop(self, reason: AMQPError) -> None:
        """
        End the connection for its users.
        """
        self._reason = reason
        self._clear_limit()
        if self._login is not None:
            self._login.cancel()
        if self._heartbeats is not None:
            self._heartbeats.stop()
        self._flow.end()
        self._opened.fail(reason)
        self._unblocked.fail(reason)

    def _end(self, reason: AMQPError) -> None:
        """
        End the connection for its users and on the wire, but not the transport.
        """
        if self._reason is None:
            self._stop(reason)
        self._flow.stop()
        assert self._reason is not None
        self._machine.lost(self._reason)

    def _violated(self, error: RemoteProtocolError | ResourceError) -> None:
        """
        End the connection, and tell the peer why: it violated the protocol, or sends
        too much.
        """
        if self._reason is None:
            self._log.error("{peer!r}: {error}", peer=self, error=error)
        self._machine.violated(error)
        self._end(error)
        self._leave()

    def _leave(self) -> None:
        """
        Close the transport when everything was sent, or after ``close_timeout``.
        """
        transport = self.transport
        # TLS waits for its producer to be done, and for the peer's last word.
        transport.unregisterProducer()
        self._outgoing.paused = False
        self._outgoing.flush()
        if self._gone:  # transports in memory can go while they are written to
            return
        self._set_limit(self.parameters.close_timeout, self._abort)
        transport.resumeProducing()
        transport.loseConnection()

    def _abort(self) -> None:
        self.transport.abortConnection()

    def _leave_to_parent(self) -> None:
        """
        This is a copy in a child of the process: what it sends would come between what
        the parent sends, and what it reads would be missing there.
        """
        self._reason = reason = LocalProtocolError(
            "the connection was made before this process was forked, and belongs to "
            "the parent: connect again here"
        )
        self._machine.leave(reason)
        self._clear_limit()
        self._outgoing.stop()
        if self._heartbeats is not None:
            self._heartbeats.stop()
        if self._read_pauses is not None:
            self._read_pauses.stop()
        # What waits here was copied, too, and is the parent's.
        self._closed = OneShot()
        self._closed.fail(reason)
        for channel in self._channels:
            channel._leave(reason)

    def _set_limit(self, seconds: float, expired: Callable[[], None]) -> None:
        self._clear_limit()
        self._limit_call = self.reactor.callLater(seconds, expired)

    def _clear_limit(self) -> None:
        if self._limit_call is not None and self._limit_call.active():
            self._limit_call.cancel()
        self._limit_call = None

    # -- back-pressure -------------------------------------------------------------

    def pauseProducing(self) -> None:
        """
        Twisted: the transport is full.
        """
        self._writable = False
        self._outgoing.paused = True
        self._flow.allow(False)

    def resumeProducing(self) -> None:
        """
        Twisted: the transport has room again.
        """
        self._writable = True
        self._outgoing.paused = False
        self._outgoing.flush()
        self._allow_publishing()

    def stopProducing(self) -> None:
        """
        Twisted: the transport wants no more; ``connectionLost`` follows.
        """
        self.pauseProducing()

    def _allow_publishing(self) -> None:
        self._flow.allow(self._writable and self.blocked is None and self.is_open)

    def _stop_reading(self) -> None:
        assert self._heartbeats is not None  # as it was open: there are consumers
        self._heartbeats.deaf = True
        self._machine.pause()
        self.transport.pauseProducing()

    def _read_on(self) -> None:
        assert self._heartbeats is not None
        self._heartbeats.deaf = False
        self.transport.resumeProducing()
        self._machine.resume()
        self.dataReceived(b"")

    def _pause_reads(self) -> bool:
        if self._gone or self._reason is not None or not self._flow.reading:
            return False
        if self._machine.state is not State.OPEN or self._machine.answers_due():
            return False
        self.transport.pauseProducing()
        return True

    def _resume_reads(self) -> None:
        if self._flow.reading:
            self.transport.resumeProducing()

    # -- what the machine calls: see `ConnectionSink` --------------------------------

    def started(self, start: spec.ConnectionStart) -> None:
        """
        The broker has introduced itself.
        """
        self.server_properties = dict(start.server_properties)
        try:
            login = Login(self.parameters, start.mechanisms)
        except AMQPError as error:
            self._give_up(error)
            return
        if not self._is_tls():
            peer = self.transport.getPeer()
            login.warn_if_exposed(self.parameters.host, peer)
        self._login = login
        login.ask(None, self._answer_start, self._give_up)

    def _answer_start(self, response: bytes) -> None:
        if self._reason is None:
            assert self._login is not None
            self._machine.start_ok(
                client_properties(self.parameters),
                self._login.mechanism,
                response,
                self.parameters.locale,
                self.parameters.virtual_host,
            )

    def challenged(self, challenge: bytes) -> None:
        """
        The SASL mechanism goes on.
        """
        assert self._login is not None
        self._login.ask(challenge, self._answer_challenge, self._give_up)

    def _answer_challenge(self, response: bytes) -> None:
        if self._reason is None:
            self._machine.secure_ok(response)

    def _give_up(self, error: AMQPError) -> None:
        """
        We cannot log in.
        """
        if self._reason is not None:  # and it is too late for that
            return
        if isinstance(error, RemoteProtocolError):
            self._violated(error)
        else:
            self._end(error)
            self._leave()

    def opened(self) -> None:
        """
        The connection is open.
        """
        self._clear_limit()
        self._heartbeats = Heartbeats(
            self.reactor,
            self._machine.limits.heartbeat,
            self._outgoing,
            self._send_heartbeat,
            self._fell_silent,
        )
        self._allow_publishing()
        self._opened.fire(self)

    def _handshake_timed_out(self) -> None:
        state = self._machine.state
        about = self._about(state) or f"while {state.value}"
        self._end(
            HandshakeTimeout(
                f"the connection to {self.parameters.host} was not open within "
                f"{self.parameters.handshake_timeout} s: the time was up {about}",
                by_us=True,
            )
        )
        self.transport.abortConnection()

    def _send_heartbeat(self) -> None:
        if getattr(self.transport, "disconnecting", False) is True:
            # The program has called loseConnection, and TLS waits for its producer.
            words = "this side closed the transport (loseConnection)"
            self._end(ConnectionLost(words, by_us=True))
            self._set_limit(self.parameters.close_timeout, self._abort)
            self.transport.unregisterProducer()
            return
        # A transport that is full has enough to say.
        if self._writable:
            self._machine.heartbeat()
            self._outgoing.flush()

    def _fell_silent(self, seconds: int) -> None:
        self._end(
            HeartbeatTimeout(
                f"nothing was heard from {self.parameters.host} for {seconds} s, "
                "two heartbeat intervals"
            )
        )
        # To lose the connection in order would be to wait for the peer to read.
        self.transport.abortConnection()

    def blocked_by(self, reason: str) -> None:
        """
        The broker asks for no more publishing.
        """
        self.blocked = self._flow.blocked = reason
        self._flow.allow(False)
        self._observers.tell(reason)

    def unblocked(self) -> None:
        """
        Publishing may go on.
        """
        self.blocked = self._flow.blocked = None
        self._observers.tell(None)
        waiting, self._unblocked = self._unblocked, OneShot()
        waiting.fire(None)
        self._allow_publishing()

    def closed(self, reason: AMQPError | None) -> None:
        """
        AMQP is over; the broker's close has been answered, or ours has been.
        """
        if reason is not None:
            self._end(reason)
        self._leave()


_connections: WeakSet[AMQPProtocol] = WeakSet()


def _forked() -> None:
    for connection in _connections:
        connection._leave_to_parent()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forked)
