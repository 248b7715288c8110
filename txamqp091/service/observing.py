# -*- test-case-name: txamqp091.test.test_client_service -*-
"""
Who is told what becomes of a service: `ServiceObserver`, to inherit from.
"""

from __future__ import annotations

__all__ = ["Observers", "ServiceObserver"]

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from twisted.logger import Logger
from zope.interface import implementer

from txamqp091.interfaces import IServiceObserver
from txamqp091.protocol import AMQPProtocol

if TYPE_CHECKING:
    from txamqp091.service.subscriptions import RecoveringConsumer


@implementer(IServiceObserver)
class ServiceObserver:
    """
    An observer that does nothing: override what you want to know.  What the methods
    mean is in `IServiceObserver`.
    """

    def connecting(self, address: str) -> None:
        """
        See `IServiceObserver`.
        """

    def ready(self, connection: AMQPProtocol, outcomes: Sequence[Any]) -> None:
        """
        See `IServiceObserver`.
        """

    def blocked(self, reason: str) -> None:
        """
        See `IServiceObserver`.
        """

    def unblocked(self) -> None:
        """
        See `IServiceObserver`.
        """

    def lost(self, reason: BaseException) -> None:
        """
        See `IServiceObserver`.
        """

    def recovering(self, attempt: int, delay: float, reason: BaseException) -> None:
        """
        See `IServiceObserver`.
        """

    def failed(self, reason: BaseException) -> None:
        """
        See `IServiceObserver`.
        """

    def subscribed(self, consumer: RecoveringConsumer) -> None:
        """
        See `IServiceObserver`.
        """

    def unsubscribed(
        self, consumer: RecoveringConsumer, reason: BaseException, delay: float | None
    ) -> None:
        """
        See `IServiceObserver`.
        """

    def refused(
        self, consumer: RecoveringConsumer, reason: BaseException, delay: float | None
    ) -> None:
        """
        See `IServiceObserver`.
        """


class Observers:
    """
    All of them, told one after the other.  One that fails is logged.
    """

    _log = Logger()

    def __init__(self) -> None:
        self._observers: list[IServiceObserver] = []

    def add(self, observer: IServiceObserver) -> None:
        """
        Tell this one too.
        """
        self._observers.append(observer)

    def remove(self, observer: IServiceObserver) -> None:
        """
        Tell this one no longer.
        """
        if observer in self._observers:
            self._observers.remove(observer)

    def tell(self, what: str, *details: object) -> None:
        """
        Call a method of each.
        """
        for observer in list(self._observers):
            try:
                getattr(observer, what)(*details)
            except Exception:
                self._log.failure(
                    "An observer of the service failed ({what})", what=what
                )
