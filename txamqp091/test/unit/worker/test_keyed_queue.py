# -*- test-case-name: txamqp091.test.unit.worker.test_keyed_queue -*-
"""
Who is next: the order of things that wait.
"""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from txamqp091.worker.keyed_queue import KeyedQueue

Thing = tuple[str | None, int]


class LanesTests(SynchronousTestCase):
    """
    Things come, are taken, and are done.
    """

    def test_limit(self) -> None:
        """
        No more than the limit are taken.
        """
        lanes: KeyedQueue[str] = KeyedQueue(1)
        lanes.put("a")
        lanes.put("b")
        self.assertEqual((lanes.take(), lanes.take(), len(lanes)), ("a", None, 1))
        lanes.done()
        self.assertEqual((lanes.take(), len(lanes)), ("b", 0))

    def test_keys(self) -> None:
        """
        Those with one key are taken one after another.
        """
        lanes: KeyedQueue[str] = KeyedQueue(0)
        for item in ("a1", "a2", "b1"):
            lanes.put(item, item[0])
        self.assertEqual([lanes.take(), lanes.take(), lanes.take()], ["a1", "b1", None])
        lanes.done("b")
        self.assertIsNone(lanes.take())
        lanes.done("a")
        self.assertEqual(lanes.take(), "a2")

    def test_enter(self) -> None:
        """
        What has no key may be taken at once, if nothing waits, and there is room.
        """
        lanes: KeyedQueue[str] = KeyedQueue(2)
        self.assertTrue(lanes.enter())
        lanes.put("a")
        self.assertFalse(lanes.enter())
        self.assertEqual(lanes.take(), "a")
        self.assertFalse(lanes.enter())
        lanes.done()
        self.assertTrue(lanes.enter())
        self.assertEqual(lanes.taken, 2)

    def test_clear(self) -> None:
        """
        All that wait are forgotten, and those that were taken can still be done.
        """
        lanes: KeyedQueue[str] = KeyedQueue(1)
        for item in ("a1", "a2", "b1", "b2"):
            lanes.put(item, item[0])
        lanes.take()
        self.assertEqual(sorted(lanes.clear()), ["a2", "b1", "b2"])
        self.assertEqual((len(lanes), lanes.taken), (0, 1))
        lanes.done("a")
        lanes.put("b3", "b")
        self.assertEqual(lanes.take(), "b3")

    @settings(deadline=None)
    @given(
        st.integers(0, 4),
        st.lists(
            st.one_of(
                st.tuples(st.just("put"), st.sampled_from([None, "a", "b", "c"])),
                st.tuples(st.just("done"), st.integers(0, 9)),
                st.tuples(st.just("clear"), st.none()),
            ),
            max_size=60,
        ),
    )
    def test_invariants(
        self, limit: int, steps: list[tuple[str, str | int | None]]
    ) -> None:
        """
        Whatever comes: the limit is kept, nothing is lost or done twice, and each key's
        things are taken in order, one at a time.
        """
        lanes: KeyedQueue[Thing] = KeyedQueue(limit)
        put: list[Thing] = []
        seen: list[Thing] = []
        taken: list[Thing] = []
        for step, value in steps:
            if step == "put":
                assert value is None or isinstance(value, str)
                put.append((value, len(put)))
                lanes.put(put[-1], value)
            elif step == "clear":
                seen += lanes.clear()
                self.assertEqual(len(lanes), 0)
            elif taken:
                assert isinstance(value, int)
                lanes.done(taken.pop(value % len(taken))[0])
            while (thing := lanes.take()) is not None:
                seen.append(thing)
                taken.append(thing)
            self.assertEqual(lanes.taken, len(taken))
            self.assertTrue(not limit or len(taken) <= limit)
            keys = [key for key, _ in taken if key is not None]
            self.assertEqual(len(keys), len(set(keys)))
        while taken:
            lanes.done(taken.pop()[0])
            while (thing := lanes.take()) is not None:
                seen.append(thing)
                taken.append(thing)
        self.assertEqual(sorted(seen, key=lambda each: each[1]), put)
