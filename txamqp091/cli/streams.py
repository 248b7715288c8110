# -*- test-case-name: txamqp091.test.unit.cli.test_command_line -*-
"""
The standard streams of a command: `Streams` reads bodies, and writes text for people,
or a JSON object a line for programs.
"""

from __future__ import annotations

__all__ = ["Streams", "message_record", "message_text"]

import base64
import json
import os
import stat
import threading
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, BinaryIO, TextIO

from twisted.internet.defer import Deferred

from txamqp091.errors import UndecodableProperty, printable
from txamqp091.message import Delivery
from txamqp091.wire.properties import PROPERTY_TYPES, Properties

#: How many bytes are read from stdin at a time.
_CHUNK = 1 << 16

#: How many seconds pass between two lines of progress.
_PROGRESS_EVERY = 0.2


@dataclass
class Streams:
    """
    The streams.

    :ivar json: whether to write JSON lines.
    """

    stdin: BinaryIO
    stdout: TextIO
    stderr: TextIO
    json: bool = False
    _progress_at: float = field(default=0.0, init=False)
    _progress_shown: bool = field(default=False, init=False)

    def write(self, text: str, **record: Any) -> None:
        """
        Write a result, and flush it: the text, or the record as JSON.
        """
        if self.json:
            text = json.dumps(record, default=_plain, ensure_ascii=False)
        self.clear_progress()
        self.stdout.write(f"{text}\n")
        self.stdout.flush()

    def write_raw(self, body: bytes) -> None:
        """
        Write the bytes of a body and the end of a line.
        """
        self.clear_progress()
        self.stdout.flush()
        binary = getattr(self.stdout, "buffer", None)
        if binary is None:
            self.stdout.write(body.decode("utf-8", "replace") + "\n")
        else:
            binary.write(body + b"\n")
            binary.flush()

    def say(self, text: str) -> None:
        """
        Write a remark for people to stderr.
        """
        self.clear_progress()
        self.stderr.write(f"txamqp091: {printable(text, 1000)}\n")
        self.stderr.flush()

    def progress(self, now: float, text: str) -> None:
        """
        Show how far the work is, if stderr is a terminal.
        """
        if now - self._progress_at < _PROGRESS_EVERY or not self.stderr.isatty():
            return
        self._progress_at = now
        self._progress_shown = True
        self.stderr.write(f"\r\x1b[K{text}")
        self.stderr.flush()

    def clear_progress(self) -> None:
        """
        Remove the line of progress.
        """
        if self._progress_shown:
            self._progress_shown = False
            self.stderr.write("\r\x1b[K")
            self.stderr.flush()

    async def read(self, reactor: Any) -> bytes:
        """
        Read all of stdin.
        """
        return b"".join([chunk async for chunk in self._chunks(reactor)])

    async def lines(self, reactor: Any) -> AsyncIterator[bytes]:
        """
        Read the lines of stdin, without their ends.
        """
        rest = b""
        async for chunk in self._chunks(reactor):
            *lines, rest = (rest + chunk).split(b"\n")
            for line in lines:
                yield line.removesuffix(b"\r")
        if rest:
            yield rest

    async def _chunks(self, reactor: Any) -> AsyncIterator[bytes]:
        number = _waiting_file(self.stdin)
        while True:
            if number is None:
                chunk = self.stdin.read(_CHUNK)
            else:
                chunk = await _read_in_thread(reactor, number)
            if not chunk:
                return
            yield chunk


def _waiting_file(stream: BinaryIO) -> int | None:
    """
    The file descriptor of a stream that may wait for its other end.
    """
    try:
        number = stream.fileno()
    except (OSError, AttributeError):
        return None
    return None if stat.S_ISREG(os.fstat(number).st_mode) else number


def _read_in_thread(reactor: Any, number: int) -> Deferred[bytes]:
    """
    Read from a pipe or a terminal while the reactor runs.  The thread does not keep the
    process from ending.
    """
    result: Deferred[bytes] = Deferred(lambda _: None)

    def fire(chunk: bytes | None, error: OSError | None) -> None:
        if result.called:
            return
        if error is None:
            result.callback(chunk or b"")
        else:
            result.errback(error)

    def read() -> None:
        try:
            chunk, error = os.read(number, _CHUNK), None
        except OSError as failed:
            chunk, error = None, failed
        reactor.callFromThread(fire, chunk, error)

    threading.Thread(target=read, name="txamqp091-stdin", daemon=True).start()
    return result


# -- messages --------------------------------------------------------------------------


def _plain(value: object) -> object:
    """
    A value of a field table as JSON has it.
    """
    if isinstance(value, datetime):
        return value.isoformat()
    if isinstance(value, bytes):
        try:
            return value.decode()
        except UnicodeDecodeError:
            return {"base64": base64.b64encode(value).decode()}
    if isinstance(value, Mapping):
        return dict(value)
    return str(value)


def _known(properties: Properties) -> tuple[dict[str, Any], str]:
    """
    The properties that a message has, and what is wrong with the others.
    """
    found: dict[str, Any] = {}
    problem = ""
    for name in PROPERTY_TYPES:
        try:
            value = getattr(properties, name)
        except UndecodableProperty as error:
            problem = str(error)
        else:
            if value is not None:
                found[name] = value
    return found, problem


def message_record(delivery: Delivery) -> dict[str, Any]:
    """
    A message as plain data.  A body that is not UTF-8 is in ``body_base64``.
    """
    properties, problem = _known(delivery.properties)
    record: dict[str, Any] = {
        "exchange": delivery.exchange,
        "routing_key": delivery.routing_key,
        "redelivered": delivery.redelivered,
        "properties": properties,
    }
    if problem:
        record["undecodable"] = problem
    try:
        record["body"] = delivery.body.decode()
    except UnicodeDecodeError:
        record["body_base64"] = base64.b64encode(delivery.body).decode()
    return record


def message_text(delivery: Delivery) -> str:
    """
    A message as text: where it was published to, its properties, and its body.
    """
    again = ", redelivered" if delivery.redelivered else ""
    exchange = printable(delivery.exchange) or "(default exchange)"
    size = len(delivery.body)
    lines = [f"{exchange} {printable(delivery.routing_key)}: {size} bytes{again}"]
    properties, problem = _known(delivery.properties)
    headers = properties.pop("headers", {})
    lines += [f"  {name}: {_shown(value)}" for name, value in properties.items()]
    lines += [
        f"  header {printable(name)}: {_shown(value)}"
        for name, value in headers.items()
    ]
    if problem:
        lines.append(f"  undecodable: {printable(problem)}")
    if delivery.body:
        lines.append(_body_text(delivery.body))
    return "\n".join(lines)


def _shown(value: object) -> str:
    if not isinstance(value, str):
        value = json.dumps(value, default=_plain, ensure_ascii=False).strip('"')
    return printable(value, 10_000)


def _body_text(body: bytes) -> str:
    """
    A body without the control characters that a terminal would obey.
    """
    text = body.decode("utf-8", "backslashreplace")
    return "\n".join(printable(line, len(line) + 1) for line in text.splitlines())
