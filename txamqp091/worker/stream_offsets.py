# -*- test-case-name: txamqp091.test.unit.worker.test_stream_offsets -*-
"""
Where a consumer of a stream begins: as its settings say (`StreamOffset`), or where it
was when the process ended (`OffsetFile`), since a stream does not remember its readers.
"""

from __future__ import annotations

__all__ = ["OffsetFile", "OffsetFileInUse", "StreamOffset"]

import json
import os
import sys
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any, NamedTuple
from weakref import WeakValueDictionary, finalize

from twisted.logger import Logger

from txamqp091.arguments import stream_consumer

if sys.platform == "win32":
    flock = None
else:
    from fcntl import LOCK_EX, LOCK_NB, flock

_log = Logger(namespace="txamqp091.worker")


class StreamOffset(NamedTuple):
    """
    A place in a stream, as `txamqp091.arguments.stream_consumer` takes it.
    """

    value: int | str | datetime

    @classmethod
    def from_setting(cls, value: object) -> StreamOffset:
        """
        Understand a setting.

        :raises ValueError: it is no place in a stream.
        """
        found: Any = value
        if isinstance(value, str):
            found = _from_text(value)
        if isinstance(found, datetime) and found.tzinfo is None:
            raise ValueError(f"is {value}, without a time zone")
        try:
            stream_consumer(found)
        except (TypeError, ValueError):
            raise ValueError(
                f"is {value!r}: neither first, last, next, nor the number of a "
                "message, nor a time such as 2026-01-31T12:00:00Z, nor how long ago, "
                "such as 7D, 12h or 30m"
            ) from None
        return cls(found)

    def arguments(self) -> dict[str, Any]:
        """
        The arguments of a consumer that begins there.
        """
        return stream_consumer(self.value)


def _from_text(text: str) -> int | str | datetime:
    if text.isascii() and text.isdigit():
        return int(text)
    with suppress(ValueError):
        return datetime.fromisoformat(text)
    return text


class OffsetFileInUse(ValueError):
    """
    Another running consumer, of this process or of another one, keeps its offset in
    the same file.

    :ivar queue: its queue; "" if it is a consumer of another process.
    """

    def __init__(self, path: str, queue: str = "") -> None:
        super().__init__(path, queue)
        self.path = path
        self.queue = queue

    def __str__(self) -> str:
        if self.queue:
            who = f"a consumer of the queue {self.queue}"
        else:
            who = "a consumer of another process"
        return (
            f"{self.path} is in use: {who} keeps its offset there; give each consumer "
            "a file of its own"
        )


class OffsetFile:
    """
    Keeps the offset of a consumer while there is no process.  One running consumer may
    use it at a time: a lock on a file beside it, ``PATH.lock``, keeps those of other
    processes away.  Windows has no such lock.

    :ivar path: the file.
    :ivar kept: the place that it has; None if there is none.
    """

    def __init__(self, path: str, queue: str) -> None:
        """
        :raises ValueError: the file has something else in it.
        """
        self.path = path
        self.kept: int | None = None
        self._queue = queue
        self._failing = False
        self._unlock: finalize[[int], OffsetFile] | None = None
        try:
            with open(path, "rb") as file:
                self.kept = self._understood(file.read())
        except FileNotFoundError:
            pass  # it begins
        except OSError as error:
            raise ValueError(f"{path} cannot be read: {error.strerror}") from None

    def _understood(self, text: bytes) -> int:
        try:
            found = json.loads(text)
            queue, offset = found["queue"], found["offset"]
        except (ValueError, TypeError, KeyError):
            raise ValueError(f"{self.path} is no file with an offset") from None
        if queue != self._queue:
            raise ValueError(f"{self.path} is of the queue {queue!r}")
        if isinstance(offset, bool) or not isinstance(offset, int) or offset < 0:
            raise ValueError(f"{self.path} has no offset")
        return offset

    def claim(self) -> None:
        """
        Use the file, until `release`.

        :raises OffsetFileInUse: another running consumer uses it.
        """
        path = os.path.realpath(self.path)
        owner = _claims.get(path)
        if owner is not None and owner is not self:
            raise OffsetFileInUse(self.path, owner._queue)
        if self._unlock is None:
            self._lock(f"{path}.lock")
        _claims[path] = self

    def _lock(self, path: str) -> None:
        if flock is None:
            return
        try:
            # The file stays when the lock ends: another process may wait to lock it.
            lock = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o666)
        except OSError:
            return  # nothing can be written there, as `keep` says
        try:
            flock(lock, LOCK_EX | LOCK_NB)
        except BlockingIOError:
            os.close(lock)
            raise OffsetFileInUse(self.path) from None
        except OSError:
            os.close(lock)  # this file system has no locks
        else:
            self._unlock = finalize(self, os.close, lock)

    def release(self) -> None:
        """
        Let others use the file.
        """
        path = os.path.realpath(self.path)
        if _claims.get(path) is self:
            del _claims[path]
        if self._unlock is not None:
            self._unlock()
            self._unlock = None

    def check(self) -> None:
        """
        See whether a place can be kept there.

        :raises ValueError: it cannot.
        """
        folder = os.path.dirname(os.path.abspath(self.path))
        if not os.access(folder, os.W_OK | os.X_OK):
            raise ValueError(f"{self.path} cannot be written")

    def keep(self, offset: int | None) -> None:
        """
        Keep a place, if it is another one.  What fails is logged: a consumer that
        cannot keep its place still works, and reads some messages again later.
        """
        if offset is None or offset == self.kept:
            return
        data = {"queue": self._queue, "offset": offset, "at": _now()}
        beside = f"{self.path}.new"
        try:
            # Not through a link, which others may have put there in a shared folder.
            with suppress(FileNotFoundError):
                os.unlink(beside)
            flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL
            with open(os.open(beside, flags, 0o666), "w", encoding="utf-8") as file:
                file.write(json.dumps(data) + "\n")
                file.flush()
                os.fsync(file.fileno())
            os.replace(beside, self.path)
        except OSError as error:
            if not self._failing:
                _log.error(
                    "The offset of the queue {queue} is not kept in {path}: {error}",
                    queue=self._queue,
                    path=self.path,
                    error=error.strerror,
                )
            self._failing = True
        else:
            self.kept = offset
            self._failing = False


#: The files that running consumers of this process use.
_claims: WeakValueDictionary[str, OffsetFile] = WeakValueDictionary()


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
