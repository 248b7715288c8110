# -*- test-case-name: txamqp091.test.test_blocking -*-
"""
For programs without a loop: a connection whose every call waits for its answer.

The names, the order of arguments and what handlers are called with are pika's, so that
``import txamqp091.adapters.blocking as pika`` runs many a program; the verbs are
`txamqp091.channel.Channel`'s.  Who turns the loop is in `txamqp091.adapters._driver`.

Theory.  The loop turns while a call waits, and handlers are called when it does not:
by `BlockingConnection.process_data_events` and what is made of it.  So a handler may
call whatever it likes.  Until then deliveries are kept where an iterator would keep
them, and back-pressure is what it is there.
"""

from __future__ import annotations

__all__ = [
    "BasicProperties",
    "BlockingChannel",
    "BlockingConnection",
    "ConnectionParameters",
    "DeliveryMode",
    "Frame",
    "PlainCredentials",
    "URLParameters",
    "exceptions",
    "in_threads",
]

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from time import monotonic
from typing import Any, ParamSpec, Self, TypeVar, cast

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.python.failure import Failure

from txamqp091 import parameters as settings
from txamqp091.adapters._blocking_channel import BlockingChannel, FlushingSettler, Frame
from txamqp091.adapters._driver import Driver, ThreadDriver
from txamqp091.adapters._endpoints import SelectorEndpoint
from txamqp091.adapters._pika import (
    BasicProperties,
    ConnectionParameters,
    DeliveryMode,
    PlainCredentials,
    URLParameters,
    exceptions,
)
from txamqp091.adapters.threads import in_threads
from txamqp091.endpoint import connect
from txamqp091.errors import AMQPError, ConnectionClosed, LocalProtocolError
from txamqp091.interfaces import ICredentials
from txamqp091.message import Settler
from txamqp091.protocol import AMQPProtocol
from txamqp091.wire import spec

P = ParamSpec("P")
T = TypeVar("T")

_One = settings.ConnectionParameters | str | bytes

#: How long a Ctrl-C lets the connection be closed in order, in seconds.
_GOODBYE = 1.0


class BlockingConnection:
    """
    A connection to a broker.  ``with`` closes it.

    It is for one thread, the one that calls it; others may use
    `add_callback_threadsafe`, and `BlockingChannel.threadsafe`.  When a Ctrl-C ends a
    call, or a handler, the connection is closed.

    :ivar timeout: how long a call may wait, in seconds; None is without limit.  When
        the time is up it raises ``TimeoutError``, and channel and connection live on.
        `within` sets it for a few calls.
    :ivar native: the `txamqp091.protocol.AMQPProtocol`.
    """

    def __init__(
        self,
        parameters: _One | Sequence[_One] | None = None,
        *,
        credentials: ICredentials | Sequence[ICredentials] | None = None,
        timeout: float | None = None,
        background: bool = False,
    ) -> None:
        """
        Connect.

        :param parameters: a URI or `txamqp091.parameters.ConnectionParameters`, or
            several, to be tried one after the other; by default the broker on this
            machine, as guest.
        :param credentials: as whom to log in, instead of what the first says.
        :param background: whether a thread answers heartbeats, and sends what other
            threads have to say, while no call waits.
        :raises AMQPError: why the last one could not be connected to, as
            `txamqp091.endpoint.connect` has it.
        """
        candidates = _candidates(parameters)
        self.timeout = timeout
        self.native: AMQPProtocol
        self._channels: list[BlockingChannel] = []
        self._due: deque[Callable[[], object]] = deque()
        # Why channels have ended, and what has been raised.
        self._unreported: deque[AMQPError] = deque()
        self._reported: deque[BaseException] = deque(maxlen=100)
        self._gone = False
        self._dispatching = False
        self._driver = ThreadDriver() if background else Driver()
        try:
            self._connect(candidates, credentials)
        except BaseException:
            self._driver.stop()
            raise
        self._driver.interrupted = self._interrupted

    def _connect(
        self,
        candidates: list[settings.ConnectionParameters],
        credentials: ICredentials | Sequence[ICredentials] | None,
    ) -> None:
        loop = self._driver.loop
        for number, parameters in enumerate(candidates, 1):
            try:
                self.native = self._driver.ask(
                    None,
                    connect,
                    cast(IReactorTime, loop),
                    parameters,
                    credentials=credentials,
                    endpoint=SelectorEndpoint(loop, parameters),
                )
                break
            except AMQPError:
                if number == len(candidates):
                    raise
        self._driver.do(self._watch)

    def _watch(self) -> None:
        def gone(_: object) -> None:
            self._gone = True

        self.native.when_closed().addBoth(gone)

    def __repr__(self) -> str:
        return f"<BlockingConnection, {self.native!r}>"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *reason: object) -> None:
        self.close()

    # -- calls ---------------------------------------------------------------------

    def _ask(
        self, verb: Callable[P, Deferred[T]], *args: P.args, **kwargs: P.kwargs
    ) -> T:
        """
        Call a verb, and wait for its answer.
        """
        try:
            return self._driver.ask(self.timeout, verb, *args, **kwargs)
        except AMQPError as error:
            self._report(error)
            raise
        finally:
            if self._gone:
                self._driver.stop()

    def _report(self, error: BaseException) -> None:
        """
        Somebody is told of an error: so nobody else is.
        """
        self._reported.append(error)

    @contextmanager
    def within(self, seconds: float | None) -> Iterator[None]:
        """
        Let the calls of a ``with`` block wait so long each, and not longer::

            with connection.within(2.0):
                channel.queue_declare("work")
        """
        before, self.timeout = self.timeout, seconds
        try:
            yield
        finally:
            self.timeout = before

    # -- the connection ------------------------------------------------------------

    @property
    def is_open(self) -> bool:
        """
        Whether channels can be opened and used.
        """
        return self.native.is_open

    @property
    def is_closed(self) -> bool:
        """
        Whether it is over.
        """
        return not self.native.is_open

    @property
    def server_properties(self) -> dict[str, Any]:
        """
        What the broker says of itself.
        """
        return self.native.server_properties

    @property
    def blocked(self) -> str | None:
        """
        Why the broker blocks publishing, or None if it does not.
        """
        return self.native.blocked

    def channel(self, channel_number: int | None = None) -> BlockingChannel:
        """
        Open a channel.

        :param channel_number: None; the connection gives the numbers.
        """
        if channel_number is not None:
            raise LocalProtocolError("the number of a channel is not to be chosen")
        settler = Settler if self._driver.turns_by_itself else FlushingSettler
        native = self._ask(self.native.open_channel, settler=settler)
        channel = BlockingChannel(self, native)
        self._channels.append(channel)
        self._driver.do(self._attend, channel)
        return channel

    def _attend(self, channel: BlockingChannel) -> None:
        def ended(failure: Failure | None) -> None:
            self._channels.remove(channel)
            reason = failure and failure.value
            # The connection's reason is told by the connection.
            if isinstance(reason, AMQPError) and reason is not self.native.close_reason:
                self._unreported.append(reason)

        channel.native.when_closed().addBoth(ended)

    def close(self, reply_code: int = 200, reply_text: str = "") -> None:
        """
        Close the connection, if it is not closed.
        """
        self._ask(self.native.close, reply_code, reply_text)

    def update_secret(
        self, new_secret: str | bytes, reason: str = ""
    ) -> spec.ConnectionUpdateSecretOk:
        """
        See `txamqp091.protocol.AMQPProtocol.update_secret`.
        """
        return self._ask(self.native.update_secret, new_secret, reason)

    def wait_until_unblocked(self) -> None:
        """
        Wait until the broker does not block publishing.
        """
        self._ask(self.native.when_unblocked)

    def observe_blocked(self, observer: Callable[[str | None], object]) -> None:
        """
        Have a function called, as other handlers are, when the broker blocks
        publishing, with its reason, and when it goes on, with None.
        """
        self._driver.do(
            self.native.observe_blocked,
            lambda reason: self._due.append(partial(observer, reason)),
        )

    def _interrupted(self) -> None:
        """
        A Ctrl-C, or its like, has ended a call.
        """
        try:
            self._driver.ask(_GOODBYE, self.native.close)
        except BaseException:
            with suppress(Exception):
                self._driver.do(cast(Any, self.native.transport).abortConnection)
        self._driver.stop()

    # -- handlers ------------------------------------------------------------------

    def process_data_events(self, time_limit: float | None = 0) -> None:
        """
        Call the handlers of what has come, or comes first.

        :param time_limit: how many seconds to wait for something to come; 0 is only
            to look, and None is without limit.
        :raises AMQPError: why the connection has ended, or why the broker has closed
            a channel, if no call has been told so.  Also what a handler raises.
        """
        with self._driver.interruptible():
            self._wait(self._has_work, time_limit)
            if self._dispatching:
                return
            self._run_due()
            for channel in list(self._channels):
                channel._dispatch()
            self._complain()

    def _has_work(self) -> bool:
        return bool(
            self._due
            or self._gone
            or self._unreported
            or any(channel._has_work() for channel in self._channels)
        )

    def _wait(self, ready: Callable[[], object], seconds: float | None) -> bool:
        """
        Wait until something is true, and tell whether it is.
        """
        with self._driver.interruptible():
            try:
                self._driver.flush()
                return bool(ready()) or self._driver.until(ready, seconds)
            finally:
                if self._gone:
                    self._driver.stop()

    def _run_due(self) -> None:
        """
        Call what timers and other threads have asked for.
        """
        if self._due and not self._dispatching:
            with self._in_dispatch():
                for _ in range(len(self._due)):
                    self._due.popleft()()

    @contextmanager
    def _in_dispatch(self) -> Iterator[None]:
        self._dispatching = True
        try:
            yield
        finally:
            self._dispatching = False

    def _complain(self) -> None:
        while self._unreported:
            error = self._unreported.popleft()
            if error not in self._reported:
                self._report(error)
                raise error.with_traceback(None)
        if self._gone:
            raise self.native.close_reason or ConnectionClosed(
                "the connection has ended"
            )

    def sleep(self, duration: float) -> None:
        """
        Do nothing but call handlers, for so many seconds.
        """
        with self._driver.interruptible():
            deadline = monotonic() + duration
            while True:
                left = deadline - monotonic()
                self.process_data_events(max(left, 0))
                if left <= 0:
                    return
                if self._dispatching:  # handlers wait, and we do too
                    self._wait(lambda: self._gone, left)
                    return

    def call_later(self, delay: float, callback: Callable[[], object]) -> object:
        """
        Have a function called in so many seconds, or somewhat later: handlers are
        called only while the program waits for them.

        :returns: what `remove_timeout` takes.
        """
        _check_callable(callback)
        loop = self._driver.loop
        return self._driver.do(loop.callLater, delay, self._due.append, callback)

    def remove_timeout(self, timeout_id: object) -> None:
        """
        Undo `call_later`, if it is not too late.
        """
        call = cast(IDelayedCall, timeout_id)
        with suppress(Exception):
            self._driver.do(call.cancel)

    def add_callback_threadsafe(self, callback: Callable[[], object]) -> None:
        """
        Have a function called by the connection's thread, from any other, the next
        time that it waits for handlers.  What the function raises is raised there.

        :raises ConnectionClosed: it is over, and nobody will wait.
        """
        _check_callable(callback)
        if not self.native.is_open:
            raise self.native.close_reason or ConnectionClosed(
                "the connection is closing"
            )
        self._driver.loop.callFromThread(self._due.append, callback)


def _check_callable(callback: object) -> None:
    if not callable(callback):
        raise TypeError(f"a callback is a function, not {callback!r}")


def _candidates(
    parameters: _One | Sequence[_One] | None,
) -> list[settings.ConnectionParameters]:
    """
    What to connect to, in order.
    """
    if parameters is None:
        return [settings.ConnectionParameters()]
    several: Sequence[_One]
    if isinstance(parameters, str | bytes | settings.ConnectionParameters):
        several = [parameters]
    else:
        several = list(parameters)
    if not several:
        raise ValueError("there are no parameters to connect by")
    return [
        each
        if isinstance(each, settings.ConnectionParameters)
        else settings.ConnectionParameters.from_uri(each)
        for each in several
    ]
