# -*- test-case-name: txamqp091.test.unit.daemon.test_settings_schema -*-
"""
From plain data to dataclasses, whatever they are about.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from txamqp091.daemon.settings import Settings
from txamqp091.daemon.settings_schema import (
    Problem,
    build,
    from_text,
    setting,
    settings_of,
)


@dataclass(frozen=True, kw_only=True)
class Inner:
    """
    A table.
    """

    size: int = setting("A size.", least=1)


@dataclass(frozen=True, kw_only=True)
class Outer:
    """
    Another one.
    """

    inner: Inner | None = setting("A table.", None)
    many: tuple[Inner, ...] = setting("Tables.", ())
    names: tuple[str, ...] = setting("Names.", ())
    more: dict[str, Any] = setting("Anything.", {})
    secret: str = setting("A secret.", "", secret=True)


PLAIN = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text()),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3), st.dictionaries(st.text(), inner, max_size=3)
    ),
    max_leaves=10,
)


class BuildTests(SynchronousTestCase):
    """
    Data becomes an object, or a problem with a place.
    """

    def test_build(self) -> None:
        """
        Tables become dataclasses, lists tuples; one thing is a list too.
        """
        outer = build(
            Outer,
            {
                "inner": {"size": 1},
                "many": [{"size": 2}],
                "names": "one",
                "more": {"a": [1]},
            },
        )
        self.assertEqual(outer.inner, Inner(size=1))
        self.assertEqual(outer.many, (Inner(size=2),))
        self.assertEqual((outer.names, outer.more), (("one",), {"a": [1]}))
        self.assertNotIn("secret", repr(build(Outer, {"secret": "very"})))

    def test_problems(self) -> None:
        """
        The place is told, down to the number in a list.
        """
        for data, problem in (
            ({"many": [{"size": 2}, {"size": 0}]}, "many[1].size: is 0, less than 1"),
            ({"many": [{"size": 2}, {}]}, "many[1].size: is missing"),
            ({"names": ["a", 3]}, "names[1]: is an integer, not a string"),
            ({"more": 3}, "more: is an integer, not a table"),
            (
                {"inner": {"sizes": 1}},
                "inner.sizes: there is no such setting; did you mean size?",
            ),
            (3, "is an integer, not a table"),
        ):
            error = self.assertRaises(Problem, build, Outer, data)
            self.assertEqual(str(error), problem)

    @settings(deadline=None)
    @given(
        st.dictionaries(
            st.sampled_from([each.name for each, _ in settings_of(Settings)]),
            PLAIN,
            max_size=4,
        )
    )
    def test_anything(self, data: dict[str, Any]) -> None:
        """
        Whatever the data are, nothing but a `Problem` comes of them.
        """
        try:
            build(Settings, data)
        except Problem as problem:
            self.assertTrue(str(problem))


class TextTests(SynchronousTestCase):
    """
    Values as text.
    """

    def test_texts(self) -> None:
        """
        Lists have commas; a truth has several names.
        """
        fields = {each.name: (each, hint) for each, hint in settings_of(Settings)}
        value = from_text(*fields["metrics"], "YES", "X")
        self.assertIs(value, True)
        self.assertEqual(from_text(*fields["uri"], "a, b,", "X"), ["a", "b"])
        self.assertEqual(from_text(*fields["threads"], "3", "X"), 3)
        self.assertRaises(Problem, from_text, *fields["threads"], "3.5", "X")
