"""
An AMQP broker in memory, for tests and first tries.

The broker itself is in `txamqp091.testing._broker`, and the network is in
`txamqp091.testing.network`.  The base classes of users' tests are in
`txamqp091.testing.case`.
"""

from txamqp091.testing.assertions import BrokerAssertions
from txamqp091.testing.case import AsyncBrokerTestCase, BrokerTestCase
from txamqp091.testing.memory import MemoryBroker
from txamqp091.testing.network import Direction, Link, MemoryEndpoint
from txamqp091.testing.reactor import MemoryReactor, SteppingClock

__all__ = [
    "AsyncBrokerTestCase",
    "BrokerAssertions",
    "BrokerTestCase",
    "Direction",
    "Link",
    "MemoryBroker",
    "MemoryEndpoint",
    "MemoryReactor",
    "SteppingClock",
]
