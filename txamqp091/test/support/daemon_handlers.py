# -*- test-case-name: txamqp091.test.rabbitmq.test_daemon -*-
"""
Handlers for daemons under test.  What they do is in the message, and what they have
done is in their log: ``done`` and the message-id.
"""

from __future__ import annotations

import os
import threading
import time
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.task import deferLater
from twisted.logger import Logger

from txamqp091.message import Delivery
from txamqp091.worker.failure_policy import Halt

_log = Logger()


def _reactor() -> Any:
    from twisted.internet import reactor

    return reactor


def done(delivery: Delivery) -> None:
    """
    Say that a message is done.
    """
    _log.info("done {id}", id=delivery.properties.message_id)


def plain(delivery: Delivery) -> None:
    """
    Take a message at once; fail if it is called ``bad``.
    """
    if delivery.body.startswith(b"bad"):
        raise ValueError("no such order")
    done(delivery)


def crashing(delivery: Delivery) -> None:
    """
    End the process, for a message that is called ``poison``.
    """
    if delivery.body == b"poison":
        os._exit(139)
    done(delivery)


def always_bad(delivery: Delivery) -> None:
    """
    Fail, as when the database is down.
    """
    raise ConnectionRefusedError("the database is down")


async def brisk(delivery: Delivery) -> None:
    """
    Take a few milliseconds.
    """
    await deferLater(_reactor(), 0.005)
    done(delivery)


async def brisk_or_bad(delivery: Delivery) -> None:
    """
    Take a few milliseconds; fail then if it is called ``bad``.
    """
    await deferLater(_reactor(), 0.005)
    plain(delivery)


async def until_stopped(delivery: Delivery) -> None:
    """
    Take until a little after the reactor was told to stop.
    """
    stopping: Deferred[None] = Deferred()
    _reactor().addSystemEventTrigger("before", "shutdown", stopping.callback, None)
    _log.info("begun {id}", id=delivery.properties.message_id)
    await stopping
    await deferLater(_reactor(), 0.1)
    done(delivery)


async def never(delivery: Delivery) -> None:
    """
    Take for ever.
    """
    _log.info("begun {id}", id=delivery.properties.message_id)
    await Deferred()


def halting(delivery: Delivery) -> None:
    """
    End the daemon.
    """
    raise Halt("the disk is full")


def blocking(delivery: Delivery) -> None:
    """
    Block for a moment, and say in which thread.
    """
    time.sleep(0.05)
    name = threading.current_thread().name
    _reactor().callFromThread(_log.info, "blocked in {name}", name=name)
    _reactor().callFromThread(done, delivery)


async def forward(delivery: Delivery, publisher: Any) -> None:
    """
    Publish a message to the queue that it names.
    """
    await publisher.publish(
        "", delivery.body.decode(), b"forwarded", delivery.properties, mandatory=True
    )
    done(delivery)


def forward_in_thread(delivery: Delivery, publisher: Any) -> None:
    """
    The same, and wait for it.
    """
    publisher.publish(
        "", delivery.body.decode(), b"forwarded", delivery.properties, mandatory=True
    )
    done(delivery)


async def brisk_forward(delivery: Delivery, publisher: Any) -> None:
    """
    Take a moment, and publish a message to the queue that it names.
    """
    await deferLater(_reactor(), 0.005)
    await forward(delivery, publisher)
