# -*- test-case-name: txamqp091.test.scenarios.test_routing -*-
"""
A virtual host: its exchanges and queues, and the way of a message between them.

`VirtualHost` makes and deletes both, and routes.  What a client may ask for, and the
answers to it, are in `txamqp091.testing._broker.declarations`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from twisted.internet.interfaces import IReactorTime

from txamqp091.testing._broker.arguments import QueueSettings
from txamqp091.testing._broker.behaviour import Behaviour
from txamqp091.testing._broker.consumers import Consumer
from txamqp091.testing._broker.exchanges import Destination, Exchange
from txamqp091.testing._broker.messages import (
    Message,
    QueuedMessage,
    dead_letter,
    headers_of,
    is_cycle,
)
from txamqp091.testing._broker.queues import AnyQueue, ClassicQueue, QuorumQueue
from txamqp091.testing._broker.refusals import no_such
from txamqp091.testing._broker.streams import Stream

__all__ = ["VirtualHost"]

#: The exchanges that are there from the start, with their types.
_PREDECLARED = {
    "amq.direct": "direct",
    "amq.fanout": "fanout",
    "amq.topic": "topic",
    "amq.headers": "headers",
    "amq.match": "headers",
    "amq.rabbitmq.trace": "topic",
}

#: Those of them to which only the broker publishes.
_INTERNAL = ("amq.rabbitmq.trace",)

_QUEUE_TYPES: Mapping[str, type[AnyQueue]] = {
    "classic": ClassicQueue,
    "quorum": QuorumQueue,
    "stream": Stream,
}


class VirtualHost:
    """
    A virtual host.

    :ivar name: its name, such as ``/``.
    :ivar exchanges: by name; the default exchange, which is bound to every queue by
        that queue's name, is not among them.
    :ivar queues: by name.
    """

    def __init__(self, name: str, clock: IReactorTime, behaviour: Behaviour) -> None:
        self.name = name
        self.clock = clock
        self.behaviour = behaviour
        self.queues: dict[str, AnyQueue] = {}
        self.exchanges = {
            each: Exchange(each, type, internal=each in _INTERNAL)
            for each, type in _PREDECLARED.items()
        }
        if behaviour.log_exchange:
            log = Exchange("amq.rabbitmq.log", "topic", internal=True)
            self.exchanges[log.name] = log

    def __repr__(self) -> str:
        return f"<VirtualHost {self.name!r}>"

    # -- exchanges ---------------------------------------------------------------------

    def exchange(self, name: str) -> Exchange:
        """
        The exchange of that name.

        :raises Refused: 404, there is none.
        """
        try:
            return self.exchanges[name]
        except KeyError:
            raise no_such("exchange", name, self.name) from None

    def delete_exchange(self, exchange: Exchange) -> None:
        """
        Delete an exchange, with its bindings on either side.
        """
        if self.exchanges.get(exchange.name) is exchange:
            del self.exchanges[exchange.name]
            exchange.release()
            self._unbind_everywhere(exchange)

    def unbound(self, exchange: Exchange) -> None:
        """
        An exchange has lost a binding; the last one takes an auto-delete exchange
        with it.
        """
        if exchange.auto_delete and not exchange.in_use:
            self.delete_exchange(exchange)

    def _unbind_everywhere(self, destination: Destination) -> None:
        for source in list(destination.sources):
            source.forget(destination)
            self.unbound(source)

    # -- queues ------------------------------------------------------------------------

    def queue(self, name: str) -> AnyQueue:
        """
        The queue of that name.

        :raises Refused: 404, there is none.
        """
        try:
            return self.queues[name]
        except KeyError:
            raise no_such("queue", name, self.name) from None

    def make_queue(
        self, name: str, settings: QueueSettings | None = None, **details: Any
    ) -> AnyQueue:
        """
        Make a queue, which must not be there.

        :param details: as for `AnyQueue`.
        """
        settings = settings or QueueSettings()
        made = _QUEUE_TYPES[settings.type](name, self, settings=settings, **details)
        self.queues[name] = made
        return made

    def delete_queue(self, queue: AnyQueue) -> None:
        """
        Delete a queue, with its bindings, and tell its consumers.
        """
        for consumer in self.remove_queue(queue):
            consumer.channel.consumer_cancelled(consumer)

    def remove_queue(self, queue: AnyQueue) -> list[Consumer]:
        """
        Delete a queue, with its bindings.

        :returns: the consumers that are to be told.
        """
        if self.queues.get(queue.name) is not queue:
            return []
        del self.queues[queue.name]
        consumers = queue.end()
        self._unbind_everywhere(queue)
        return consumers

    # -- messages ----------------------------------------------------------------------

    def route(self, message: Message) -> list[AnyQueue]:
        """
        The queues that get a message, each once.

        :raises Refused: 404, there is no such exchange.
        """
        if not message.exchange:
            found = (self.queues.get(key) for key in message.routing_keys)
            return list(dict.fromkeys(each for each in found if each is not None))
        return self._follow(self.exchange(message.exchange), message)

    def _follow(self, exchange: Exchange, message: Message) -> list[AnyQueue]:
        headers = headers_of(message.properties)
        queues: dict[AnyQueue, None] = {}
        seen = {exchange: None}
        waiting = [exchange]
        for current in waiting:
            reached = list(current.find(message, headers))
            alternate = self.exchanges.get(current.alternate or "")
            if not reached and alternate is not None:
                reached.append(alternate)
            for each in reached:
                if not isinstance(each, Exchange):
                    queues[each] = None
                elif each not in seen:  # bindings may lead round in circles
                    seen[each] = None
                    waiting.append(each)
        return list(queues)

    def dead_letter(self, queue: AnyQueue, entry: QueuedMessage, reason: str) -> None:
        """
        A queue has dropped a message: pass it on to where it said, if it did.

        :param reason: as in `Death`.
        """
        settings = queue.settings
        target = settings.dead_letter_exchange
        if target is None or (target and target not in self.exchanges):
            return
        now = self.clock.seconds()
        message = dead_letter(entry, queue.name, reason, settings, now, self.behaviour)
        for each in self.route(message):
            if not is_cycle(message.deaths, each.name):
                each.publish(message)
