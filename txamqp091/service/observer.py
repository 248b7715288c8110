# -*- test-case-name: txamqp091.test.unit.service.test_client -*-
"""
Who is told what becomes of a service: `ServiceObserver`, to inherit from.
"""

from __future__ import annotations

__all__ = ["IServiceObserver", "Observers", "ServiceObserver"]

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from twisted.logger import Logger
from zope.interface import Interface, implementer

from txamqp091.protocol import AMQPProtocol

if TYPE_CHECKING:
    from txamqp091.service.recovering_consumer import RecoveringConsumer

_log = Logger(namespace="txamqp091.service")


class IServiceObserver(Interface):
    """
    Who wants to know what becomes of an
    `txamqp091.service.client.AMQPClientService`.  All of it is told in the reactor's
    thread; what the methods return is ignored, and what they raise is logged.
    """

    def connecting(address: str) -> None:
        """
        An address is tried.

        :param address: as a URI, without the password.
        """

    def ready(connection: AMQPProtocol, outcomes: Sequence[Any]) -> None:
        """
        AMQP is open, and the topology has been declared, as far as it could be.
        Channels and consumers come back next.

        :param outcomes: the `txamqp091.service.declaration.Outcome` of each entity.
        """

    def blocked(reason: str) -> None:
        """
        The broker takes no messages for now.
        """

    def unblocked() -> None:
        """
        It takes messages again.
        """

    def lost(reason: BaseException) -> None:
        """
        A connection that was ready has ended, not by us.
        """

    def recovering(attempt: int, delay: float, reason: BaseException) -> None:
        """
        There will be another attempt.

        :param attempt: its number, since there was a connection that lasted.
        :param delay: in how many seconds.
        :param reason: why the last attempt has failed, or the connection has ended.
        """

    def failed(reason: BaseException) -> None:
        """
        The service has given up, as its `RetryPolicy` said.

        :param reason: why the last attempt has failed.
        """

    def subscribed(consumer: Any) -> None:
        """
        The broker gives a consumer messages: for the first time, or again.

        :param consumer: the `txamqp091.service.recovering_consumer.RecoveringConsumer`.
        """

    def unsubscribed(consumer: Any, reason: BaseException, delay: float | None) -> None:
        """
        It does not, or not any more, though there is a connection; that may pass by
        itself.

        :param reason: why.
        :param delay: in how many seconds there will be another attempt, at the least;
            None, if there will be none.
        """

    def refused(consumer: Any, reason: BaseException, delay: float | None) -> None:
        """
        It does not, and will not until somebody changes something: there is no such
        queue, or it is not for this user, or not to be consumed from like that.

        :param reason: why.
        :param delay: as in `unsubscribed`.
        """


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
                _log.failure("An observer of the service failed ({what})", what=what)
