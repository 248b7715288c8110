# -*- test-case-name: txamqp091.test.unit.compat.test_callbacks -*-
"""
What pika's adapters with callbacks have in common: `BaseConnection`.
"""

from __future__ import annotations

__all__ = ["BaseConnection"]

from collections.abc import Callable
from typing import Any

from txamqp091.compat.pika.connection import Connection, Loop, Parameters


class BaseConnection(Connection):
    """
    A connection that connects by itself, on the program's loop.

    :ivar ioloop: the program's loop.
    """

    def __init__(
        self,
        parameters: Parameters | None,
        on_open_callback: Callable[[Any], object] | None,
        on_open_error_callback: Callable[[Any, Exception], object] | None,
        on_close_callback: Callable[[Any, Exception], object] | None,
        ioloop: Any,
        loop: Loop,
    ) -> None:
        self.ioloop = ioloop
        super().__init__(
            parameters,
            on_open_callback,
            on_open_error_callback,
            on_close_callback,
            loop,
        )
