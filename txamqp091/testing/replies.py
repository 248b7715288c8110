# -*- test-case-name: txamqp091.test.test_broker_publishing -*-
"""
Direct reply-to: answers that go straight to the channel that asked.

A channel that consumes from the pseudo-queue `REPLY_TO` gets an address of its own,
which its requests bear as ``reply_to``.  `ReplyAddresses` knows who is behind each.
"""

from __future__ import annotations

from typing import Protocol

from txamqp091.testing.messages import Message

__all__ = ["REPLY_TO", "ReplyAddresses", "ReplyConsumer"]

#: The name that stands for an address of its own.
REPLY_TO = "amq.rabbitmq.reply-to"


class ReplyConsumer(Protocol):
    """
    A channel that waits for answers.
    """

    def replied(self, message: Message) -> None:
        """
        An answer has come.
        """


class ReplyAddresses:
    """
    The addresses that were given out.
    """

    def __init__(self) -> None:
        self._consumers: dict[str, ReplyConsumer] = {}
        self._given = 0

    def give(self, consumer: ReplyConsumer) -> str:
        """
        A new address for a channel.
        """
        self._given += 1
        address = f"{REPLY_TO}.{self._given:08}.memory"
        self._consumers[address] = consumer
        return address

    def withdraw(self, address: str) -> None:
        """
        Nobody waits at an address any more.
        """
        self._consumers.pop(address, None)

    def find(self, address: str) -> ReplyConsumer | None:
        """
        Who waits at an address, if anyone does.
        """
        return self._consumers.get(address)

    def was_given(self, address: str) -> bool:
        """
        Whether it is an address that somebody has, or had.
        """
        number = address.removeprefix(f"{REPLY_TO}.").removesuffix(".memory")
        return number.isascii() and number.isdigit() and 0 < int(number) <= self._given
