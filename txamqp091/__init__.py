# -*- test-case-name: txamqp091.test.repository.test_exports -*-
"""
AMQP 0-9-1, with RabbitMQ's extensions, natively in Twisted.

The names below are the ones most programs need; each is defined in the module
that its documentation names, and the rest of the errors are in
`txamqp091.errors`.  Start with ``docs/getting-started.rst``, or, to change
something, with ``docs/architecture.rst``.
"""

from __future__ import annotations

from txamqp091._version import __version__
from txamqp091.channel import Channel
from txamqp091.consumer import Consumer, Deliveries
from txamqp091.credentials import (
    AMQPlainCredentials,
    AnonymousCredentials,
    ExternalCredentials,
    PlainCredentials,
)
from txamqp091.endpoint import connect, endpoint_from_parameters
from txamqp091.errors import (
    AMQPError,
    ChannelClosed,
    Closed,
    ConnectionClosed,
    ConsumerCancelled,
    LocalProtocolError,
    Nacked,
    PublishFailed,
    RemoteProtocolError,
    Returned,
)
from txamqp091.factory import AMQPClientFactory
from txamqp091.interfaces import ICredentials
from txamqp091.message import Delivery, Message
from txamqp091.parameters import (
    ConnectionParameters,
    TLSParameters,
    UnverifiedTLS,
)
from txamqp091.protocol import AMQPProtocol
from txamqp091.wire.properties import Properties

__all__ = [
    "AMQPClientFactory",
    "AMQPError",
    "AMQPProtocol",
    "AMQPlainCredentials",
    "AnonymousCredentials",
    "Channel",
    "ChannelClosed",
    "Closed",
    "ConnectionClosed",
    "ConnectionParameters",
    "Consumer",
    "ConsumerCancelled",
    "Deliveries",
    "Delivery",
    "ExternalCredentials",
    "ICredentials",
    "LocalProtocolError",
    "Message",
    "Nacked",
    "PlainCredentials",
    "Properties",
    "PublishFailed",
    "RemoteProtocolError",
    "Returned",
    "TLSParameters",
    "UnverifiedTLS",
    "__version__",
    "connect",
    "endpoint_from_parameters",
]
