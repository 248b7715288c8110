# -*- test-case-name: txamqp091.test.unit.compat.test_pika -*-
"""
pika's helpers for types, as far as programs use them.
"""

from __future__ import annotations

__all__ = ["as_bytes", "long", "str_or_bytes", "time_now"]

from time import monotonic as time_now

#: The types of text.
str_or_bytes = (str, bytes)


class long(int):
    """
    A number that AMQP carries in 64 bits.
    """

    def __repr__(self) -> str:
        return f"{int(self)}L"


def as_bytes(value: str | bytes) -> bytes:
    """
    Text as UTF-8; bytes as they are.
    """
    return value if isinstance(value, bytes) else value.encode()
