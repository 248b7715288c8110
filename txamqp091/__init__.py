# -*- test-case-name: txamqp091.test.test_exports -*-
"""
AMQP 0-9-1, with RabbitMQ's extensions, natively in Twisted.

The names below are the ones most programs need; each is defined in the module
that its documentation names, and the rest of the errors are in
`txamqp091.errors`.  Start with ``docs/getting-started.rst``, or, to change
something, with ``docs/architecture.rst``.
"""

from __future__ import annotations

from txamqp091._version import __version__
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

__all__ = [
    "AMQPError",
    "ChannelClosed",
    "Closed",
    "ConnectionClosed",
    "ConsumerCancelled",
    "LocalProtocolError",
    "Nacked",
    "PublishFailed",
    "RemoteProtocolError",
    "Returned",
    "__version__",
]
