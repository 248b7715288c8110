# -*- test-case-name: txamqp091.test.unit.compat.test_pika -*-
"""
pika's answers: `Method`.
"""

from __future__ import annotations

__all__ = ["Method"]

from typing import Any, Generic, TypeVar

M = TypeVar("M")


class Method(Generic[M]):
    """
    An answer of the broker.

    :ivar channel_number: the channel's number.
    :ivar method: the method, with its arguments as attributes.
    """

    NAME = "METHOD"

    def __init__(self, channel_number: int, method: M) -> None:
        self.channel_number = channel_number
        self.method: Any = method

    def __repr__(self) -> str:
        return f"<METHOD(channel_number={self.channel_number}, method={self.method!r})>"
