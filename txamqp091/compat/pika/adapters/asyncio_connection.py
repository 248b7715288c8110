# -*- test-case-name: txamqp091.test.unit.compat.test_callbacks -*-
"""
pika's connection with callbacks for asyncio.
"""

from __future__ import annotations

__all__ = ["AsyncioConnection"]

import asyncio
import ssl
from collections.abc import Callable
from typing import Any

from twisted.internet.interfaces import IStreamClientEndpoint

from txamqp091.adapters._asyncio import AsyncioEndpoint, AsyncioLoop
from txamqp091.compat.pika.adapters.base_connection import BaseConnection
from txamqp091.compat.pika.connection import Parameters
from txamqp091.parameters import ConnectionParameters as Native


class AsyncioEvents:
    """
    asyncio's loop, as a connection needs it.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.reactor = AsyncioLoop(loop)

    def endpoint(
        self, parameters: Native, context: ssl.SSLContext | None
    ) -> IStreamClientEndpoint:
        """
        Make an endpoint for this loop.
        """
        return AsyncioEndpoint(self.reactor.loop, parameters, context)

    def failed(self, error: BaseException) -> None:
        """
        Give an error of a callback to the loop's exception handler.
        """
        self.reactor.loop.call_soon(_raise, error)


class AsyncioConnection(BaseConnection):
    """
    A connection with callbacks on asyncio's loop.
    """

    ioloop: asyncio.AbstractEventLoop

    def __init__(
        self,
        parameters: Parameters | None = None,
        on_open_callback: Callable[[AsyncioConnection], object] | None = None,
        on_open_error_callback: (
            Callable[[AsyncioConnection, Exception], object] | None
        ) = None,
        on_close_callback: Callable[[AsyncioConnection, Exception], object]
        | None = None,
        custom_ioloop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        """
        Begin to connect.

        :param custom_ioloop: the loop; by default the running one, or else the one of
            this thread, which is made if there is none.
        """
        loop: Any = custom_ioloop
        if loop is None:
            try:
                loop = asyncio.get_event_loop()
            except RuntimeError:
                loop = asyncio.new_event_loop()
                asyncio.set_event_loop(loop)
        super().__init__(
            parameters,
            on_open_callback,
            on_open_error_callback,
            on_close_callback,
            loop,
            AsyncioEvents(loop),
        )


def _raise(error: BaseException) -> None:
    raise error
