# -*- test-case-name: txamqp091.test.unit.service.test_topology_recovery -*-
"""
Entities that are set aside, since the broker closes the connection for them: until
when, and why.
"""

from __future__ import annotations

__all__ = ["SetAside"]

from collections.abc import Container
from dataclasses import dataclass
from math import inf

from txamqp091.errors import InternalError, ResourceError
from txamqp091.service.topology import Entity

#: For how long the first time, and at the most, in seconds.
_FIRST = 60.0
_MOST = 3600.0


@dataclass
class _Term:
    """
    Of one entity.
    """

    error: BaseException
    seconds: float
    until: float


class SetAside:
    """
    The entities, each for a time that grows.
    """

    def __init__(self) -> None:
        self._terms: dict[Entity, _Term] = {}

    def __contains__(self, entity: Entity) -> bool:
        return entity in self._terms

    def put(self, entity: Entity, error: BaseException, now: float) -> None:
        """
        The broker has closed the connection for this one.
        """
        before = self._terms.get(entity)
        seconds = _FIRST
        if not isinstance(error, InternalError | ResourceError):
            seconds = inf  # the broker has understood, and does not do that
        elif before is not None:
            seconds = min(before.seconds * 2, _MOST)
        self._terms[entity] = _Term(error, seconds, now + seconds)

    def forget(self, entity: Entity) -> None:
        """
        It may be tried at once.
        """
        self._terms.pop(entity, None)

    def keep(self, wanted: Container[Entity]) -> None:
        """
        Forget those that are not among the wanted ones.
        """
        self._terms = {
            each: term for each, term in self._terms.items() if each in wanted
        }

    def errors(self, now: float) -> dict[Entity, BaseException]:
        """
        Those that are not to be tried now, and why.
        """
        return {
            entity: each.error
            for entity, each in self._terms.items()
            if now < each.until
        }

    def until(self, entity: Entity) -> float:
        """
        When one may be tried again.
        """
        return self._terms[entity].until
