# -*- test-case-name: txamqp091.test.unit.client.test_errors -*-
"""
Every exception that this package raises, as one tree.

The classes are grouped first by who caused the error, then by what to do next:
``error.retriable`` says whether the same request can succeed later, on a new channel or
connection.  `channel_closed` and `connection_closed` make the error for a reply
code of the broker.  This module imports the standard library only.

An error can be pickled and copied with its texts and attributes.  A pickle has no
``__cause__`` and no traceback, as for every Python exception.
"""

from __future__ import annotations

import re

__all__ = [
    "AMQPError",
    "AccessRefused",
    "AlreadySettled",
    "AuthenticationFailed",
    "BatchFailed",
    "CallFailed",
    "CallTimeout",
    "ChannelClosed",
    "ChannelError",
    "ChannelsExhausted",
    "Closed",
    "CommandInvalid",
    "ConnectFailed",
    "ConnectionBlocked",
    "ConnectionClosed",
    "ConnectionForced",
    "ConnectionLost",
    "ConsumerCancelled",
    "ContentTooLarge",
    "DecodeError",
    "DeliveryAckTimeout",
    "EncodeError",
    "FrameError",
    "HandshakeTimeout",
    "HeartbeatTimeout",
    "InternalError",
    "InvalidURI",
    "LimitReached",
    "LocalProtocolError",
    "MechanismNotOffered",
    "MethodNotImplemented",
    "Nacked",
    "NotAllowed",
    "NotFound",
    "NotImplementedByBroker",
    "NotInstalled",
    "PreconditionFailed",
    "ProtocolVersionMismatch",
    "PublishFailed",
    "PublisherFull",
    "RemoteProtocolError",
    "ResourceError",
    "ResourceLocked",
    "Returned",
    "TLSFailed",
    "TopologyFailed",
    "UndecodableProperty",
    "UnexpectedFrame",
    "VhostAccessRefused",
]


def printable(text: str, limit: int = 255) -> str:
    """
    A text from the broker as a log can show it: one line, without control characters,
    cut at ``limit`` characters.
    """
    if len(text) > limit:
        text = text[: limit - 3] + "..."
    if text.isprintable():
        return text
    return "".join(
        character
        if character.isprintable()
        else character.encode("unicode_escape", "surrogatepass").decode("ascii")
        for character in text
    )


class AMQPError(Exception):
    """
    The base class of all errors of this package.

    :cvar retriable: whether the same request can succeed later, on a new channel or
        connection, with nothing else changed.
    """

    retriable = False


# -- you broke the rules --------------------------------------------------------


class LocalProtocolError(AMQPError):
    """
    The caller asked for something that the protocol forbids.  Nothing was sent.
    """


class InvalidURI(LocalProtocolError, ValueError):
    """
    A connection URI or a connection parameter is not valid.
    """


class NotInstalled(AMQPError, ImportError):
    """
    An optional dependency is not installed.  The text says what to install.
    """


class EncodeError(LocalProtocolError, ValueError):
    """
    AMQP cannot carry a value.

    :ivar path: the place of the value, such as ``headers['a'][3]``.
    :ivar problem: what is wrong with the value.
    """

    def __init__(self, path: str, problem: str):
        super().__init__(path, problem)
        self.path = path
        self.problem = problem

    def __str__(self) -> str:
        return f"{self.path}: {self.problem}"


class AlreadySettled(LocalProtocolError):
    """
    A delivery was settled twice, or belongs to a consumer with ``auto_ack``, whose
    deliveries need no settlement.
    """


class ChannelsExhausted(LocalProtocolError):
    """
    The connection has as many open channels as was negotiated with the broker.
    """

    retriable = True


class MechanismNotOffered(LocalProtocolError):
    """
    The broker offers none of the SASL mechanisms of the credentials.  No secret was
    sent.
    """


# -- a message that cannot be read -----------------------------------------------


class UndecodableProperty(AMQPError):
    """
    A property of one message is malformed.  The message can still be settled, and the
    properties before the malformed one can still be read.

    :ivar name: the property's name.
    :ivar problem: what is wrong with the property.
    :ivar raw: the bytes of all properties of the message, flags first.
    """

    def __init__(self, name: str, problem: str, raw: bytes):
        super().__init__(name, problem)
        self.name = name
        self.problem = problem
        self.raw = raw

    def __reduce__(self) -> tuple[object, ...]:
        return type(self), (self.name, self.problem, self.raw), vars(self)

    def __str__(self) -> str:
        return f"the message property {self.name} cannot be decoded: {self.problem}"


class ContentTooLarge(AMQPError):
    """
    The body of a message is larger than ``max_body_size``.  The body was not kept.

    :ivar size: the size of the body, in bytes.
    :ivar limit: the limit, in bytes.
    :ivar delivery_tag: the message's delivery tag, or 0.
    """

    delivery_tag = 0

    def __init__(self, size: int, limit: int):
        super().__init__(size, limit)
        self.size = size
        self.limit = limit

    def __str__(self) -> str:
        return (
            f"a message body of {self.size} bytes is over the limit of "
            f"{self.limit} (the parameter max_body_size)"
        )


# -- the end of a channel or connection -----------------------------------------


class Closed(AMQPError):
    """
    The reason why a channel or a connection has ended.

    :ivar reply_code: AMQP's number for the reason, 0 if there is none.
    :ivar reply_text: the text of the reason; from the broker, it is not escaped here.
    :ivar class_id: the class number of the method that the broker refused, or 0.
    :ivar method_id: the number of that method in its class, or 0.
    :ivar operation: the name of that method, such as ``queue.declare``, or "".
    :ivar by_us: whether this side closed.
    """

    reply_code = 0
    _without_text = ""

    def __init__(
        self,
        reply_text: str = "",
        *,
        reply_code: int | None = None,
        class_id: int = 0,
        method_id: int = 0,
        operation: str = "",
        by_us: bool = False,
    ):
        super().__init__(reply_text)
        if reply_code is not None:
            self.reply_code = reply_code
        self.reply_text = reply_text
        self.class_id = class_id
        self.method_id = method_id
        self.operation = operation
        self.by_us = by_us

    @property
    def reason(self) -> BaseException | None:
        """
        The transport's error that caused this one, if there was one.
        """
        return self.__cause__

    def __str__(self) -> str:
        code = f"{self.reply_code} " if self.reply_code else ""
        text = printable(self.reply_text) or self._without_text
        cause = f" (answering {self.operation})" if self.operation else ""
        return f"{code}{text}{cause}"


class ConnectionClosed(Closed):
    """
    The connection has ended, and all its channels with it.
    """

    retriable = True
    _without_text = "the connection was closed without a reason"


class ConnectionLost(ConnectionClosed):
    """
    The transport ended, and the broker had not closed the AMQP connection.
    """


class HeartbeatTimeout(ConnectionLost):
    """
    Nothing was received from the broker for two heartbeat intervals.
    """


class HandshakeTimeout(ConnectionClosed):
    """
    AMQP was not open within ``handshake_timeout``.
    """


class ConnectionForced(ConnectionClosed):
    """
    320: an operator closed the connection, or the broker is shutting down.
    """

    reply_code = 320


class AuthenticationFailed(ConnectionClosed):
    """
    403: the broker refused the credentials.
    """

    reply_code = 403
    retriable = False


class VhostAccessRefused(ConnectionClosed):
    """
    530: the virtual host does not exist, or the user has no access to it.
    """

    reply_code = 530
    retriable = False


class NotAllowed(ConnectionClosed):
    """
    530: the broker does not allow the operation.
    """

    reply_code = 530
    retriable = False


class LimitReached(NotAllowed):
    """
    530: a limit on connections or channels is reached, of the user, of the virtual host
    or of the node.  Try again when others have closed theirs, or raise the limit.
    """

    retriable = True


class ResourceError(ConnectionClosed):
    """
    506: the broker is short of a resource; or, with ``by_us``, the broker sends more
    than this side can hold.
    """

    reply_code = 506


class NotImplementedByBroker(ConnectionClosed):
    """
    540 or 541: the broker does not implement the operation.  RabbitMQ 4 can refuse a
    queue that is neither durable nor exclusive in this way.
    """

    reply_code = 540
    retriable = False


class InternalError(ConnectionClosed):
    """
    541: an internal error of the broker.
    """

    reply_code = 541


class ConnectFailed(ConnectionClosed):
    """
    There is no connection: no server listens at the port, the host name is unknown, or
    the network is down.  ``__cause__`` is Twisted's error.
    """


class TLSFailed(ConnectFailed):
    """
    The TLS handshake failed, or the certificate is not valid for the host.  No
    credentials were sent.
    """

    retriable = False


# -- the peer broke the rules ---------------------------------------------------


class RemoteProtocolError(ConnectionClosed):
    """
    The peer violated the protocol, and this side closed the connection.

    :ivar reply_code: the code that the connection was closed with.
    """

    reply_code = 501
    retriable = False

    def __init__(self, reply_text: str, class_id: int = 0, method_id: int = 0):
        super().__init__(reply_text, class_id=class_id, method_id=method_id, by_us=True)


class FrameError(RemoteProtocolError):
    """
    501: bytes that are not a frame, or a frame larger than ``frame_max``.
    """


class DecodeError(RemoteProtocolError):
    """
    502: the arguments of a method, or a field table, are malformed.
    """

    reply_code = 502


class CommandInvalid(RemoteProtocolError):
    """
    503: a method that the peer may not send now.
    """

    reply_code = 503


class ChannelError(RemoteProtocolError):
    """
    504: a frame for a channel that is not open.
    """

    reply_code = 504


class UnexpectedFrame(RemoteProtocolError):
    """
    505: a frame of the wrong type, such as a body without a header.
    """

    reply_code = 505


class MethodNotImplemented(RemoteProtocolError):
    """
    540: a class or method that AMQP 0-9-1 does not have.
    """

    reply_code = 540


class ProtocolVersionMismatch(RemoteProtocolError):
    """
    The peer speaks another version of AMQP, which the text names.
    """


# -- the end of a channel ---------------------------------------------------------


class ChannelClosed(Closed):
    """
    The channel has ended.  The connection and its other channels have not.
    """

    _without_text = "the channel was closed without a reason"


class AccessRefused(ChannelClosed):
    """
    403: the user has no permission for the operation.
    """

    reply_code = 403


class NotFound(ChannelClosed):
    """
    404: the queue or exchange does not exist.
    """

    reply_code = 404


class ResourceLocked(ChannelClosed):
    """
    405: the queue is exclusive to another connection.  After a reconnect this can be
    the program's own former connection, until its heartbeat times out at the broker.
    """

    reply_code = 405
    retriable = True


class PreconditionFailed(ChannelClosed):
    """
    406: a queue or exchange exists with other arguments, a delivery tag is unknown, or
    a message is refused.
    """

    reply_code = 406


class DeliveryAckTimeout(PreconditionFailed):
    """
    406: a delivery was not settled within RabbitMQ's ``consumer_timeout``.
    """

    retriable = True


# -- messages --------------------------------------------------------------------


class PublishFailed(AMQPError):
    """
    The broker did not accept a message.
    """


class Nacked(PublishFailed):
    """
    The broker could not store the message (``basic.nack``).

    RabbitMQ 3.10 can nack everything that a channel publishes after a quorum queue has
    lost its leader: publish again on a new channel.
    """

    retriable = True

    def __str__(self) -> str:
        return "the broker could not keep the message (basic.nack)"


class Returned(PublishFailed):
    """
    The broker returned a mandatory message, since no queue is bound for it.

    :ivar message: the message, as the broker sent it back.
    :ivar reply_code: 312 when no queue is bound for the message.
    :ivar reply_text: the broker's text, not escaped.
    """

    def __init__(self, message: object, reply_code: int, reply_text: str):
        super().__init__(reply_code, reply_text)
        self.message = message
        self.reply_code = reply_code
        self.reply_text = reply_text

    def __reduce__(self) -> tuple[object, ...]:
        arguments = (self.message, self.reply_code, self.reply_text)
        return type(self), arguments, vars(self)

    def __str__(self) -> str:
        return f"{self.reply_code} {printable(self.reply_text)}"


class BatchFailed(PublishFailed):
    """
    The broker did not accept some messages of a batch.

    :ivar failures: pairs of a message's place in the batch, counted from 0, and the
        message's error.
    """

    def __init__(self, failures: list[tuple[int, BaseException]]):
        super().__init__(failures)
        self.failures = failures

    @property
    def retriable(self) -> bool:  # type: ignore[override]
        """
        Whether all failed messages can be published again.
        """
        return all(getattr(error, "retriable", False) for _, error in self.failures)

    def __str__(self) -> str:
        place, error = self.failures[0]
        return (
            f"{len(self.failures)} messages of the batch failed, "
            f"the first of them number {place}: {error}"
        )


class PublisherFull(PublishFailed):
    """
    The publisher keeps as many messages as its limit allows.  The message was not
    taken: wait until there is room.
    """

    retriable = True


class ConnectionBlocked(PublishFailed):
    """
    The broker blocks publishing, since it is short of memory or disk.

    :ivar reason: what the broker is short of, in the broker's words, not escaped.
    :ivar sent: whether the message was already sent.  The broker can then still accept
        the message when it stops blocking.
    """

    retriable = True

    def __init__(self, reason: str, sent: bool):
        super().__init__(reason, sent)
        self.reason = reason
        self.sent = sent

    def __str__(self) -> str:
        more = "; it can accept the message later" if self.sent else ""
        return f"the broker blocks publishing: {printable(self.reason)}{more}"


class CallFailed(AMQPError):
    """
    The server of a remote call answered that it has failed.

    :ivar problem: the server's text, not escaped.
    :ivar delivery: the answer; None in a pickle or a copy.
    """

    def __init__(self, problem: str, delivery: object = None):
        super().__init__(problem)
        self.problem = problem
        self.delivery = delivery

    def __reduce__(self) -> tuple[object, ...]:
        # A delivery belongs to the channel that it came on.
        return type(self), (self.problem,), {**vars(self), "delivery": None}

    def __str__(self) -> str:
        return f"the server has failed: {printable(self.problem)}"


class CallTimeout(AMQPError, TimeoutError):
    """
    The answer to a remote call did not come in time.  The server can still have handled
    the call.
    """

    retriable = True


class ConsumerCancelled(AMQPError):
    """
    The broker ended the consumer.  It does not say why: the queue was deleted or has
    failed over; or, for a quorum queue of RabbitMQ 4.3, a delivery was not settled in
    time.

    :ivar consumer_tag: the tag of the consumer.
    :ivar queue: the queue that the consumer consumed from.
    :ivar unsettled: how many deliveries of the consumer were not settled.  If there are
        any, and the queue still exists, one of them exceeded ``consumer_timeout``.
    """

    retriable = True

    def __init__(self, consumer_tag: str, queue: str, unsettled: int = 0):
        super().__init__(consumer_tag, queue, unsettled)
        self.consumer_tag = consumer_tag
        self.queue = queue
        self.unsettled = unsettled

    @property
    def cause(self) -> str:
        """
        The likely cause, and the remedy where there is one.
        """
        if not self.unsettled:
            return "the queue was deleted, or has failed over"
        return (
            "the likely cause, if the queue still exists: a delivery was not settled "
            f"within consumer_timeout ({self.unsettled} are not settled); settle "
            "deliveries sooner, or raise the queue's consumer_timeout"
        )

    def __str__(self) -> str:
        return (
            f"the broker cancelled the consumer {printable(self.consumer_tag)} "
            f"of the queue {printable(self.queue)!r}: {self.cause}"
        )


class TopologyFailed(AMQPError):
    """
    Some entities of a topology could not be declared.

    :ivar failures: pairs of an exchange, a queue or a binding, and its error.
    """

    def __init__(self, failures: list[tuple[object, BaseException]]):
        super().__init__(failures)
        self.failures = failures

    @property
    def retriable(self) -> bool:  # type: ignore[override]
        """
        Whether all failed entities can be declared again.
        """
        return all(getattr(error, "retriable", False) for _, error in self.failures)

    def __str__(self) -> str:
        entity, error = self.failures[0]
        return (
            f"{len(self.failures)} entities of the topology could not be declared, "
            f"the first of them {entity}: {printable(str(error))}"
        )


# -- reply codes ------------------------------------------------------------------

# RabbitMQ's texts for limits: "connection limit (1) is reached", "number of channels
# opened for user 'u' has reached the maximum allowed user limit of (10)".  The quoted
# names of users and virtual hosts can have any words in them.
_LIMIT = re.compile(r"\blimit\b", re.IGNORECASE)
_QUOTED = re.compile(r"'[^']*'")

_CHANNEL_CLOSED: dict[int, type[ChannelClosed]] = {
    each.reply_code: each
    for each in (AccessRefused, NotFound, ResourceLocked, PreconditionFailed)
}

_CONNECTION_CLOSED: dict[int, type[ConnectionClosed]] = {
    320: ConnectionForced,
    403: AuthenticationFailed,
    506: ResourceError,
    530: NotAllowed,
    540: NotImplementedByBroker,
    541: InternalError,
}


def channel_closed(
    reply_code: int,
    reply_text: str,
    class_id: int = 0,
    method_id: int = 0,
    operation: str = "",
) -> ChannelClosed:
    """
    Make the error for a channel that the broker closed.
    """
    kind = _CHANNEL_CLOSED.get(reply_code, ChannelClosed)
    # RabbitMQ's words for it: "delivery acknowledgement on channel 1 timed out".
    if reply_code == 406 and "delivery acknowledgement" in reply_text:
        kind = DeliveryAckTimeout
    return kind(
        reply_text,
        reply_code=reply_code,
        class_id=class_id,
        method_id=method_id,
        operation=operation,
    )


def connection_closed(
    reply_code: int,
    reply_text: str,
    class_id: int = 0,
    method_id: int = 0,
    operation: str = "",
) -> ConnectionClosed:
    """
    Make the error for a connection that the broker closed.
    """
    kind = _CONNECTION_CLOSED.get(reply_code, ConnectionClosed)
    about, passing = _QUOTED.sub("", reply_text), False
    if kind is NotAllowed and _LIMIT.search(about) and "not found" not in about:
        kind = LimitReached
    elif kind is NotAllowed and operation == "connection.open":
        kind, passing = VhostAccessRefused, about.rstrip(". ").endswith("is down")
    error = kind(
        reply_text,
        reply_code=reply_code,
        class_id=class_id,
        method_id=method_id,
        operation=operation,
    )
    if passing:
        error.retriable = True
    return error
