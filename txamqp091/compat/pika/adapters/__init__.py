# -*- test-case-name: txamqp091.test.unit.compat.test_pika -*-
"""
pika's adapters.  Those that need another package are imported by their module:
``tornado_connection`` and ``gevent_connection``.
"""

from __future__ import annotations

from txamqp091.compat.pika.adapters.asyncio_connection import AsyncioConnection
from txamqp091.compat.pika.adapters.base_connection import BaseConnection
from txamqp091.compat.pika.adapters.blocking_connection import BlockingConnection
from txamqp091.compat.pika.adapters.select_connection import IOLoop, SelectConnection

__all__ = [
    "AsyncioConnection",
    "BaseConnection",
    "BlockingConnection",
    "IOLoop",
    "SelectConnection",
]
