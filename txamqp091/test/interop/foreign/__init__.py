# -*- test-case-name: txamqp091.test.interop.test_clients -*-
"""
Programs with AMQP clients that are not ours: each is run against the in-memory broker
and against RabbitMQ, and has to say the same.

Each is given a URI, as ``python -m txamqp091.test.interop.foreign.pika_blocking URI``;
what it declares is gone when it ends.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

__all__ = ["refused", "say"]

# Names that brokers make up, and addresses in memory.
_RANDOM = re.compile(r"(?<=amq\.gen-)[\w=-]+|(?<=amq\.ctag-)[\w=-]+| at 0x\w+")
_ADDRESS = re.compile(r"(?<=amq\.rabbitmq\.reply-to\.)[\w=.@:/+-]+")


def say(what: str, *values: Any) -> None:
    """
    Write down what came of something.
    """
    text = " ".join([f"{what}:", *map(_shown, values)])
    sys.stdout.write(_ADDRESS.sub("*", _RANDOM.sub("*", text)) + "\n")
    sys.stdout.flush()


def _shown(value: Any) -> str:
    if isinstance(value, bytes) and len(value) > 60:
        return f"{len(value)} octets"
    if isinstance(value, dict):
        items = (f"{key!r}: {_shown(value[key])}" for key in sorted(value))
        return f"{{{', '.join(items)}}}"
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(_shown, value))}]"
    if type(value).__name__ in ("datetime", "struct_time"):
        return "a time"
    return repr(value)


@contextmanager
def refused(what: str, *kinds: type[BaseException]) -> Iterator[None]:
    """
    Write down how something fails, which it has to.
    """
    try:
        yield
    except kinds as error:
        say(what, type(error).__name__, str(error))
    else:
        say(what, "was not refused")
