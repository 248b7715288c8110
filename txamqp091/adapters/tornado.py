# -*- test-case-name: txamqp091.test.unit.adapters.test_tornado -*-
"""
Connections for Tornado, whose IOLoop is asyncio's loop: `txamqp091.adapters.aio`, and a
function for code that cannot await.
"""

from __future__ import annotations

__all__ = [
    "AMQPClient",
    "Channel",
    "Connection",
    "ConsumerService",
    "Deliveries",
    "Publisher",
    "RPCClient",
    "RPCServer",
    "RecoveringChannel",
    "RecoveringConsumer",
    "connect",
    "connect_future",
]

import asyncio
from collections.abc import Sequence
from ssl import SSLContext
from typing import TYPE_CHECKING, cast

from tornado.ioloop import IOLoop
from tornado.platform.asyncio import BaseAsyncIOLoop

from txamqp091.adapters import aio
from txamqp091.adapters.aio import Channel, Connection, Deliveries, connect
from txamqp091.interfaces import AnyCredentials
from txamqp091.parameters import ConnectionParameters

if TYPE_CHECKING:
    from txamqp091.adapters.aio import (
        AMQPClient,
        ConsumerService,
        Publisher,
        RecoveringChannel,
        RecoveringConsumer,
        RPCClient,
        RPCServer,
    )


def connect_future(
    uri_or_parameters: str | bytes | ConnectionParameters,
    *,
    credentials: AnyCredentials | Sequence[AnyCredentials] | None = None,
    ssl_context: SSLContext | None = None,
    io_loop: IOLoop | None = None,
) -> asyncio.Future[Connection]:
    """
    Connect to a broker where nothing can be awaited, such as in an application's
    ``__init__``, before its loop runs.

    The other parameters are those of `txamqp091.adapters.aio.connect`.

    :param io_loop: the loop to connect on; by default, the current one.
    :returns: what Tornado calls a Future, for ``io_loop.add_future`` and the like.
    """
    loop = cast(BaseAsyncIOLoop, io_loop or IOLoop.current()).asyncio_loop
    return loop.create_task(
        connect(uri_or_parameters, credentials=credentials, ssl_context=ssl_context)
    )


def __getattr__(name: str) -> object:
    # As in `txamqp091.adapters.aio`, some are imported when they are first used.
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(aio, name)
