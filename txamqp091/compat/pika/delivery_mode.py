# -*- test-case-name: txamqp091.test.unit.compat.test_pika -*-
"""
pika's delivery modes.
"""

from __future__ import annotations

__all__ = ["DeliveryMode"]

from enum import Enum


class DeliveryMode(Enum):
    """
    Whether a message survives a restart of the broker, in a durable queue.
    """

    Transient = 1
    Persistent = 2
