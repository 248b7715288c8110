# -*- test-case-name: txamqp091.test.repository.test_exports -*-
"""
AMQP 0-9-1, with RabbitMQ's extensions, natively in Twisted.

These are the names that most programs need.  Each is defined in the module that its
documentation names; the other errors are in `txamqp091.errors`, the arguments of queues
and consumers in `txamqp091.arguments`.  Start with ``docs/getting-started.rst``, or, to
change something, with ``docs/about/architecture.rst``.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

from txamqp091._version import __version__
from txamqp091.channel import Channel, ExchangeType
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
from txamqp091.message import Death, Delivery, DeliveryMode, Message
from txamqp091.parameters import (
    ConnectionParameters,
    TLSParameters,
    UnverifiedTLS,
)
from txamqp091.protocol import AMQPProtocol
from txamqp091.wire.properties import Properties

if TYPE_CHECKING:
    from txamqp091.service import (
        AMQPClientService,
        Binding,
        Exchange,
        Publisher,
        Queue,
        RetryPolicy,
        RPCClient,
        RPCServer,
        Topology,
    )
    from txamqp091.worker import ConsumerService, Halt, Reject, Requeue, Retry

__all__ = [
    "AMQPClientFactory",
    "AMQPClientService",
    "AMQPError",
    "AMQPProtocol",
    "AMQPlainCredentials",
    "AnonymousCredentials",
    "Binding",
    "Channel",
    "ChannelClosed",
    "Closed",
    "ConnectionClosed",
    "ConnectionParameters",
    "Consumer",
    "ConsumerCancelled",
    "ConsumerService",
    "Death",
    "Deliveries",
    "Delivery",
    "DeliveryMode",
    "Exchange",
    "ExchangeType",
    "ExternalCredentials",
    "Halt",
    "ICredentials",
    "LocalProtocolError",
    "Message",
    "Nacked",
    "PlainCredentials",
    "Properties",
    "PublishFailed",
    "Publisher",
    "Queue",
    "RPCClient",
    "RPCServer",
    "Reject",
    "RemoteProtocolError",
    "Requeue",
    "Retry",
    "RetryPolicy",
    "Returned",
    "TLSParameters",
    "Topology",
    "UnverifiedTLS",
    "__version__",
    "connect",
    "endpoint_from_parameters",
]

# These are imported when they are first used: programs that need no service should not
# wait for it.
_LATER = {
    "AMQPClientService": "txamqp091.service",
    "Binding": "txamqp091.service",
    "Exchange": "txamqp091.service",
    "Publisher": "txamqp091.service",
    "Queue": "txamqp091.service",
    "RPCClient": "txamqp091.service",
    "RPCServer": "txamqp091.service",
    "RetryPolicy": "txamqp091.service",
    "Topology": "txamqp091.service",
    "ConsumerService": "txamqp091.worker",
    "Halt": "txamqp091.worker",
    "Reject": "txamqp091.worker",
    "Requeue": "txamqp091.worker",
    "Retry": "txamqp091.worker",
}


def __getattr__(name: str) -> object:
    if name not in _LATER:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    found: object = getattr(import_module(_LATER[name]), name)
    globals()[name] = found
    return found


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
