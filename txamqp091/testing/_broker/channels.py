# -*- test-case-name: txamqp091.test.scenarios.test_consuming -*-
"""
One channel, as the in-memory broker sees it.

`BrokerChannel.handle` takes a method of the client's, looks up in `_HANDLERS` what is
to be done, and sends the reply.  Consuming and settling are here; publishing is in
`txamqp091.testing._broker.publishing`, what concerns exchanges and queues in
`txamqp091.testing._broker.declarations`.

Theory.  A channel is in one of three modes: plain, confirming or transactional.  A
transaction keeps what it shall do, as functions, until it is committed.  What it
settles has left the unacknowledged deliveries by then; rolled back, it returns to them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any

from txamqp091.testing._broker.arguments import check_consumer, priority_of
from txamqp091.testing._broker.consumers import Consumer
from txamqp091.testing._broker.declarations import Declarations
from txamqp091.testing._broker.deliveries import Unacked, UnackedDelivery, put_back
from txamqp091.testing._broker.messages import (
    Message,
    QueuedMessage,
    RequeueReason,
    check_numbers,
)
from txamqp091.testing._broker.publishing import REPLY_TO, ChannelPublishes
from txamqp091.testing._broker.queues import AnyQueue
from txamqp091.testing._broker.refusals import (
    Refused,
    access_refused,
    not_implemented,
    precondition,
    shown,
)
from txamqp091.wire import spec
from txamqp091.wire.method import Method
from txamqp091.wire.properties import Properties

if TYPE_CHECKING:
    from txamqp091.testing._broker.sessions import ChannelSink, Session

__all__ = ["BrokerChannel", "close_channels"]


class BrokerChannel:
    """
    A channel; made by `Session.open_channel`.

    :ivar number: its number on the connection.
    :ivar sink: whom it calls.
    :ivar transactional: whether what it does waits for a commit.
    """

    def __init__(self, session: Session, number: int, sink: ChannelSink) -> None:
        self.session = session
        self.number = number
        self.sink = sink
        self.transactional = False
        self.is_open = True
        self._broker = session.broker
        self._vhost = session.vhost
        self._declarations = Declarations(session)
        self._publishes = ChannelPublishes(session, sink)
        self._unacked = Unacked(
            self._broker.clock, self._broker.consumer_timeout, self._timed_out
        )
        self._consumers: dict[str, Consumer] = {}
        self._reply_tag = ""
        self._deliveries = 0
        self._prefetch = 0  # of consumers to come
        self._limit = 0  # of all consumers together
        self._outstanding = 0  # what counts for that
        self._work: list[Callable[[], bool]] = []
        self._settled: list[UnackedDelivery] = []
        self._settled_late: list[UnackedDelivery] = []  # late

    def __repr__(self) -> str:
        return f"<BrokerChannel {self.number}, {len(self._unacked)} unacked>"

    # -- methods -----------------------------------------------------------------------

    def handle(self, method: Method) -> None:
        """
        Do what the client asks for, and send the reply.

        :param method: any without content that a client may send on a channel, but for
            ``channel.close`` and what opens one.
        :raises Refused: the channel, or the connection, is to be closed for it.
        """
        handler = _HANDLERS.get(type(method))
        if handler is None:
            raise _unimplemented()
        check_numbers(getattr(method, "arguments", {}))
        handler(self, method)

    def publish(
        self, method: spec.BasicPublish, properties: Properties, body: bytes
    ) -> None:
        """
        Take a message from the client.

        :raises Refused: the channel, or the connection, is to be closed for it.
        """
        self._do(self._publishes.accept(method, properties, body))

    def _reply(self, method: Method, reply: Method) -> None:
        if not getattr(method, "no_wait", False) and self.is_open:
            self.sink.send(reply)

    def _do(self, action: Callable[[], bool]) -> None:
        """
        Do it now, or when the transaction is committed.
        """
        if self.transactional:
            self._work.append(action)
        else:
            action()

    def _arrange(self, name: str, method: Method) -> None:
        self._reply(method, getattr(self._declarations, name)(method))

    def _queue_delete(self, method: spec.QueueDelete) -> None:
        reply, tell = self._declarations.queue_delete(method)
        self._reply(method, reply)
        tell()

    def _access_request(self, method: spec.AccessRequest) -> None:
        self._reply(method, spec.AccessRequestOk(1))

    def _flow(self, method: spec.ChannelFlow) -> None:
        if not method.active:
            raise not_implemented("active=false")
        self._reply(method, spec.ChannelFlowOk(True))

    def _open_again(self, method: spec.ChannelOpen) -> None:
        raise Refused(spec.CHANNEL_ERROR, "second 'channel.open' seen", connection=True)

    # -- modes -------------------------------------------------------------------------

    def _confirm_select(self, method: spec.ConfirmSelect) -> None:
        if self.transactional:
            raise precondition("cannot switch from tx to confirm mode")
        self._publishes.confirming = True
        if not method.nowait:
            self.sink.send(spec.ConfirmSelectOk())

    def _tx_select(self, method: spec.TxSelect) -> None:
        if self._publishes.confirming:
            raise precondition("cannot switch from confirm to tx mode")
        self.transactional = True
        self._reply(method, spec.TxSelectOk())

    def _check_transactional(self) -> None:
        if not self.transactional:
            raise precondition("channel is not transactional")

    def _tx_commit(self, method: spec.TxCommit) -> None:
        self._check_transactional()
        work = self._work
        self._work, self._settled, self._settled_late = [], [], []
        done = [each() for each in work]
        if not all(done):
            raise precondition("partial tx completion")
        self._reply(method, spec.TxCommitOk())

    def _tx_rollback(self, method: spec.TxRollback) -> None:
        self._check_transactional()
        self._roll_back()
        self._reply(method, spec.TxRollbackOk())

    def _roll_back(self) -> None:
        settled, late = self._settled, self._settled_late
        self._work, self._settled, self._settled_late = [], [], []
        if settled or late:
            self._unacked.restore(settled, late)

    # -- consuming ---------------------------------------------------------------------

    def _qos(self, method: spec.BasicQos) -> None:
        if method.prefetch_size:
            raise not_implemented(f"prefetch_size!=0 ({method.prefetch_size})")
        if not method.global_:
            self._prefetch = method.prefetch_count
            self._limit = 0
        elif self._broker.behaviour.channel_prefetch:
            self._limit = method.prefetch_count
        self._reply(method, spec.BasicQosOk())
        self._resume(self._consumers.values())

    @property
    def has_room(self) -> bool:
        """
        Whether the channel as a whole can take more deliveries.
        """
        return not self._limit or self._outstanding < self._limit

    @property
    def is_paused(self) -> bool:
        """
        Whether the client cannot be sent deliveries at the moment.
        """
        return self.session.is_paused

    def resume(self) -> None:
        """
        It can be again.
        """
        self._resume(list(self._consumers.values()))

    def _consume(self, method: spec.BasicConsume) -> None:
        if method.queue == REPLY_TO:
            self._consume_replies(method)
            return
        name = self._declarations.queue_name(method.queue)
        self.session.check("read", "queue", name)
        tag = self._new_tag(method)
        consumer = self._make_consumer(tag, self._declarations.queue(name), method)
        self._consumers[tag] = consumer
        self._reply(method, spec.BasicConsumeOk(tag))
        consumer.queue.subscribe(consumer)

    def _new_tag(self, method: spec.BasicConsume) -> str:
        tag = method.consumer_tag or self._broker.name("amq.ctag-")
        if tag in self._consumers or tag == self._reply_tag:
            raise Refused(
                spec.NOT_ALLOWED,
                f"attempt to reuse consumer tag '{tag}'",
                connection=True,
            )
        return tag

    def _make_consumer(
        self, tag: str, queue: AnyQueue, method: spec.BasicConsume
    ) -> Consumer:
        resource = shown("queue", queue.name, self._vhost.name)
        check_consumer(
            method.arguments, resource, queue.settings.type, self._broker.behaviour
        )
        priority = priority_of(method.arguments)
        # Quorum queues and streams let other consumers in, whatever is asked for.
        exclusive = method.exclusive and queue.settings.type == "classic"
        shared = queue.consumers or queue.settings.single_active
        if queue.consumers.exclusive or (exclusive and shared):
            raise access_refused(f"{resource} in exclusive use")
        consumer = Consumer(
            tag,
            queue,
            self,
            no_ack=method.no_ack,
            exclusive=exclusive,
            prefetch=self._prefetch,
            priority=priority,
            arguments=method.arguments,
        )
        queue.check_consumer(consumer)
        return consumer

    def _cancel(self, method: spec.BasicCancel) -> None:
        tag = method.consumer_tag
        consumer = self._consumers.pop(tag, None)
        if tag and tag == self._reply_tag:
            self._end_replies()
        self._reply(method, spec.BasicCancelOk(tag))
        if consumer is not None:
            consumer.queue.unsubscribe(consumer)
            consumer.queue.abandoned()

    def _cancel_ok(self, method: spec.BasicCancelOk) -> None:
        if not self._broker.behaviour.takes_cancel_ok:
            raise _unimplemented()
        self._cancel(spec.BasicCancel(method.consumer_tag, True))

    def consumer_delivers(self, consumer: Consumer, entry: QueuedMessage) -> None:
        """
        A queue has a message for a consumer.
        """
        self._deliveries += 1
        tag = self._deliveries
        if not consumer.no_ack:
            consumer.outstanding += 1
            self._outstanding += 1
            self._unacked.add(tag, consumer.queue, entry, consumer)
        message = entry.message
        method = spec.BasicDeliver(
            consumer.tag,
            tag,
            entry.redelivered,
            message.exchange,
            message.routing_key,
        )
        self.sink.deliver(method, consumer.queue.properties_of(entry), message.body)

    def consumer_cancelled(self, consumer: Consumer) -> None:
        """
        A queue has ended a consumer.
        """
        if self._consumers.get(consumer.tag) is consumer:
            del self._consumers[consumer.tag]
            self.sink.send(spec.BasicCancel(consumer.tag, True))

    def _get(self, method: spec.BasicGet) -> None:
        name = self._declarations.queue_name(method.queue)
        self.session.check("read", "queue", name)
        queue = self._declarations.queue(name)
        entry = queue.fetch(method.no_ack)
        if entry is None:
            self.sink.send(spec.BasicGetEmpty())
            return
        self._deliveries += 1
        tag = self._deliveries
        if not method.no_ack:
            self._unacked.add(tag, queue, entry, None)
        message = entry.message
        reply = spec.BasicGetOk(
            tag,
            entry.redelivered,
            message.exchange,
            message.routing_key,
            queue.ready_count,
        )
        properties = queue.properties_of(entry, fetched=True)
        self.sink.deliver(reply, properties, message.body)

    # -- direct reply-to ---------------------------------------------------------------

    def _consume_replies(self, method: spec.BasicConsume) -> None:
        if self._reply_tag:
            raise precondition("reply consumer already set")
        if not method.no_ack:
            raise precondition("reply consumer cannot acknowledge")
        self._reply_tag = self._new_tag(method)
        self._publishes.reply_address = self._broker.replies.give(self)
        self._reply(method, spec.BasicConsumeOk(self._reply_tag))

    def _end_replies(self) -> None:
        self._broker.replies.withdraw(self._publishes.reply_address)
        self._publishes.reply_address = self._reply_tag = ""

    def replied(self, message: Message) -> None:
        """
        An answer has come by direct reply-to.
        """
        self._deliveries += 1
        method = spec.BasicDeliver(
            self._reply_tag,
            self._deliveries,
            False,
            message.exchange,
            message.routing_key,
        )
        self.sink.deliver(method, message.properties, message.body)

    # -- settling ----------------------------------------------------------------------

    def _take(
        self, tag: int, multiple: bool
    ) -> tuple[list[UnackedDelivery], list[UnackedDelivery]]:
        taken, late = self._unacked.take(tag, multiple)
        if self.transactional:
            self._settled += taken
            self._settled_late += late
        return taken, late

    def _ack(self, method: spec.BasicAck) -> None:
        taken, late = self._take(method.delivery_tag, method.multiple)

        def acknowledge() -> bool:
            for delivery in taken:
                delivery.queue.acknowledge(delivery.entry)
            self._forget_late(late)
            self._resume([*self._release(taken), *self._wake([*taken, *late])])
            return True

        self._do(acknowledge)

    def _nack(self, method: spec.BasicNack) -> None:
        self._refuse(method.delivery_tag, method.multiple, method.requeue)

    def _reject(self, method: spec.BasicReject) -> None:
        self._refuse(method.delivery_tag, False, method.requeue, RequeueReason.REJECT)

    def _refuse(
        self,
        tag: int,
        multiple: bool,
        requeue: bool,
        why: RequeueReason = RequeueReason.NACK,
    ) -> None:
        delivery = self._unacked.get(tag)
        if delivery is not None:
            delivery.queue.check_reject()
        taken, late = self._take(tag, multiple)

        def refuse() -> bool:
            # They count as free before the messages are offered again, as the same
            # consumer may get them.
            consumers = list(self._release(taken))
            self._forget_late(late)
            if requeue:
                # Which lets no consumer go on that has timed out.
                put_back(taken, why)
            else:
                for each in taken:
                    each.queue.reject(each.entry, why)
                consumers += self._wake([*taken, *late])
            self._resume(consumers)
            return True

        self._do(refuse)

    def _recover(self, method: spec.BasicRecover | spec.BasicRecoverAsync) -> None:
        if not method.requeue:
            raise not_implemented("requeue=false")
        taken, late = self._unacked.take(0, multiple=True)
        self._forget_late(late)
        if isinstance(method, spec.BasicRecover):
            self._reply(method, spec.BasicRecoverOk())
        consumers = self._release(taken)
        put_back(taken, RequeueReason.NACK)
        self._resume(consumers)

    def _release(self, taken: Iterable[UnackedDelivery]) -> Iterable[Consumer]:
        """
        Let deliveries count no longer.

        :returns: the consumers that may have room now.
        """
        consumers: dict[Consumer, None] = {}
        for delivery in taken:
            if delivery.consumer is not None:
                delivery.consumer.outstanding -= 1
                self._outstanding -= 1
                consumers[delivery.consumer] = None
        return self._consumers.values() if self._limit else consumers

    def _resume(self, consumers: Iterable[Consumer]) -> None:
        by_queue: dict[AnyQueue, list[Consumer]] = {}
        for consumer in consumers:
            by_queue.setdefault(consumer.queue, []).append(consumer)
        for queue, its in by_queue.items():
            queue.resume(its)

    def _timed_out(self, deliveries: list[UnackedDelivery]) -> None:
        """
        Deliveries have not been settled in time.
        """
        alive = all(
            each.consumer is not None
            and self._consumers.get(each.consumer.tag) is each.consumer
            for each in deliveries
        )
        if not self._broker.behaviour.timeout_cancels:
            self._end_late(round((self._unacked.timeout or 0.0) * 1000))
        elif alive and self.session.can("consumer_cancel_notify"):
            self._end_consumers(deliveries)
        else:
            self._end_late(-1)

    def _end_late(self, timeout: int) -> None:
        problem = (
            f"delivery acknowledgement on channel {self.number} timed out. Timeout "
            f"value used: {timeout} ms. This timeout value can be configured, see "
            "consumers doc guide to learn more"
        )
        self.end(precondition(problem))

    def _end_consumers(self, deliveries: list[UnackedDelivery]) -> None:
        """
        Give back what was not settled in time, and tell the consumers that they have
        ended.  The broker still knows each until the client answers or cancels it; if
        the client settles everything late instead, the consumer goes on.
        """
        self._unacked.set_late(deliveries)
        self._release(deliveries)
        consumers: dict[Consumer, None] = {}
        for each in deliveries:
            assert each.consumer is not None
            each.consumer.late.add(each.tag)
            consumers[each.consumer] = None
        for consumer in consumers:
            consumer.queue.consumers.suspend(consumer)
            self.sink.send(spec.BasicCancel(consumer.tag, True))
        put_back(deliveries, RequeueReason.NACK)

    def _forget_late(self, late: Iterable[UnackedDelivery]) -> None:
        for each in late:
            assert each.consumer is not None
            each.consumer.late.discard(each.tag)

    def _wake(self, settled: Iterable[UnackedDelivery]) -> list[Consumer]:
        """
        Let consumers go on that have settled all that was late.

        :returns: these consumers.
        """
        woken: dict[Consumer, None] = {}
        for each in settled:
            consumer = each.consumer
            if consumer is not None and consumer.timed_out and not consumer.late:
                consumer.timed_out = False
                woken[consumer] = None
        return list(woken)

    # -- the end -----------------------------------------------------------------------

    def end(self, refusal: Refused) -> None:
        """
        The broker closes the channel of its own accord.
        """
        if self.is_open:
            self.close()
            self.sink.close(refusal.reply_code, refusal.reply_text)

    def close(self) -> None:
        """
        The channel has ended: its consumers go, and what is unacknowledged goes back to
        its queues.  Closing again does nothing.
        """
        close_channels([self])

    def leave(self) -> tuple[list[Consumer], list[UnackedDelivery]]:
        """
        Take no more part in anything.

        :returns: the consumers that have gone with it, and what is to go back.
        """
        if not self.is_open:
            return [], []
        self.is_open = False
        self._publishes.close()
        if self.session.channels.get(self.number) is self:
            del self.session.channels[self.number]
        if self._reply_tag:
            self._end_replies()
        self._roll_back()
        taken = self._unacked.take_all()
        self._unacked.stop()
        consumers, self._consumers = list(self._consumers.values()), {}
        for consumer in consumers:
            consumer.queue.unsubscribe(consumer)
        return consumers, taken


def close_channels(channels: Iterable[BrokerChannel]) -> None:
    """
    Close channels that end together: none of them gets what another leaves behind.
    """
    consumers: list[Consumer] = []
    taken: list[UnackedDelivery] = []
    for channel in channels:
        its_consumers, its_deliveries = channel.leave()
        consumers += its_consumers
        taken += its_deliveries
    put_back(taken, RequeueReason.LOST)
    for consumer in consumers:
        consumer.queue.abandoned()


def _unimplemented() -> Refused:
    return Refused(spec.COMMAND_INVALID, "unimplemented method", connection=True)


def _arranged(name: str) -> Callable[[BrokerChannel, Any], None]:
    """
    A handler that leaves everything to `Declarations`.
    """

    def arrange(channel: BrokerChannel, method: Method) -> None:
        channel._arrange(name, method)

    return arrange


_HANDLERS: Mapping[type[Method], Callable[[BrokerChannel, Any], None]] = {
    spec.ExchangeDeclare: _arranged("exchange_declare"),
    spec.ExchangeDelete: _arranged("exchange_delete"),
    spec.ExchangeBind: _arranged("exchange_bind"),
    spec.ExchangeUnbind: _arranged("exchange_unbind"),
    spec.QueueDeclare: _arranged("queue_declare"),
    spec.QueueBind: _arranged("queue_bind"),
    spec.QueueUnbind: _arranged("queue_unbind"),
    spec.QueuePurge: _arranged("queue_purge"),
    spec.QueueDelete: BrokerChannel._queue_delete,
    spec.BasicQos: BrokerChannel._qos,
    spec.BasicConsume: BrokerChannel._consume,
    spec.BasicCancel: BrokerChannel._cancel,
    spec.BasicCancelOk: BrokerChannel._cancel_ok,
    spec.BasicGet: BrokerChannel._get,
    spec.BasicAck: BrokerChannel._ack,
    spec.BasicNack: BrokerChannel._nack,
    spec.BasicReject: BrokerChannel._reject,
    spec.BasicRecover: BrokerChannel._recover,
    spec.BasicRecoverAsync: BrokerChannel._recover,
    spec.ConfirmSelect: BrokerChannel._confirm_select,
    spec.TxSelect: BrokerChannel._tx_select,
    spec.TxCommit: BrokerChannel._tx_commit,
    spec.TxRollback: BrokerChannel._tx_rollback,
    spec.ChannelOpen: BrokerChannel._open_again,
    spec.ChannelFlow: BrokerChannel._flow,
    spec.AccessRequest: BrokerChannel._access_request,
}
