# -*- test-case-name: txamqp091.test.unit.compat.test_pika -*-
"""
pika's interface: ``import txamqp091.compat.pika as pika`` runs programs that were
written for pika.

The modules have pika's names.  ``docs/coming-from/pika.rst`` lists what differs.
"""

from __future__ import annotations

from txamqp091.compat.pika import (
    adapters,
    channel,
    compat,
    connection,
    credentials,
    exceptions,
    frame,
    spec,
)
from txamqp091.compat.pika.adapters import (
    AsyncioConnection,
    BaseConnection,
    BlockingConnection,
    SelectConnection,
)
from txamqp091.compat.pika.adapters.utils.connection_workflow import (
    AMQPConnectionWorkflow,
)
from txamqp091.compat.pika.connection import (
    ConnectionParameters,
    SSLOptions,
    URLParameters,
)
from txamqp091.compat.pika.credentials import ExternalCredentials, PlainCredentials
from txamqp091.compat.pika.delivery_mode import DeliveryMode
from txamqp091.compat.pika.exchange_type import ExchangeType
from txamqp091.compat.pika.spec import BasicProperties

#: The pika whose interface this is.
__version__ = "1.4.4"

__all__ = [
    "AMQPConnectionWorkflow",
    "AsyncioConnection",
    "BaseConnection",
    "BasicProperties",
    "BlockingConnection",
    "ConnectionParameters",
    "DeliveryMode",
    "ExchangeType",
    "ExternalCredentials",
    "PlainCredentials",
    "SSLOptions",
    "SelectConnection",
    "URLParameters",
    "__version__",
    "adapters",
    "channel",
    "compat",
    "connection",
    "credentials",
    "exceptions",
    "frame",
    "spec",
]
