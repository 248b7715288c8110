# -*- test-case-name: txamqp091.test.test_broker_publishing -*-
"""
The seam between the in-memory broker and its wire side.

The broker is called with methods, and *calls*: these are the things that it calls.  It
has changed its own state before it does, so a sink may call back at once; and a sink
does not raise.
"""

from __future__ import annotations

from typing import Protocol

from txamqp091.wire.method import Method
from txamqp091.wire.properties import Properties

__all__ = ["ChannelSink", "SessionSink"]


class SessionSink(Protocol):
    """
    What a `Session` calls.
    """

    def block(self, reason: str) -> None:
        """
        The broker is short of something: the client shall not publish.
        """

    def unblock(self) -> None:
        """
        It is not any more.
        """

    def close(
        self, reply_code: int, reply_text: str, class_id: int = 0, method_id: int = 0
    ) -> None:
        """
        The broker ends the connection.  The session has ended already.
        """


class ChannelSink(Protocol):
    """
    What a `BrokerChannel` calls.
    """

    def send(self, method: Method) -> None:
        """
        A method without content, for the client.
        """

    def deliver(self, method: Method, properties: Properties, body: bytes) -> None:
        """
        A message for the client: a ``BasicDeliver``, ``BasicReturn`` or ``BasicGetOk``
        with its content.
        """

    def close(
        self, reply_code: int, reply_text: str, class_id: int = 0, method_id: int = 0
    ) -> None:
        """
        The broker ends the channel.  The `BrokerChannel` has ended already.
        """
