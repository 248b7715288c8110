# -*- test-case-name: txamqp091.test.unit.worker.test_keyed_queue -*-
"""
Who is next: so many at a time, and those with the same key one after another.

It knows neither messages nor handlers, only things and keys.
"""

from __future__ import annotations

__all__ = ["KeyedQueue"]

from collections import deque
from collections.abc import Hashable
from typing import Generic, TypeVar

Item = TypeVar("Item")


class KeyedQueue(Generic[Item]):
    """
    Things that wait to be done.

    Invariants: of the things with one key, at most one is ready or taken, and the rest
    are behind it, in the order that they came in.  ``None`` is not a key: such things
    wait for nothing but for room.

    :ivar limit: how many may be taken at a time; 0 is no limit.
    :ivar taken: how many were taken, and are not done.
    """

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.taken = 0
        self._ready: deque[tuple[Item, Hashable | None]] = deque()
        self._behind: dict[Hashable, deque[Item]] = {}

    def __len__(self) -> int:
        """
        How many wait.
        """
        return len(self._ready) + sum(map(len, self._behind.values()))

    def put(self, item: Item, key: Hashable | None = None) -> None:
        """
        One more has come.
        """
        if key is None:
            self._ready.append((item, None))
        elif key in self._behind:
            self._behind[key].append(item)
        else:
            self._behind[key] = deque()
            self._ready.append((item, key))

    def enter(self) -> bool:
        """
        Take something that has no key and did not wait, if nothing waits, and there is
        room.
        """
        if self._ready or (self.limit and self.taken >= self.limit):
            return False
        self.taken += 1
        return True

    def take(self) -> Item | None:
        """
        The next one to be done; None if there is none, or no room for it.
        """
        if not self._ready or (self.limit and self.taken >= self.limit):
            return None
        self.taken += 1
        return self._ready.popleft()[0]

    def done(self, key: Hashable | None = None) -> None:
        """
        One that was taken is done.
        """
        self.taken -= 1
        if key is None:
            return
        behind = self._behind[key]
        if behind:
            self._ready.append((behind.popleft(), key))
        else:
            del self._behind[key]

    def clear(self) -> list[Item]:
        """
        Have nobody wait any more.

        :returns: those who did.
        """
        waiting = []
        for item, key in self._ready:
            waiting.append(item)
            if key is not None:
                waiting += self._behind.pop(key)
        self._ready.clear()
        for behind in self._behind.values():  # behind one that was taken
            waiting += behind
            behind.clear()
        return waiting
