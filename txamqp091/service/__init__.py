# -*- test-case-name: txamqp091.test.repository.test_exports -*-
"""
A client that stays connected: `AMQPClientService`, with the topology, channels,
consumers, publishers and remote calls that come back with each connection.

These names are public.  The modules that define them are private.
"""

from __future__ import annotations

from txamqp091.service.addresses import Address, SRVRecords
from txamqp091.service.client import AMQPClientService
from txamqp091.service.entities import (
    Binding,
    Difference,
    Entity,
    EntityOutcome,
    EntityState,
    Exchange,
    Queue,
)
from txamqp091.service.expiring_credentials import (
    ExpiringCredentials,
    Secret,
    SecretRefresh,
    SecretUnavailable,
)
from txamqp091.service.publisher import Publisher
from txamqp091.service.recovering_channel import RecoveringChannel
from txamqp091.service.recovering_consumer import RecoveringConsumer
from txamqp091.service.retry import RetryPolicy
from txamqp091.service.rpc import RPCClient, RPCServer
from txamqp091.service.telemetry import Telemetry
from txamqp091.service.topology import Topology

__all__ = [
    "AMQPClientService",
    "Address",
    "Binding",
    "Difference",
    "Entity",
    "EntityOutcome",
    "EntityState",
    "Exchange",
    "ExpiringCredentials",
    "Publisher",
    "Queue",
    "RPCClient",
    "RPCServer",
    "RecoveringChannel",
    "RecoveringConsumer",
    "RetryPolicy",
    "SRVRecords",
    "Secret",
    "SecretRefresh",
    "SecretUnavailable",
    "Telemetry",
    "Topology",
]
