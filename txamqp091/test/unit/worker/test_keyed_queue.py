# -*- test-case-name: txamqp091.test.unit.worker.test_keyed_queue -*-
"""
The order in which items run.
"""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from txamqp091.worker.keyed_queue import KeyedQueue

Item = tuple[str | None, int]


class KeyedQueueTests(SynchronousTestCase):
    """
    Items are put in, run, and give back their slots and keys.
    """

    def test_limit(self) -> None:
        """
        No more items run than the limit allows.
        """
        queue: KeyedQueue[str] = KeyedQueue(1)
        queue.put("a")
        queue.put("b")
        self.assertEqual((queue.take(), queue.take(), len(queue)), ("a", None, 1))
        queue.free_slot()
        self.assertEqual((queue.take(), len(queue)), ("b", 0))

    def test_keys(self) -> None:
        """
        Items with one key run one after another.
        """
        queue: KeyedQueue[str] = KeyedQueue(0)
        for item in ("a1", "a2", "b1"):
            queue.put(item, item[0])
        self.assertEqual([queue.take(), queue.take(), queue.take()], ["a1", "b1", None])
        queue.free_slot()
        queue.free_key("b")
        self.assertIsNone(queue.take())
        queue.free_slot()
        self.assertIsNone(queue.take())
        queue.free_key("a")
        self.assertEqual(queue.take(), "a2")

    def test_enter(self) -> None:
        """
        An item without a key may run at once, if no item waits and a slot is free.
        """
        queue: KeyedQueue[str] = KeyedQueue(2)
        self.assertTrue(queue.enter())
        queue.put("a")
        self.assertFalse(queue.enter())
        self.assertEqual(queue.take(), "a")
        self.assertFalse(queue.enter())
        queue.free_slot()
        self.assertTrue(queue.enter())
        self.assertEqual(queue.taken, 2)

    def test_put_first(self) -> None:
        """
        An item that has run, and has kept its key, runs again before all others.
        """
        queue: KeyedQueue[str] = KeyedQueue(1)
        for item in ("a1", "a2", "b1"):
            queue.put(item, item[0])
        self.assertEqual(queue.take(), "a1")
        queue.free_slot()
        queue.put_first("a1", "a")
        self.assertEqual(queue.take(), "a1")
        queue.free_slot()
        queue.free_key("a")
        self.assertEqual(queue.take(), "b1")

    def test_remove(self) -> None:
        """
        Waiting items are taken out, and the next one with the same key is ready then.
        """
        queue: KeyedQueue[str] = KeyedQueue(0)
        for item in ("a1", "a2", "a3", "b1", "c1"):
            queue.put(item, item[0])
        self.assertEqual(queue.take(), "a1")
        self.assertEqual(list(queue.items()), ["b1", "c1", "a2", "a3"])
        self.assertTrue(queue.has_ready)
        self.assertEqual(queue.remove(lambda item: item in ("a2", "b1")), ["a2", "b1"])
        self.assertEqual([queue.take(), queue.take(), len(queue)], ["c1", None, 1])
        queue.put("b2", "b")
        self.assertEqual(queue.take(), "b2")
        queue.free_key("a")
        self.assertEqual(queue.take(), "a3")

    @settings(deadline=None)
    @given(
        st.integers(0, 4),
        st.lists(
            st.one_of(
                st.tuples(st.just("put"), st.sampled_from([None, "a", "b", "c"])),
                st.tuples(st.just("done"), st.integers(0, 9)),
                st.tuples(st.just("remove"), st.integers(1, 3)),
            ),
            max_size=60,
        ),
    )
    def test_invariants(
        self, limit: int, steps: list[tuple[str, str | int | None]]
    ) -> None:
        """
        Whatever comes: the limit is kept, no item is lost or runs twice, and the items
        of each key run in order, one at a time.
        """
        queue: KeyedQueue[Item] = KeyedQueue(limit)
        put: list[Item] = []
        seen: list[Item] = []
        taken: list[Item] = []
        for step, value in steps:
            if step == "put":
                assert value is None or isinstance(value, str)
                put.append((value, len(put)))
                queue.put(put[-1], value)
            elif step == "remove":
                assert isinstance(value, int)
                part = value
                seen += queue.remove(lambda item: item[1] % part == 0)  # noqa: B023
            elif taken:
                assert isinstance(value, int)
                queue.free_slot()
                queue.free_key(taken.pop(value % len(taken))[0])
            while (item := queue.take()) is not None:
                seen.append(item)
                taken.append(item)
            self.assertEqual(queue.taken, len(taken))
            self.assertTrue(not limit or len(taken) <= limit)
            keys = [key for key, _ in taken if key is not None]
            self.assertEqual(len(keys), len(set(keys)))
        while taken:
            queue.free_slot()
            queue.free_key(taken.pop()[0])
            while (item := queue.take()) is not None:
                seen.append(item)
                taken.append(item)
        self.assertEqual(sorted(seen, key=lambda each: each[1]), put)
