# -*- test-case-name: txamqp091.test.unit.compat.test_callbacks -*-
"""
Connecting to one of several brokers: what ``create_connection`` of an adapter starts.
"""

from __future__ import annotations

__all__ = [
    "AMQPConnectionWorkflow",
    "AMQPConnectionWorkflowAborted",
    "AMQPConnectionWorkflowFailed",
    "AMQPConnectorException",
]

from collections.abc import Callable, Sequence
from copy import copy
from typing import TYPE_CHECKING, Any

from twisted.internet.interfaces import IDelayedCall

from txamqp091.compat.pika.exceptions import ConnectionOpenAborted

if TYPE_CHECKING:
    from txamqp091.compat.pika.connection import Connection, Parameters


class AMQPConnectorException(Exception):
    """
    There is no connection.
    """


class AMQPConnectionWorkflowAborted(AMQPConnectorException):
    """
    The program has stopped connecting.
    """


class AMQPConnectionWorkflowFailed(AMQPConnectorException):
    """
    No broker could be connected to.

    :ivar exceptions: the error of each attempt.
    """

    def __init__(self, exceptions: Sequence[Exception]) -> None:
        super().__init__(*exceptions)
        self.exceptions = tuple(exceptions)

    def __repr__(self) -> str:
        last = repr(self.exceptions[-1]) if self.exceptions else "none"
        return (
            f"{type(self).__name__}: {len(self.exceptions)} exceptions in all; "
            f"last exception - {last}"
        )


class AMQPConnectionWorkflow:
    """
    Tries brokers one after the other, in as many rounds as the last parameters'
    ``connection_attempts``, with their ``retry_delay`` between the rounds.
    """

    def __init__(self) -> None:
        self._rounds = 0
        self._several: list[Parameters] = []
        self._left: list[Parameters] = []
        self._errors: list[Exception] = []
        self._connection: Connection | None = None
        self._wait: IDelayedCall | None = None
        self._aborted = False
        self._connect: Callable[..., Connection]
        self._on_done: Callable[[Any], object]

    def start(
        self,
        connection_configs: Sequence[Parameters],
        connect: Callable[..., Connection],
        on_done: Callable[[Any], object],
    ) -> None:
        """
        Begin.

        :param connect: makes a connection of parameters, a function for its opening and
            one for its failure.
        :param on_done: called with the connection, with
            `AMQPConnectionWorkflowFailed` or with `AMQPConnectionWorkflowAborted`.
        :raises ValueError: there are no parameters.
        """
        for each in connection_configs:
            single = copy(each)
            single.connection_attempts = 1
            self._several.append(single)
        if not self._several:
            raise ValueError("Expected at least one set of parameters")
        self._connect = connect
        self._on_done = on_done
        self._rounds = int(connection_configs[-1].connection_attempts)
        self._next()

    def abort(self) -> None:
        """
        Stop connecting.  The callback is called later.
        """
        self._aborted = True
        connection, wait = self._connection, self._wait
        if wait is not None and wait.active():
            wait.reset(0)
        elif connection is not None and not (
            connection.is_open or connection.is_closing or connection.is_closed
        ):
            connection.close()

    def _next(self) -> None:
        self._wait = None
        if self._aborted:
            self._on_done(AMQPConnectionWorkflowAborted())
            return
        if not self._left:
            self._left = list(self._several)
            self._rounds -= 1
        self._connection = self._connect(self._left.pop(0), self._opened, self._failed)

    def _opened(self, connection: Connection) -> None:
        self._on_done(connection)

    def _failed(self, connection: Connection, error: Exception) -> None:
        if self._aborted or isinstance(error, ConnectionOpenAborted):
            self._on_done(AMQPConnectionWorkflowAborted())
            return
        self._errors.append(error)
        if not (self._left or self._rounds > 0):
            self._on_done(AMQPConnectionWorkflowFailed(self._errors))
            return
        seconds = 0.0 if self._left else connection.params.retry_delay
        self._wait = connection.call_later(seconds, self._next)
