# -*- test-case-name: txamqp091.test.unit.worker.test_handler_check -*-
"""
Handlers that would do nothing are refused, by name.
"""

from __future__ import annotations

import asyncio
from functools import partial
from typing import Any

from twisted.internet.asyncioreactor import AsyncioSelectorReactor
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from txamqp091.message import Delivery
from txamqp091.worker.handler_check import check_handler


def plain(delivery: Delivery) -> None:
    """
    A handler.
    """


def generator(delivery: Delivery) -> Any:
    """
    It lacks ``inlineCallbacks``.
    """
    yield


async def asynchronous(delivery: Delivery) -> Any:
    """
    It has a yield too many.
    """
    yield


async def coroutine(delivery: Delivery, publisher: Any = None) -> None:
    """
    A handler that awaits.
    """


async def sleeping(delivery: Delivery) -> None:
    """
    A handler that needs asyncio.
    """
    await asyncio.sleep(1)


class Handlers:
    """
    An object with handlers.
    """

    def __call__(self, delivery: Delivery) -> Any:
        """
        It lacks ``inlineCallbacks``, too.
        """
        yield

    async def sleep(self, delivery: Delivery) -> None:
        """
        A handler that needs asyncio.
        """
        await asyncio.sleep(1)


class CheckTests(SynchronousTestCase):
    """
    Tests for `check_handler`.
    """

    def test_kinds(self) -> None:
        """
        Generator functions, of both kinds, and what is no function, are refused.
        """
        handler: Any
        for handler in (plain, coroutine, partial(coroutine, publisher=1), print):
            check_handler(handler)
        for handler, words in (
            (generator, "generator is a generator function"),
            (partial(generator), "is a generator function"),
            (Handlers(), "is a generator function"),
            (asynchronous, "asynchronous is an async generator function"),
            (3, "no handler"),
        ):
            error = self.assertRaises(TypeError, check_handler, handler)
            self.assertIn(words, str(error))

    def test_in_thread(self) -> None:
        """
        A coroutine function is not for threads.
        """
        check_handler(plain, in_thread=True)
        for handler in (coroutine, partial(coroutine, publisher=1), Handlers().sleep):
            error = self.assertRaises(TypeError, check_handler, handler, in_thread=True)
            self.assertIn("leave out in_thread", str(error))

    def test_asyncio(self) -> None:
        """
        A coroutine function that names asyncio needs its reactor.
        """
        loop = asyncio.new_event_loop()
        self.addCleanup(loop.close)
        reactor = AsyncioSelectorReactor(loop)
        handler: Any
        for handler in (sleeping, partial(sleeping), Handlers().sleep):
            check_handler(handler)
            check_handler(handler, reactor)
            error = self.assertRaises(ValueError, check_handler, handler, Clock())
            self.assertIn("--reactor=asyncio", str(error))
        for handler in (plain, coroutine, print, 3):
            if callable(handler):
                check_handler(handler, Clock())
