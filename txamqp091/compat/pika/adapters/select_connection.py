# -*- test-case-name: txamqp091.test.unit.compat.test_callbacks -*-
"""
pika's connection with callbacks for programs without a loop, and its loop: `IOLoop`.
"""

from __future__ import annotations

__all__ = ["IOLoop", "SelectConnection"]

import ssl
from collections.abc import Callable
from typing import Any

from twisted.internet.interfaces import IDelayedCall, IStreamClientEndpoint

from txamqp091.adapters._selector import SelectorEndpoint, SelectorLoop
from txamqp091.compat.pika.adapters.base_connection import BaseConnection
from txamqp091.compat.pika.connection import Parameters
from txamqp091.parameters import ConnectionParameters as Native


class IOLoop:
    """
    A loop, which turns while `start` runs.  An error of a callback ends `start`, which
    raises it; the connection lives on.
    """

    def __init__(self) -> None:
        self.reactor = SelectorLoop()
        self._stopping = False
        self._error: BaseException | None = None

    def start(self) -> None:
        """
        Turn until `stop` is called.
        """
        try:
            self.reactor.run(lambda: self._stopping)
        finally:
            self._stopping = False
        error, self._error = self._error, None
        if error is not None:
            raise error

    def stop(self) -> None:
        """
        End `start`.  From other threads, use `add_callback_threadsafe`.
        """
        self._stopping = True
        if not self.reactor.stopped:
            self.reactor.callFromThread(_nothing)

    def close(self) -> None:
        """
        Stop the loop, for good.
        """
        self.reactor.stop()

    def call_later(self, delay: float, callback: Callable[[], object]) -> IDelayedCall:
        """
        Have a function called in so many seconds.

        :returns: what `remove_timeout` takes.
        """
        return self.reactor.callLater(delay, self._call, _function(callback))

    def remove_timeout(self, timeout_id: IDelayedCall) -> None:
        """
        Undo `call_later`, if it is not too late.
        """
        if timeout_id.active():
            timeout_id.cancel()

    def add_callback_threadsafe(self, callback: Callable[[], object]) -> None:
        """
        Have a function called by the loop's thread, from any thread.
        """
        self.reactor.callFromThread(self._call, _function(callback))

    add_callback = add_callback_threadsafe

    def _call(self, callback: Callable[[], object]) -> None:
        try:
            callback()
        except BaseException as error:
            self.failed(error)

    # -- what a connection needs -------------------------------------------------------

    def endpoint(
        self, parameters: Native, context: ssl.SSLContext | None
    ) -> IStreamClientEndpoint:
        """
        Make an endpoint for this loop.
        """
        return SelectorEndpoint(self.reactor, parameters, context)

    def failed(self, error: BaseException) -> None:
        """
        Have `start` raise the first error of a callback.
        """
        if self._error is None:
            self._error = error
        self._stopping = True


class SelectConnection(BaseConnection):
    """
    A connection with callbacks, which are called while ``connection.ioloop.start()``
    runs.
    """

    ioloop: IOLoop

    def __init__(
        self,
        parameters: Parameters | None = None,
        on_open_callback: Callable[[SelectConnection], object] | None = None,
        on_open_error_callback: (
            Callable[[SelectConnection, Exception], object] | None
        ) = None,
        on_close_callback: Callable[[SelectConnection, Exception], object]
        | None = None,
        custom_ioloop: IOLoop | None = None,
    ) -> None:
        """
        Begin to connect.

        :param custom_ioloop: a loop that several connections share.
        """
        loop = IOLoop() if custom_ioloop is None else custom_ioloop
        super().__init__(
            parameters,
            on_open_callback,
            on_open_error_callback,
            on_close_callback,
            loop,
            loop,
        )


def _nothing() -> None:
    """
    Wakes the loop.
    """


def _function(callback: Any) -> Any:
    if not callable(callback):
        raise TypeError(f"a callback is a function, not {callback!r}")
    return callback
