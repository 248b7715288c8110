# -*- test-case-name: txamqp091.test.scenarios.test_permissions -*-
"""
How the in-memory broker says no.

One exception, `Refused`, carries what ends a channel or a connection; the functions
make those that more than one module needs, in RabbitMQ's words.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from decimal import Decimal

from txamqp091.wire import spec
from txamqp091.wire.types import FieldValue

__all__ = [
    "Refused",
    "access_refused",
    "binary",
    "broker_fails",
    "field_type",
    "invalid_argument",
    "locked",
    "no_such",
    "not_implemented",
    "precondition",
    "shown",
]

_NAMES = {
    spec.CONTENT_TOO_LARGE: "CONTENT_TOO_LARGE",
    spec.CONNECTION_FORCED: "CONNECTION_FORCED",
    spec.INVALID_PATH: "INVALID_PATH",
    spec.ACCESS_REFUSED: "ACCESS_REFUSED",
    spec.NOT_FOUND: "NOT_FOUND",
    spec.RESOURCE_LOCKED: "RESOURCE_LOCKED",
    spec.PRECONDITION_FAILED: "PRECONDITION_FAILED",
    spec.FRAME_ERROR: "FRAME_ERROR",
    spec.SYNTAX_ERROR: "SYNTAX_ERROR",
    spec.COMMAND_INVALID: "COMMAND_INVALID",
    spec.CHANNEL_ERROR: "CHANNEL_ERROR",
    spec.UNEXPECTED_FRAME: "UNEXPECTED_FRAME",
    spec.RESOURCE_ERROR: "RESOURCE_ERROR",
    spec.NOT_ALLOWED: "NOT_ALLOWED",
    spec.NOT_IMPLEMENTED: "NOT_IMPLEMENTED",
    spec.INTERNAL_ERROR: "INTERNAL_ERROR",
}

_TEXT_MAX = 255


class Refused(Exception):
    """
    The broker refuses, and ends the channel, or the connection, for it.

    :ivar reply_code: AMQP's number for the reason.
    :ivar reply_text: as it goes on the wire: the reason's name, a dash, and RabbitMQ's
        words, in no more than 255 octets.
    :ivar connection: whether the connection ends, and not just the channel.
    :ivar names_method: whether the client is told which method was refused.
    """

    def __init__(
        self,
        reply_code: int,
        problem: str = "",
        *,
        connection: bool = False,
        names_method: bool = True,
    ):
        text = _NAMES.get(reply_code, str(reply_code))
        if problem:
            text = f"{text} - {problem}"
        encoded = text.encode("utf-8", "surrogateescape")
        if len(encoded) > _TEXT_MAX:
            encoded = encoded[: _TEXT_MAX - 3] + b"..."
            text = encoded.decode("utf-8", "surrogateescape")
        super().__init__(reply_code, text)
        self.reply_code = reply_code
        self.reply_text = text
        self.connection = connection
        self.names_method = names_method

    def __str__(self) -> str:
        return self.reply_text


def shown(kind: str, name: str, vhost: str) -> str:
    """
    A queue or an exchange, as RabbitMQ shows it.
    """
    return f"{kind} '{name}' in vhost '{vhost}'"


def no_such(kind: str, name: str, vhost: str) -> Refused:
    """
    404: there is no such queue or exchange.
    """
    return Refused(spec.NOT_FOUND, f"no {shown(kind, name, vhost)}")


def precondition(problem: str) -> Refused:
    """
    406: what was asked for does not fit what is there.
    """
    return Refused(spec.PRECONDITION_FAILED, problem)


def access_refused(problem: str) -> Refused:
    """
    403: nobody may do that, or not this user.
    """
    return Refused(spec.ACCESS_REFUSED, problem)


def not_implemented(problem: str) -> Refused:
    """
    540: AMQP has it, RabbitMQ does not.  The connection ends.
    """
    return Refused(spec.NOT_IMPLEMENTED, problem, connection=True)


def broker_fails() -> Refused:
    """
    541: RabbitMQ itself fails, and does not know at what.  The connection ends.
    """
    return Refused(spec.INTERNAL_ERROR, connection=True, names_method=False)


def locked(queue: str, vhost: str) -> Refused:
    """
    405: the queue is exclusive to another connection, or asked for as if it were.
    """
    return Refused(
        spec.RESOURCE_LOCKED,
        f"cannot obtain exclusive access to locked {shown('queue', queue, vhost)}. It "
        "could be originally declared on another connection or the exclusive property "
        "value does not match that of the original declaration.",
    )


def invalid_argument(argument: str, resource: str, problem: str) -> Refused:
    """
    406: an argument has a value that nothing takes.

    :param resource: what it is an argument of, as `shown` shows it.
    :param problem: why, as an Erlang term.
    """
    return precondition(f"invalid arg '{argument}' for {resource}: {problem}")


def binary(text: str) -> str:
    """
    A text, as Erlang shows it.
    """
    return f'<<"{text}">>' if text else "<<>>"


def field_type(value: FieldValue) -> str:
    """
    What RabbitMQ calls the type of a value in a table.  Whole numbers of different
    widths have become one type when they were decoded; this goes by size.
    """
    match value:
        case None:
            return "void"
        case bool():
            return "bool"
        case int():
            return "signedint" if -(1 << 31) <= value < 1 << 31 else "long"
        case float():
            return "double"
        case str():
            return "longstr"
        case Decimal():
            return "decimal"
        case datetime():
            return "timestamp"
        case Mapping():
            return "table"
        case bytes() | bytearray() | memoryview():
            return "binary"
        case _:
            return "array"
