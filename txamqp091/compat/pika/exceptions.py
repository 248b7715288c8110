# -*- test-case-name: txamqp091.test.unit.compat.test_pika -*-
"""
pika's exceptions, and what ours become: `translated`.

The ``args`` are pika's: ``code, text = error.args`` works on what the broker closed.
Our own error is the ``__cause__``.
"""

from __future__ import annotations

__all__ = [
    "AMQPChannelError",
    "AMQPConnectionError",
    "AMQPError",
    "AMQPHeartbeatTimeout",
    "AuthenticationError",
    "BodyTooLongError",
    "ChannelClosed",
    "ChannelClosedByBroker",
    "ChannelClosedByClient",
    "ChannelError",
    "ChannelWrongStateError",
    "ConnectionBlockedTimeout",
    "ConnectionClosed",
    "ConnectionClosedByBroker",
    "ConnectionClosedByClient",
    "ConnectionOpenAborted",
    "ConnectionWrongStateError",
    "ConsumerCancelled",
    "DuplicateConsumerTag",
    "DuplicateGetOkCallback",
    "IncompatibleProtocolError",
    "InvalidChannelNumber",
    "InvalidFieldTypeException",
    "InvalidFrameError",
    "MethodNotImplemented",
    "NackError",
    "NoFreeChannels",
    "ProbableAccessDeniedError",
    "ProbableAuthenticationError",
    "ProtocolSyntaxError",
    "ProtocolVersionMismatch",
    "ReentrancyError",
    "ShortStringTooLong",
    "StreamLostError",
    "UnexpectedFrameError",
    "UnroutableError",
    "UnsupportedAMQPFieldException",
    "translated",
]

from collections.abc import Sequence
from typing import Any

from txamqp091 import errors


class AMQPError(Exception):
    """
    The class of all errors.
    """

    def __repr__(self) -> str:
        return f"{type(self).__name__}: {self.args!r}"


class AMQPConnectionError(AMQPError):
    """
    The connection failed, or cannot be used.
    """


class ConnectionOpenAborted(AMQPConnectionError):
    """
    The program closed the connection while it was being opened.
    """


class StreamLostError(AMQPConnectionError):
    """
    The network connection was lost.
    """


class IncompatibleProtocolError(AMQPConnectionError):
    """
    The peer does not speak AMQP 0-9-1.
    """


class AuthenticationError(AMQPConnectionError):
    """
    The broker offers no mechanism that the credentials have.
    """


class ProbableAuthenticationError(AMQPConnectionError):
    """
    The broker refused the user name or the password.
    """


class ProbableAccessDeniedError(AMQPConnectionError):
    """
    The virtual host does not exist, or the user must not enter it.
    """


class NoFreeChannels(AMQPConnectionError):
    """
    All channel numbers are in use.
    """


class ConnectionWrongStateError(AMQPConnectionError):
    """
    The connection is not open.
    """


class _ReplyError(AMQPError):
    """
    An error with the number and the text of AMQP's close.
    """

    def __init__(self, reply_code: int, reply_text: str) -> None:
        super().__init__(int(reply_code), str(reply_text))

    @property
    def reply_code(self) -> int:
        """
        AMQP's number for the reason.
        """
        code: int = self.args[0]
        return code

    @property
    def reply_text(self) -> str:
        """
        The reason.
        """
        text: str = self.args[1]
        return text


class ConnectionClosed(_ReplyError, AMQPConnectionError):
    """
    The connection was closed with AMQP's close.
    """


class ConnectionClosedByBroker(ConnectionClosed):
    """
    The broker closed the connection.
    """


class ConnectionClosedByClient(ConnectionClosed):
    """
    The program closed the connection.
    """


class ConnectionBlockedTimeout(AMQPConnectionError):
    """
    The broker blocked publishing for longer than ``blocked_connection_timeout``.
    """


class AMQPHeartbeatTimeout(AMQPConnectionError):
    """
    The broker was silent for two heartbeat intervals.
    """


class AMQPChannelError(AMQPError):
    """
    The channel failed, or cannot be used.
    """


class ChannelWrongStateError(AMQPChannelError):
    """
    The channel is not open.
    """


class ChannelClosed(_ReplyError, AMQPChannelError):
    """
    The channel was closed with AMQP's close.
    """


class ChannelClosedByBroker(ChannelClosed):
    """
    The broker closed the channel.
    """


class ChannelClosedByClient(ChannelClosed):
    """
    The program closed the channel.
    """


class DuplicateConsumerTag(AMQPChannelError):
    """
    The channel has a consumer of that tag.
    """


class ConsumerCancelled(AMQPChannelError):
    """
    The broker ended a consumer.
    """


class UnroutableError(AMQPChannelError):
    """
    No queue took a mandatory message.

    :ivar messages: the returned messages: ``method``, ``properties``, ``body``.
    """

    def __init__(self, messages: Sequence[Any]) -> None:
        super().__init__(f"{len(messages)} unroutable message(s) returned")
        self.messages = messages


class NackError(AMQPChannelError):
    """
    The broker could not store a message.

    :ivar messages: the returned messages, of which there are none here.
    """

    def __init__(self, messages: Sequence[Any]) -> None:
        super().__init__(f"{len(messages)} message(s) NACKed")
        self.messages = messages


class InvalidChannelNumber(AMQPError):
    """
    There is no such channel number.
    """


class ProtocolSyntaxError(AMQPError):
    """
    A peer broke the rules of the protocol.
    """


class UnexpectedFrameError(ProtocolSyntaxError):
    """
    A frame came when it must not.
    """


class ProtocolVersionMismatch(ProtocolSyntaxError):
    """
    The peer speaks another version.
    """


class BodyTooLongError(ProtocolSyntaxError):
    """
    A body is longer than announced, or than allowed.
    """


class InvalidFrameError(ProtocolSyntaxError):
    """
    A frame is malformed.
    """


class InvalidFieldTypeException(ProtocolSyntaxError):
    """
    A field table has an unknown type.
    """


class UnsupportedAMQPFieldException(ProtocolSyntaxError):
    """
    AMQP cannot carry a value.
    """


class MethodNotImplemented(AMQPError):
    """
    The broker does not implement a method.
    """


class ChannelError(Exception):
    """
    A channel was used wrongly.
    """


class ReentrancyError(Exception):
    """
    A call was made in a callback that must not make it.
    """


class ShortStringTooLong(AMQPError):
    """
    A name is longer than 255 octets.
    """


class DuplicateGetOkCallback(ChannelError):
    """
    A ``basic_get`` was made before the last one was answered.
    """


# What ours become, the special ones first.
_BY_CLASS: list[tuple[type[Exception], type[Exception]]] = [
    (errors.HeartbeatTimeout, AMQPHeartbeatTimeout),
    (errors.ConnectionLost, StreamLostError),
    (errors.AuthenticationFailed, ProbableAuthenticationError),
    (errors.VhostAccessRefused, ProbableAccessDeniedError),
    (errors.MechanismNotOffered, AuthenticationError),
    (errors.ChannelsExhausted, NoFreeChannels),
    (errors.ProtocolVersionMismatch, IncompatibleProtocolError),
    (errors.UnexpectedFrame, UnexpectedFrameError),
    (errors.MethodNotImplemented, MethodNotImplemented),
    (errors.RemoteProtocolError, InvalidFrameError),
    (errors.ConnectFailed, AMQPConnectionError),
    (errors.HandshakeTimeout, AMQPConnectionError),
    (errors.ConnectionBlocked, ConnectionBlockedTimeout),
    (errors.ConsumerCancelled, ConsumerCancelled),
]


def translated(error: BaseException | None) -> Exception:
    """
    pika's exception for one of ours; any other exception stays as it is.
    """
    for ours, theirs in _BY_CLASS:
        if isinstance(error, ours):
            return theirs(str(error))
    if isinstance(error, errors.EncodeError):
        long = "255" in str(error)
        return (ShortStringTooLong if long else UnsupportedAMQPFieldException)(
            str(error)
        )
    if isinstance(error, errors.ConnectionClosed):
        closed = ConnectionClosedByClient if error.by_us else ConnectionClosedByBroker
        return closed(error.reply_code or 200, error.reply_text)
    if isinstance(error, errors.ChannelClosed):
        ended = ChannelClosedByClient if error.by_us else ChannelClosedByBroker
        return ended(error.reply_code, error.reply_text)
    if isinstance(error, errors.AMQPError):
        return AMQPError(str(error))
    return error if isinstance(error, Exception) else AMQPError(str(error))
