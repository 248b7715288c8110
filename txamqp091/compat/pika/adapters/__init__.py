# -*- test-case-name: txamqp091.test.unit.compat.test_pika -*-
"""
pika's adapters.
"""

from __future__ import annotations

from txamqp091.compat.pika.adapters.blocking_connection import BlockingConnection

__all__ = ["BlockingConnection"]
