# -*- test-case-name: txamqp091.test.scenarios.test_queue_arguments -*-
"""
What a client may do to exchanges and queues, and the answers to it.

`Declarations` has one method for each AMQP method of the classes exchange and queue: it
checks, changes the virtual host, and returns the reply.  It knows nothing of messages.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from txamqp091.testing._broker.arguments import (
    QueueSettings,
    check_equivalent,
    check_exchange_name,
    queue_arguments,
)
from txamqp091.testing._broker.exchanges import Destination, Exchange
from txamqp091.testing._broker.publishing import REPLY_TO
from txamqp091.testing._broker.queues import AnyQueue
from txamqp091.testing._broker.refusals import (
    Refused,
    access_refused,
    locked,
    no_such,
    precondition,
    shown,
)
from txamqp091.wire import spec
from txamqp091.wire.method import Method
from txamqp091.wire.types import FieldValue

if TYPE_CHECKING:
    from txamqp091.testing._broker.sessions import Session

__all__ = ["Declarations"]

Arguments = Mapping[str, FieldValue]

_ON_THE_DEFAULT = "operation not permitted on the default exchange"

# Of these, those that only a durable queue for everybody can be.
_REPLICATED = ("quorum", "stream")

_TRANSIENT = (
    "Feature `transient_nonexcl_queues` is deprecated.\nBy default, this feature is "
    "not permitted anymore.\n"
)


class Declarations:
    """
    One channel's view of the exchanges and queues.

    :ivar last_queue: the name of the queue that it declared last, or "".
    """

    def __init__(self, session: Session) -> None:
        self._session = session
        self._vhost = session.vhost
        self._behaviour = session.broker.behaviour
        self.last_queue = ""

    # -- exchanges ---------------------------------------------------------------------

    def exchange_declare(self, method: spec.ExchangeDeclare) -> Method:
        name = _clean(method.exchange)
        if not name:
            raise access_refused(_ON_THE_DEFAULT)
        if method.passive:
            if self._behaviour.checks_passive:
                self._session.check("configure", "exchange", name)
            self._vhost.exchange(name)
            return spec.ExchangeDeclareOk()
        if method.type not in self._behaviour.exchange_types:
            raise self._no_such_type(method.type)
        self._session.check("configure", "exchange", name)
        current = self._vhost.exchanges.get(name)
        if current is None:
            self._make_exchange(name, method)
        else:
            self._check_exchange(current, method)
        return spec.ExchangeDeclareOk()

    def _no_such_type(self, type: str) -> Refused:
        problem = f"unknown exchange type '{type}'"
        if self._behaviour.soft_exchange_type:
            return precondition(problem)
        return Refused(spec.COMMAND_INVALID, problem, connection=True)

    def _make_exchange(self, name: str, method: spec.ExchangeDeclare) -> None:
        _check_reserved("exchange", name)
        resource = shown("exchange", name, self._vhost.name)
        alternate = check_exchange_name(
            method.arguments, "alternate-exchange", resource
        )
        if alternate is not None:
            self._session.check("read", "exchange", name)
            self._session.check("write", "exchange", alternate)
        self._vhost.exchanges[name] = Exchange(
            name,
            method.type,
            durable=method.durable,
            auto_delete=method.auto_delete,
            internal=method.internal,
            arguments=method.arguments,
        )

    def _check_exchange(self, current: Exchange, method: spec.ExchangeDeclare) -> None:
        resource = shown("exchange", current.name, self._vhost.name)
        _check_fields(current, method, resource, "type", "durable")
        _check_fields(current, method, resource, "auto_delete", "internal")
        check_equivalent(
            resource, current.arguments, method.arguments, ("alternate-exchange",)
        )

    def exchange_delete(self, method: spec.ExchangeDelete) -> Method:
        name = _clean(method.exchange)
        if not name:
            raise access_refused(_ON_THE_DEFAULT)
        resource = shown("exchange", name, self._vhost.name)
        if name.startswith("amq."):
            raise access_refused(f"deletion of system {resource} not allowed")
        self._session.check("configure", "exchange", name)
        exchange = self._vhost.exchanges.get(name)
        if exchange is not None:
            if method.if_unused and exchange.in_use:
                raise precondition(f"{resource} in use")
            self._vhost.delete_exchange(exchange)
        return spec.ExchangeDeleteOk()

    def exchange_bind(self, method: spec.ExchangeBind) -> Method:
        source, destination = self._ends("exchange", method.source, method.destination)
        self._bind(source, "exchange", destination, method)
        return spec.ExchangeBindOk()

    def exchange_unbind(self, method: spec.ExchangeUnbind) -> Method:
        source, destination = self._ends("exchange", method.source, method.destination)
        self._unbind(source, self._vhost.exchanges.get(destination), method)
        return spec.ExchangeUnbindOk()

    # -- queues ------------------------------------------------------------------------

    def queue_declare(self, method: spec.QueueDeclare) -> Method:
        name = _clean(method.queue)
        if name.startswith(REPLY_TO):
            return self._declare_replies(name)
        if method.passive:
            if self._behaviour.checks_passive:
                self._session.check("configure", "queue", name)
            return self._declared(self.queue(name))
        if name:
            _check_reserved("queue", name)
        else:
            name = self._session.broker.name("amq.gen-")
        if method.exclusive:
            method.durable = False  # whatever was said
        self._session.check("configure", "queue", name)
        current = self._vhost.queues.get(name)
        if current is None:
            return self._declared(self._make_queue(name, method))
        self._check_queue(current, method)
        current.used()
        return self._declared(current)

    def _declared(self, queue: AnyQueue) -> spec.QueueDeclareOk:
        self.last_queue = queue.name
        # RabbitMQ does not say who reads a stream.
        consumers = 0 if queue.settings.type == "stream" else len(queue.consumers)
        return spec.QueueDeclareOk(queue.name, queue.ready_count, consumers)

    def _declare_replies(self, name: str) -> Method:
        """
        Whoever answers by direct reply-to asks so whether somebody listens.
        """
        if name != REPLY_TO and self._session.broker.replies.find(name) is None:
            raise no_such("queue", name, self._vhost.name)
        return spec.QueueDeclareOk(name, 0, 1)

    def _make_queue(self, name: str, method: spec.QueueDeclare) -> AnyQueue:
        resource = shown("queue", name, self._vhost.name)
        if not (method.durable or method.exclusive):
            if not self._session.broker.transient_queues:
                raise Refused(spec.INTERNAL_ERROR, _TRANSIENT, connection=True)
        target = check_exchange_name(
            method.arguments, "x-dead-letter-exchange", resource
        )
        if target is not None:
            self._session.check("read", "queue", name)
            self._session.check("write", "exchange", target)
        settings = QueueSettings.of(method.arguments, resource, self._behaviour)
        if settings.type in _REPLICATED:
            _check_replicated(method, resource)
            if not method.queue:
                raise precondition(
                    "Cannot declare a server-named queue for type "
                    f"rabbit_{settings.type}_queue"
                )
        made = self._vhost.make_queue(
            name,
            settings,
            durable=method.durable,
            auto_delete=method.auto_delete,
            owner=self._session if method.exclusive else None,
            arguments=method.arguments,
        )
        if method.exclusive:
            self._session.exclusive_queues[made] = None
        return made

    def _check_queue(self, current: AnyQueue, method: spec.QueueDeclare) -> None:
        self._check_owner(current)
        if method.exclusive != (current.owner is not None):
            raise locked(current.name, self._vhost.name)
        resource = shown("queue", current.name, self._vhost.name)
        _check_fields(current, method, resource, "durable", "auto_delete")
        old, new = _with_type(current.arguments), _with_type(method.arguments)
        differ = old["x-queue-type"] != new["x-queue-type"]
        if differ and not self._behaviour.default_queue_type:
            old, new = current.arguments, method.arguments
        check_equivalent(resource, old, new, queue_arguments(self._behaviour))

    def queue_bind(self, method: spec.QueueBind) -> Method:
        queue, key = self._named(method)
        source, destination = self._ends("queue", method.exchange, queue)
        self._bind(source, "queue", destination, method, key)
        return spec.QueueBindOk()

    def queue_unbind(self, method: spec.QueueUnbind) -> Method:
        queue, key = self._named(method)
        source, destination = self._ends("queue", method.exchange, queue)
        self._unbind(source, self._vhost.queues.get(destination), method, key)
        return spec.QueueUnbindOk()

    def queue_purge(self, method: spec.QueuePurge) -> Method:
        name = self.queue_name(method.queue)
        self._session.check("read", "queue", name)
        return spec.QueuePurgeOk(self.queue(name).purge())

    def queue_delete(
        self, method: spec.QueueDelete
    ) -> tuple[Method, Callable[[], None]]:
        """
        :returns: the reply, and what to do once it is sent: to tell the consumers.
        """
        name = self.queue_name(method.queue)
        self._session.check("configure", "queue", name)
        queue = self._vhost.queues.get(name)
        if queue is None:
            return spec.QueueDeleteOk(0), _nothing
        self._check_owner(queue)
        count = 0
        if queue.settings.type != "stream":
            resource = shown("queue", name, self._vhost.name)
            count = queue.ready_count
            if method.if_unused and queue.consumers:
                raise precondition(f"{resource} in use")
            if method.if_empty and count:
                raise precondition(f"{resource} not empty")
        consumers = self._vhost.remove_queue(queue)

        def tell() -> None:
            for consumer in consumers:
                consumer.channel.consumer_cancelled(consumer)

        return spec.QueueDeleteOk(count), tell

    # -- finding -----------------------------------------------------------------------

    def queue_name(self, name: str) -> str:
        """
        The name of the queue that is meant: "" is the one declared last.

        :raises Refused: 404, there is none.
        """
        name = _clean(name) or self.last_queue
        if not name:
            raise Refused(spec.NOT_FOUND, "no previously declared queue")
        return name

    def queue(self, name: str) -> AnyQueue:
        """
        The queue of that name.

        :raises Refused: 404, there is none; 405, it is exclusive to somebody else.
        """
        queue = self._vhost.queue(name)
        self._check_owner(queue)
        return queue

    def _check_owner(self, queue: AnyQueue) -> None:
        if queue.owner is not None and queue.owner is not self._session:
            raise locked(queue.name, self._vhost.name)

    def _named(self, method: spec.QueueBind | spec.QueueUnbind) -> tuple[str, str]:
        """
        The queue and the routing key that are meant.
        """
        name = self.queue_name(method.queue)
        if not method.queue and not method.routing_key:
            return name, name
        return name, method.routing_key

    # -- bindings ----------------------------------------------------------------------

    def _ends(self, kind: str, source: str, destination: str) -> tuple[str, str]:
        """
        Check who may bind what.

        :param kind: what the destination is.
        """
        source, destination = _clean(source), _clean(destination)
        if not destination or not source:
            raise access_refused(_ON_THE_DEFAULT)
        self._session.check("write", kind, destination)
        self._session.check("read", "exchange", source)
        return source, destination

    def _bind(
        self, source: str, kind: str, destination: str, method: Any, key: str = ""
    ) -> None:
        exchange = self._vhost.exchanges.get(source)
        found: Destination
        if kind == "queue":
            found = self.queue(destination)
        else:
            found = self._vhost.exchange(destination)
        if exchange is None:
            raise no_such("exchange", source, self._vhost.name)
        exchange.bind(found, key or method.routing_key, method.arguments)

    def _unbind(
        self, source: str, destination: Destination | None, method: Any, key: str = ""
    ) -> None:
        exchange = self._vhost.exchanges.get(source)
        if exchange is None or destination is None:
            return
        key = key or method.routing_key
        if exchange.unbind(destination, key, method.arguments):
            self._vhost.unbound(exchange)


def _with_type(arguments: Arguments) -> Arguments:
    """
    Arguments that say of which type a queue is; if nobody has, it is a classic one.
    """
    return {"x-queue-type": "classic", **arguments}


def _nothing() -> None:
    """
    There is nobody to tell.
    """


def _clean(name: str) -> str:
    # RabbitMQ drops these from names, as they would end up in its log.
    return name.replace("\r", "").replace("\n", "")


def _check_reserved(kind: str, name: str) -> None:
    if name.startswith("amq."):
        raise access_refused(f"{kind} name '{name}' contains reserved prefix 'amq.*'")


def _check_replicated(method: spec.QueueDeclare, resource: str) -> None:
    """
    What is on several nodes outlives each of them.
    """
    for wrong, name in (
        (method.auto_delete, "auto-delete"),
        (method.exclusive, "exclusive-owner"),
        (not method.durable, "non-durable"),
    ):
        if wrong:
            raise precondition(f"invalid property '{name}' for {resource}")


def _check_fields(current: Any, method: Any, resource: str, *names: str) -> None:
    """
    Compare what is declared with what is there.

    :raises Refused: 406, naming the first field that differs.
    """
    for name in names:
        old, new = getattr(current, name), getattr(method, name)
        if old != new:
            raise precondition(
                f"inequivalent arg '{name}' for {resource}: received "
                f"'{_plain(new)}' but current is '{_plain(old)}'"
            )


def _plain(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)
