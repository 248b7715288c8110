# -*- test-case-name: txamqp091.test.unit.worker.test_decoding -*-
"""
Typed bodies: handlers that are called with what a decoder has made of a body.
"""

from __future__ import annotations

__all__ = ["Decode", "UndecodableBody", "decoded", "decoder", "from_json"]

import json
from collections.abc import Callable
from typing import Any, Literal, TypeVar

from txamqp091.consumer import Handler
from txamqp091.message import Delivery
from txamqp091.wire.properties import Properties

T = TypeVar("T")

#: Makes an object of a body and its properties.
Decode = Callable[[bytes, Properties], T]


class UndecodableBody(Exception):
    """
    The decoder of a consumer has failed with a body.  The message is dead at once: it
    will not be readable later.
    """


def from_json(body: bytes, properties: Properties) -> Any:
    """
    Decode a body of JSON, in UTF-8, UTF-16 or UTF-32.

    :raises ValueError: the body is not JSON.
    """
    return json.loads(body)


def decoder(decode: Decode[Any] | Literal["json"]) -> Decode[Any]:
    """
    The function that a setting names.

    :raises ValueError: there is no decoder of that name.
    :raises TypeError: it is no function.
    """
    if isinstance(decode, str):
        if decode != "json":
            raise ValueError(f'decode is {decode!r}: "json", or a function')
        return from_json
    if not callable(decode):
        raise TypeError(f"decode is {decode!r}, no function")
    return decode


def decoded(handler: Callable[[Any, Delivery], object], decode: Decode[Any]) -> Handler:
    """
    A handler that calls another one with the decoded body and the delivery.
    """

    def handle(delivery: Delivery) -> object:
        return handler(decode_body(delivery, decode), delivery)

    return handle


def decode_body(delivery: Delivery, decode: Decode[T]) -> T:
    """
    Decode the body of a delivery.

    :raises UndecodableBody: the decoder has failed.
    """
    try:
        return decode(delivery.body, delivery.properties)
    except Exception as error:
        raise UndecodableBody(f"{type(error).__name__}: {error}") from error
