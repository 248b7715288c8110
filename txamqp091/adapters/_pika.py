# -*- test-case-name: txamqp091.test.unit.adapters.test_blocking_pika -*-
"""
Names that programs written for pika know, for `txamqp091.adapters.blocking`.

Each is something of ours; there is nothing of pika's behaviour here.
"""

from __future__ import annotations

__all__ = [
    "BasicProperties",
    "ConnectionParameters",
    "DeliveryMode",
    "PlainCredentials",
    "URLParameters",
    "exceptions",
]

from enum import IntEnum
from typing import Any

from txamqp091 import errors, parameters
from txamqp091.credentials import PlainCredentials
from txamqp091.interfaces import ICredentials
from txamqp091.wire.properties import Properties

BasicProperties = Properties

URLParameters = parameters.ConnectionParameters.from_uri


class DeliveryMode(IntEnum):
    """
    What outlives a restart of the broker, in a durable queue.
    """

    Transient = 1
    Persistent = 2


def ConnectionParameters(
    host: str = "localhost",
    port: int | None = None,
    virtual_host: str = "/",
    credentials: ICredentials | None = None,
    **others: Any,
) -> parameters.ConnectionParameters:
    """
    `txamqp091.parameters.ConnectionParameters`, with pika's first four arguments in
    their order.
    """
    if credentials is not None:
        others["credentials"] = [credentials]
    return parameters.ConnectionParameters(
        host=host, port=port, virtual_host=virtual_host, **others
    )


class exceptions:
    """
    pika's exceptions, and which of ours they are: see `txamqp091.errors`.
    """

    AMQPError = errors.AMQPError
    AMQPConnectionError = errors.ConnectionClosed
    AMQPHeartbeatTimeout = errors.HeartbeatTimeout
    ConnectionClosed = errors.ConnectionClosed
    ConnectionClosedByBroker = errors.ConnectionClosed
    ConnectionWrongStateError = errors.ConnectionClosed
    StreamLostError = errors.ConnectionLost
    ProbableAuthenticationError = errors.AuthenticationFailed
    ProbableAccessDeniedError = errors.VhostAccessRefused
    AMQPChannelError = errors.ChannelClosed
    ChannelClosed = errors.ChannelClosed
    ChannelClosedByBroker = errors.ChannelClosed
    ChannelWrongStateError = errors.ChannelClosed
    UnroutableError = errors.Returned
    NackError = errors.Nacked
    ConsumerCancelled = errors.ConsumerCancelled
    ShortStringTooLong = errors.EncodeError
