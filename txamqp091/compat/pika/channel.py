# -*- test-case-name: txamqp091.test.unit.compat.test_pika -*-
"""
The name of pika's channel, for annotations: `Channel`.
"""

from __future__ import annotations

__all__ = ["Channel"]

from txamqp091.compat.pika.adapters.blocking_connection import (
    BlockingChannel as Channel,
)
