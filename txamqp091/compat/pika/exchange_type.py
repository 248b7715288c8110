# -*- test-case-name: txamqp091.test.unit.compat.test_pika -*-
"""
pika's exchange types.
"""

from __future__ import annotations

__all__ = ["ExchangeType"]

from enum import Enum


class ExchangeType(Enum):
    """
    The types that every broker has.
    """

    direct = "direct"
    fanout = "fanout"
    headers = "headers"
    topic = "topic"
