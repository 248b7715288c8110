# -*- test-case-name: txamqp091.test.unit.worker.test_keyed_queue -*-
"""
A work queue with a concurrency limit that keeps items with the same key in order.

It knows neither messages nor handlers, only items and keys.
"""

from __future__ import annotations

__all__ = ["KeyedQueue"]

from collections import deque
from collections.abc import Callable, Hashable, Iterator
from typing import Generic, TypeVar

Item = TypeVar("Item")


class KeyedQueue(Generic[Item]):
    """
    Items waiting to run.

    An item that runs has a slot.  Of the items with one key, at most one is ready, runs
    or is held; the rest wait behind it, in the order of their arrival.  ``None`` is not
    a key: such items wait for nothing but a slot.

    :ivar limit: how many slots there are; 0 is no limit.
    :ivar taken: how many slots are taken.
    """

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.taken = 0
        self._ready: deque[tuple[Item, Hashable | None]] = deque()
        self._behind: dict[Hashable, deque[Item]] = {}

    def __len__(self) -> int:
        """
        How many items wait.
        """
        return len(self._ready) + sum(map(len, self._behind.values()))

    def items(self) -> Iterator[Item]:
        """
        The items that wait.
        """
        for item, _ in self._ready:
            yield item
        for behind in self._behind.values():
            yield from behind

    @property
    def has_ready(self) -> bool:
        """
        Whether an item waits for nothing but a slot.
        """
        return bool(self._ready)

    def put(self, item: Item, key: Hashable | None = None) -> None:
        """
        Add an item.
        """
        if key is None:
            self._ready.append((item, None))
        elif key in self._behind:
            self._behind[key].append(item)
        else:
            self._behind[key] = deque()
            self._ready.append((item, key))

    def put_first(self, item: Item, key: Hashable | None = None) -> None:
        """
        Add an item before all others.  If it has a key, it has run and has kept its
        key.
        """
        self._ready.appendleft((item, key))

    def enter(self) -> bool:
        """
        Take a slot for an item without a key that did not wait, if no item waits and
        a slot is free.
        """
        if self._ready or (self.limit and self.taken >= self.limit):
            return False
        self.taken += 1
        return True

    def take(self) -> Item | None:
        """
        Take a slot for the next item, and return the item; None if no item is ready, or
        no slot is free.
        """
        if not self._ready or (self.limit and self.taken >= self.limit):
            return None
        self.taken += 1
        return self._ready.popleft()[0]

    def free_slot(self) -> None:
        """
        Free the slot of an item, which keeps its key.
        """
        self.taken -= 1

    def free_key(self, key: Hashable | None) -> None:
        """
        Free the key of an item that has run: the next item with that key is ready.
        """
        if key is None:
            return
        behind = self._behind[key]
        if behind:
            self._ready.append((behind.popleft(), key))
        else:
            del self._behind[key]

    def remove(self, unwanted: Callable[[Item], bool]) -> list[Item]:
        """
        Take out the waiting items that a function says yes to.
        """
        removed: list[Item] = []
        for key, behind in self._behind.items():
            kept: deque[Item] = deque()
            for item in behind:
                (removed if unwanted(item) else kept).append(item)
            self._behind[key] = kept
        ready, self._ready = self._ready, deque()
        for item, key in ready:
            if unwanted(item):
                removed.append(item)
                self.free_key(key)
            else:
                self._ready.append((item, key))
        return removed
