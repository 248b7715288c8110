# -*- test-case-name: txamqp091.test.unit.client.test_errors -*-
"""
Every exception this package raises, as one tree.

The tree is cut by whose fault it was, then by what to do next: ask
``error.retriable`` whether trying again, on a new channel or connection, can
help.  `channel_closed` and `connection_closed` turn a broker's reply code into
the class for it.  This module knows no bytes, no frames and no Twisted.
"""

from __future__ import annotations

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
    "LocalProtocolError",
    "MechanismNotOffered",
    "MethodNotImplemented",
    "Nacked",
    "NotAllowed",
    "NotFound",
    "NotImplementedByBroker",
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
    "channel_closed",
    "connection_closed",
    "printable",
]


def printable(text: str, limit: int = 255) -> str:
    """
    What the broker said, fit for a log: one line, no control characters, and
    no longer than ``limit`` characters.
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
    Anything that goes wrong between you and the broker.

    :cvar retriable: whether the same request can succeed later, on a new
        channel or connection, with nothing else changed.
    """

    retriable = False


# -- you broke the rules --------------------------------------------------------


class LocalProtocolError(AMQPError):
    """
    You asked for what the protocol forbids.  Nothing was sent.
    """


class InvalidURI(LocalProtocolError, ValueError):
    """
    A connection URI, or a connection parameter, that cannot be understood.
    """


class EncodeError(LocalProtocolError, ValueError):
    """
    A value that AMQP cannot carry.

    :ivar path: where the value stands, such as ``headers['a'][3]``.
    """

    def __init__(self, path: str, problem: str):
        super().__init__(path, problem)
        self.path = path
        self.problem = problem

    def __str__(self) -> str:
        return f"{self.path}: {self.problem}"


class AlreadySettled(LocalProtocolError):
    """
    A delivery was acknowledged or rejected twice (or needs neither, as its
    consumer said ``auto_ack``).
    """


class ChannelsExhausted(LocalProtocolError):
    """
    The connection has as many channels open as the broker allows.
    """

    retriable = True


class MechanismNotOffered(LocalProtocolError):
    """
    The broker offers none of the SASL mechanisms of the credentials.  No
    secret was sent.
    """


# -- a property that nobody can read ---------------------------------------------


class UndecodableProperty(AMQPError):
    """
    A property of one message is malformed.  The message can still be
    acknowledged or rejected, and its other properties be read, as far as they
    come before the fault.

    :ivar name: the property's name.
    :ivar raw: the bytes of all the message's properties, flags first.
    """

    def __init__(self, name: str, problem: str, raw: bytes):
        super().__init__(name, problem)
        self.name = name
        self.problem = problem
        self.raw = raw

    def __str__(self) -> str:
        return f"the message property {self.name} cannot be decoded: {self.problem}"


class ContentTooLarge(AMQPError):
    """
    A message body is larger than this connection's limit.  It was not kept.

    :ivar size: the size of the body, in bytes.
    :ivar limit: the limit, in bytes.
    :ivar delivery_tag: the message's tag, or 0.
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
    A channel or a connection has ended, and this is why.

    :ivar reply_code: AMQP's number for the reason, 0 if there is none.
    :ivar reply_text: the broker's words, as they came.
    :ivar class_id: the class of the method that was refused, or 0.
    :ivar method_id: that method's number in its class, or 0.
    :ivar operation: the name of that method, such as ``queue.declare``.
    :ivar by_us: whether our side closed.
    """

    reply_code = 0

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
        What lies below: the transport's error, if there was one.
        """
        return self.__cause__

    def __str__(self) -> str:
        code = f"{self.reply_code} " if self.reply_code else ""
        cause = f" (answering {self.operation})" if self.operation else ""
        return f"{code}{printable(self.reply_text)}{cause}"


class ConnectionClosed(Closed):
    """
    The connection has ended; every channel has ended with it.
    """

    retriable = True


class ConnectionLost(ConnectionClosed):
    """
    The transport went without a word from the broker.
    """


class HeartbeatTimeout(ConnectionLost):
    """
    Nothing was heard from the broker for two heartbeat intervals.
    """


class HandshakeTimeout(ConnectionClosed):
    """
    The peer did not open the connection in time.
    """


class ConnectionForced(ConnectionClosed):
    """
    320: an operator, or the broker's shutdown, closed the connection.
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
    530: the virtual host does not exist, or is not for this user.
    """

    reply_code = 530
    retriable = False


class NotAllowed(ConnectionClosed):
    """
    530: the broker forbids what was asked for.
    """

    reply_code = 530
    retriable = False


class ResourceError(ConnectionClosed):
    """
    506: the broker has not got the resources.
    """

    reply_code = 506


class NotImplementedByBroker(ConnectionClosed):
    """
    540 or 541: the broker does not do that.  RabbitMQ 4 may answer so to a
    queue that is neither durable nor exclusive.
    """

    reply_code = 540
    retriable = False


class InternalError(ConnectionClosed):
    """
    541: the broker failed.
    """

    reply_code = 541


class ConnectFailed(ConnectionClosed):
    """
    There is no connection: nobody listens, the name is unknown, or the
    network is down.  ``__cause__`` is Twisted's error.
    """


class TLSFailed(ConnectFailed):
    """
    The TLS handshake failed, or the certificate is not that of the host.  No
    byte of AMQP was sent.
    """

    retriable = False


# -- the peer broke the rules ---------------------------------------------------


class RemoteProtocolError(ConnectionClosed):
    """
    The peer broke the rules, and the connection was closed for it.

    :ivar reply_code: what we close the connection with.
    """

    reply_code = 501
    retriable = False

    def __init__(self, reply_text: str, class_id: int = 0, method_id: int = 0):
        super().__init__(reply_text, class_id=class_id, method_id=method_id, by_us=True)


class FrameError(RemoteProtocolError):
    """
    501: bytes that are not a frame, or a frame larger than was agreed.
    """


class DecodeError(RemoteProtocolError):
    """
    502: the arguments of a method, or a field table, are malformed.
    """

    reply_code = 502


class CommandInvalid(RemoteProtocolError):
    """
    503: a method that may not be sent now.
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
    The peer speaks another version of AMQP, and said which.
    """


# -- the end of a channel ---------------------------------------------------------


class ChannelClosed(Closed):
    """
    The channel has ended.  The connection, and its other channels, have not.
    """


class AccessRefused(ChannelClosed):
    """
    403: the user may not do that.
    """

    reply_code = 403


class NotFound(ChannelClosed):
    """
    404: there is no such queue or exchange.
    """

    reply_code = 404


class ResourceLocked(ChannelClosed):
    """
    405: the queue is exclusive to another connection.  After a reconnect that
    may be your own last one, for as long as its heartbeat lasts.
    """

    reply_code = 405
    retriable = True


class PreconditionFailed(ChannelClosed):
    """
    406: an argument differs from what exists, a delivery tag is unknown, or a
    message is refused.
    """

    reply_code = 406


class DeliveryAckTimeout(PreconditionFailed):
    """
    406: a delivery was not acknowledged within RabbitMQ's ``consumer_timeout``.
    """

    retriable = True


# -- messages --------------------------------------------------------------------


class PublishFailed(AMQPError):
    """
    The broker did not take a message.
    """


class Nacked(PublishFailed):
    """
    The broker says that it could not keep the message.

    RabbitMQ 3.10 may nack all that a channel publishes once a quorum queue has
    lost its leader: try again on a new channel.
    """

    retriable = True

    def __str__(self) -> str:
        return "the broker could not keep the message (basic.nack)"


class Returned(PublishFailed):
    """
    No queue was bound for a mandatory message.

    :ivar message: the message, as the broker sent it back.
    :ivar reply_code: 312 when no queue was bound for it.
    :ivar reply_text: the broker's words.
    """

    def __init__(self, message: object, reply_code: int, reply_text: str):
        super().__init__(reply_code, reply_text)
        self.message = message
        self.reply_code = reply_code
        self.reply_text = reply_text

    def __str__(self) -> str:
        return f"{self.reply_code} {printable(self.reply_text)}"


class BatchFailed(PublishFailed):
    """
    Some messages of a batch were not taken.

    :ivar failures: pairs of a message's place in the batch, counted from 0,
        and its error.
    """

    def __init__(self, failures: list[tuple[int, BaseException]]):
        super().__init__(failures)
        self.failures = failures

    @property
    def retriable(self) -> bool:  # type: ignore[override]
        """
        Whether all of the failed messages may be tried again.
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
    As many messages wait for the broker as a publisher keeps.  This one was not taken;
    wait until there is room.
    """

    retriable = True


class ConnectionBlocked(PublishFailed):
    """
    The broker was short of memory or disk, and took no messages for too long.

    :ivar reason: what the broker is short of, in its own words.
    :ivar sent: whether the message had left already.  The broker may then take it once
        it goes on.
    """

    retriable = True

    def __init__(self, reason: str, sent: bool):
        super().__init__(reason, sent)
        self.reason = reason
        self.sent = sent

    def __str__(self) -> str:
        more = "; it may take the message later" if self.sent else ""
        return f"the broker takes no messages: {printable(self.reason)}{more}"


class CallFailed(AMQPError):
    """
    Whoever was called remotely has failed, and says so.

    :ivar problem: what they say.
    :ivar delivery: the answer.
    """

    def __init__(self, problem: str, delivery: object = None):
        super().__init__(problem, delivery)
        self.problem = problem
        self.delivery = delivery

    def __str__(self) -> str:
        return f"the server has failed: {printable(self.problem)}"


class CallTimeout(AMQPError, TimeoutError):
    """
    There was no answer to a remote call in time.  It may have been dealt with.
    """

    retriable = True


class ConsumerCancelled(AMQPError):
    """
    The broker ended the consumer: its queue was deleted, or failed over.

    :ivar consumer_tag: the consumer that ended.
    :ivar queue: the queue that it consumed from.
    """

    retriable = True

    def __init__(self, consumer_tag: str, queue: str):
        super().__init__(consumer_tag, queue)
        self.consumer_tag = consumer_tag
        self.queue = queue

    def __str__(self) -> str:
        return (
            f"the broker cancelled the consumer {printable(self.consumer_tag)} "
            f"of the queue {printable(self.queue)!r}"
        )


class TopologyFailed(AMQPError):
    """
    Not all of a topology stands.

    :ivar failures: pairs of an exchange, a queue or a binding, and its error.
    """

    def __init__(self, failures: list[tuple[object, BaseException]]):
        super().__init__(failures)
        self.failures = failures

    @property
    def retriable(self) -> bool:  # type: ignore[override]
        """
        Whether all of the failed entities may be tried again.
        """
        return all(getattr(error, "retriable", False) for _, error in self.failures)

    def __str__(self) -> str:
        entity, error = self.failures[0]
        return (
            f"{len(self.failures)} entities of the topology do not stand, the first "
            f"of them {entity}: {printable(str(error))}"
        )


# -- reply codes ------------------------------------------------------------------

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
    The error for a channel that the broker closed.
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
    The error for a connection that the broker closed.
    """
    kind = _CONNECTION_CLOSED.get(reply_code, ConnectionClosed)
    if reply_code == 530 and operation == "connection.open":
        kind = VhostAccessRefused
    return kind(
        reply_text,
        reply_code=reply_code,
        class_id=class_id,
        method_id=method_id,
        operation=operation,
    )
