# -*- test-case-name: txamqp091.test.unit.compat.test_callbacks -*-
"""
What pika's adapters with callbacks have in common: `BaseConnection`.
"""

from __future__ import annotations

__all__ = ["BaseConnection"]

from collections.abc import Callable, Sequence
from typing import Any

from txamqp091.compat.pika.adapters.utils.connection_workflow import (
    AMQPConnectionWorkflow,
)
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

    @classmethod
    def create_connection(
        cls,
        connection_configs: Sequence[Parameters],
        on_done: Callable[[Any], object],
        custom_ioloop: Any = None,
        workflow: AMQPConnectionWorkflow | None = None,
    ) -> AMQPConnectionWorkflow:
        """
        Connect to one of several brokers.

        :param on_done: called with the connection, or with
            `AMQPConnectionWorkflowFailed` or `AMQPConnectionWorkflowAborted` of
            `txamqp091.compat.pika.adapters.utils.connection_workflow`.
        :returns: has ``abort()``.
        """
        loops = [] if custom_ioloop is None else [custom_ioloop]

        def connect(parameters: Parameters, opened: Any, failed: Any) -> BaseConnection:
            make: Any = cls
            connection: BaseConnection = make(
                parameters,
                on_open_callback=opened,
                on_open_error_callback=failed,
                custom_ioloop=loops[0] if loops else None,
            )
            loops.append(connection.ioloop)
            return connection

        workflow = AMQPConnectionWorkflow() if workflow is None else workflow
        workflow.start(connection_configs, connect, on_done)
        return workflow
