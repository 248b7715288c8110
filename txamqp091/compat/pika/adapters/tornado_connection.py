# -*- test-case-name: txamqp091.test.unit.compat.test_callbacks -*-
"""
pika's connection with callbacks for Tornado.
"""

from __future__ import annotations

__all__ = ["TornadoConnection"]

from collections.abc import Callable
from typing import cast

from tornado.ioloop import IOLoop
from tornado.platform.asyncio import BaseAsyncIOLoop

from txamqp091.compat.pika.adapters.asyncio_connection import AsyncioEvents
from txamqp091.compat.pika.adapters.base_connection import BaseConnection
from txamqp091.compat.pika.connection import Parameters


class TornadoConnection(BaseConnection):
    """
    A connection with callbacks on Tornado's loop.
    """

    ioloop: IOLoop

    def __init__(
        self,
        parameters: Parameters | None = None,
        on_open_callback: Callable[[TornadoConnection], object] | None = None,
        on_open_error_callback: (
            Callable[[TornadoConnection, Exception], object] | None
        ) = None,
        on_close_callback: Callable[[TornadoConnection, Exception], object]
        | None = None,
        custom_ioloop: IOLoop | None = None,
    ) -> None:
        """
        Begin to connect.

        :param custom_ioloop: the loop; by default the current one.
        """
        ioloop = custom_ioloop or IOLoop.current()
        super().__init__(
            parameters,
            on_open_callback,
            on_open_error_callback,
            on_close_callback,
            ioloop,
            AsyncioEvents(cast(BaseAsyncIOLoop, ioloop).asyncio_loop),
        )
