# -*- test-case-name: txamqp091.test.unit.testing.test_assertions -*-
"""
Assertions about an in-memory broker: what was published where, and what is in a queue.

They say what they found when it is not what was expected.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, NoReturn

from txamqp091.testing.memory import MemoryBroker
from txamqp091.testing.views import MessageView, QueueView

__all__ = ["BrokerAssertions"]

#: How much of a body, and how many messages, a failure shows.
_BODY, _MESSAGES = 60, 20


class BrokerAssertions:
    """
    Assertions for a test case that has a broker.

    :ivar broker: the broker.
    """

    broker: MemoryBroker

    if TYPE_CHECKING:

        def fail(self, msg: object = None) -> NoReturn:
            """
            Every test case has it.
            """

    def assertPublished(
        self,
        exchange: str | None = None,
        routing_key: str | None = None,
        body: bytes | str | None = None,
        *,
        count: int | None = None,
        **properties: object,
    ) -> MessageView:
        """
        Check that a message was published, by whomever.  What is not given may be
        anything.

        :param count: how many such messages there are; by default, at least one.
        :param properties: what is in the message's `Properties`.  Of ``headers``, those
            that are given.
        :returns: the last of the messages, for a closer look.
        """
        if count == 0:
            raise ValueError("count=0: say assertNotPublished")
        wanted = _wanted(exchange, routing_key, body, properties)
        found = [each for each in self.broker.published if _differs(each, wanted) == []]
        if found and count in (None, len(found)):
            return found[-1]
        expected = "No message was published" + _to(wanted)
        if count is not None:
            expected = (
                f"{_messages(len(found))} published{_to(wanted)}, and not {count}"
            )
        self.fail(f"{expected}.  {self._published(wanted)}")

    def assertNotPublished(
        self,
        exchange: str | None = None,
        routing_key: str | None = None,
        body: bytes | str | None = None,
        **properties: object,
    ) -> None:
        """
        Check that no such message was published; see `assertPublished`.
        """
        wanted = _wanted(exchange, routing_key, body, properties)
        found = [each for each in self.broker.published if _differs(each, wanted) == []]
        if found:
            self.fail(
                f"{_messages(len(found))} published{_to(wanted)}:"
                f"{_list(_line(each) for each in found)}"
            )

    def assertQueue(
        self,
        queue: str,
        *,
        ready: int | None = None,
        unacked: int | None = None,
        consumers: int | None = None,
        bodies: Iterable[bytes | str] | None = None,
        vhost: str = "/",
    ) -> QueueView:
        """
        Check what is in a queue.  What is not given may be anything.

        :param ready: how many messages wait.
        :param unacked: how many messages are out with a consumer.
        :param consumers: how many consumers there are.
        :param bodies: the bodies of the messages that wait, the next one first.
        :returns: the queue, for a closer look.
        """
        try:
            view = self.broker.queue(queue, vhost)
        except KeyError:
            names = ", ".join(map(repr, self.broker.queues(vhost))) or "none"
            self.fail(f"There is no queue {queue!r}.  Queues: {names}")
        expected = {"ready": ready, "unacked": unacked, "consumers": consumers}
        wrong = [
            f"{name} is {getattr(view, name)} and not {number}"
            for name, number in expected.items()
            if number is not None and getattr(view, name) != number
        ]
        if bodies is not None:
            wanted = [_bytes(each) for each in bodies]
            if view.bodies != wanted:
                wrong.append(f"bodies are {view.bodies} and not {wanted}")
        if wrong:
            self.fail(
                f"Queue {queue!r}: {'; '.join(wrong)}.  Ready:"
                f"{_list(_line(each) for each in view.messages)}\n"
                f"Unacked:{_list(_line(each) for each in view.unacked_messages)}"
            )
        return view

    def assertNoQueue(self, queue: str, vhost: str = "/") -> None:
        """
        Check that there is no such queue.
        """
        if queue in self.broker.queues(vhost):
            self.fail(f"There is a queue {queue!r}: {self.broker.queue(queue, vhost)}")

    def _published(self, wanted: dict[str, Any]) -> str:
        lines = []
        for each in self.broker.published:
            wrong = _differs(each, wanted)
            lines.append(f"{_line(each)}   differs in {', '.join(wrong)}")
            if not wrong:
                lines[-1] = _line(each)
        return f"Published, the latest last:{_list(lines)}"


def _wanted(
    exchange: str | None,
    routing_key: str | None,
    body: bytes | str | None,
    properties: dict[str, object],
) -> dict[str, Any]:
    wanted: dict[str, Any] = {"exchange": exchange, "routing_key": routing_key}
    wanted["body"] = None if body is None else _bytes(body)
    wanted = {name: value for name, value in wanted.items() if value is not None}
    return wanted | properties


def _bytes(body: bytes | str) -> bytes:
    return body.encode() if isinstance(body, str) else body


def _differs(message: MessageView, wanted: dict[str, Any]) -> list[str]:
    """
    In what a message is not what was expected.
    """
    wrong = []
    for name, value in wanted.items():
        if name in ("exchange", "routing_key", "body"):
            right = getattr(message, name) == value
        elif name == "headers":
            headers = message.properties.headers or {}
            right = all(
                key in headers and headers[key] == each for key, each in value.items()
            )
        else:
            right = getattr(message.properties, name) == value
        if not right:
            wrong.append(name)
    return wrong


def _messages(count: int) -> str:
    return {0: "No message was", 1: "1 message was"}.get(
        count, f"{count} messages were"
    )


def _to(wanted: dict[str, Any]) -> str:
    """
    What was expected, in words.
    """
    rest = dict(wanted)
    words = ""
    if "exchange" in rest:
        words += f" to exchange {rest.pop('exchange')!r}"
    if "routing_key" in rest:
        words += f" with routing key {rest.pop('routing_key')!r}"
    if rest:
        words += " and " if words else " with "
        words += ", ".join(f"{name} {value!r}" for name, value in rest.items())
    return words


def _line(message: MessageView) -> str:
    """
    A message in a line.
    """
    body = repr(message.body[:_BODY])
    if len(message.body) > _BODY:
        body += f"... ({len(message.body)} bytes)"
    again = "   redelivered" if message.redelivered else ""
    return f"{message.exchange!r} {message.routing_key!r} {body}{again}"


def _list(lines: Iterable[str]) -> str:
    lines = list(lines)
    if not lines:
        return " nothing"
    shown = [f"\n  {each}" for each in lines[-_MESSAGES:]]
    if len(lines) > _MESSAGES:
        shown.insert(0, f"\n  ... and {len(lines) - _MESSAGES} before these:")
    return "".join(shown)
