# -*- test-case-name: txamqp091.test.unit.service.test_client -*-
"""
The service that stays connected: `AMQPClientService`.

Theory.  There is one connection at a time, or none; `txamqp091.service.reconnection`
makes them.  The topology is declared on each new connection, and the channels are
attached to it; consumers follow their channels.  `AMQPClientService.stopService` drains
the connection; if that is lost meanwhile, there is no other one.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, Literal, cast

from twisted.application.service import Service
from twisted.internet.defer import CancelledError, Deferred, succeed
from twisted.internet.interfaces import (
    IReactorTime,
)
from twisted.logger import Logger
from twisted.python.failure import Failure

from txamqp091._channel_publisher import DEFAULT_WINDOW
from txamqp091._observer import OneShot, observe
from txamqp091.consumer import Handler, OnFailure, check_handler
from txamqp091.interfaces import AnyCredentials, AnyReactor
from txamqp091.parameters import ConnectionParameters
from txamqp091.protocol import AMQPProtocol
from txamqp091.service.addresses import Addresses, Where
from txamqp091.service.drain import Drain
from txamqp091.service.entities import Entity, EntityOutcome, Queue
from txamqp091.service.reconnection import Reconnection, ServiceObservers
from txamqp091.service.recovering_channel import RecoveringChannel
from txamqp091.service.recovering_consumer import ConsumerGroup, RecoveringConsumer
from txamqp091.service.retry import RetryPolicy
from txamqp091.service.topology import Topology
from txamqp091.service.topology_recovery import TopologyRecovery

_log = Logger(namespace="txamqp091.service")

_PREFETCH_MAX = 65535


#: Called with a consumer, the reason, and the delay until the next attempt.
ConsumerFailure = Callable[[RecoveringConsumer, BaseException, float | None], object]


class AMQPClientService(Service):
    """
    A connection to a broker that comes back, with all that is on it: the topology,
    channels and consumers::

        service = AMQPClientService(reactor, "amqp://localhost", topology=topology)
        service.consume("work", handle)
        service.setServiceParent(application)

    It connects when it is started, and tries again for as long as its `RetryPolicy`
    says, the first time as well.

    :ivar connection: the present connection, if it is ready; else None.
    :ivar policy: when to try again.
    :ivar reactor: the reactor.
    """

    def __init__(
        self,
        reactor: AnyReactor,
        where: Where,
        *,
        topology: Topology | None = None,
        credentials: AnyCredentials | Sequence[AnyCredentials] | None = None,
        parameters: ConnectionParameters | None = None,
        policy: RetryPolicy | None = None,
        name: str = "",
        shutdown_timeout: float = 30.0,
    ) -> None:
        """
        :param reactor: one that has timers, TCP and name resolution; where there are
            only endpoints, timers are enough.
        :param where: a URI, `ConnectionParameters`, an endpoint, an
            `txamqp091.service.addresses.Address` or
            `txamqp091.service.addresses.SRVRecords`; or a sequence of these.
        :param topology: what should be there.
        :param credentials: as whom to log in, instead of what the first says.
        :param parameters: everything else, where ``where`` is an endpoint.
        :param name: the name that RabbitMQ shows for the connection.
        :param shutdown_timeout: how many seconds handlers and confirms have when the
            service is stopped.
        :raises InvalidURI: a URI cannot be understood.
        """
        changes: dict[str, Any] = {}
        if credentials is not None:
            changes["credentials"] = credentials
        if name:
            changes["name"] = name
        self.reactor = cast(IReactorTime, reactor)
        self.policy = policy or RetryPolicy()
        self.connection: AMQPProtocol | None = None
        self._shutdown_timeout = shutdown_timeout
        self._addresses = Addresses(
            where,
            self.policy,
            parameters=parameters,
            adapt=lambda each: replace(each, **changes),
        )
        self._recovery = TopologyRecovery(
            self.reactor, self.policy, topology or Topology()
        )
        self._recovery.changed = self._topology_changed
        self._observers = ServiceObservers()
        self._group = ConsumerGroup()
        self._channels: list[RecoveringChannel] = []
        self._consumers: list[RecoveringConsumer] = []
        self._tags = itertools.count(1)
        self._loop: Reconnection | None = None
        self._drain: Drain | None = None
        self._stopped: OneShot[None] = OneShot()
        self._ready: OneShot[AMQPProtocol] = OneShot()

    def __repr__(self) -> str:
        state = "running" if self.running else "stopped"
        if self.connection is not None:
            state = "ready"
        return f"<AMQPClientService to {self._addresses}, {state}>"

    # -- using it ------------------------------------------------------------------

    @property
    def error(self) -> BaseException | None:
        """
        Why there is no connection, or why the last one has ended.
        """
        return None if self._loop is None else self._loop.error

    @property
    def topology(self) -> Topology:
        """
        What should be there; `declare` and `delete` change it.
        """
        return self._recovery.topology

    @property
    def outcomes(self) -> list[EntityOutcome]:
        """
        What became of each entity of the topology, the last time.
        """
        return self._recovery.outcomes

    @property
    def consumers(self) -> list[RecoveringConsumer]:
        """
        The consumers that were not cancelled.
        """
        return list(self._consumers)

    def when_ready(self) -> Deferred[AMQPProtocol]:
        """
        :returns: fires with the connection when AMQP is open and the topology stands,
            which may be at once.  Fails with `TopologyFailed` when the broker refuses
            a part of it (the service tries that again, and everything else works);
            with the reason of the last attempt when the service has given up; and with
            ``CancelledError`` when it is stopped.  Each caller has a Deferred of their
            own; cancelling it does nothing else.
        """
        return self._ready.when_fired()

    def observe(
        self,
        *,
        connecting: Callable[[str], object] | None = None,
        ready: Callable[[AMQPProtocol, list[EntityOutcome]], object] | None = None,
        blocked: Callable[[str], object] | None = None,
        unblocked: Callable[[], object] | None = None,
        lost: Callable[[BaseException], object] | None = None,
        recovering: Callable[[int, float, BaseException], object] | None = None,
        failed: Callable[[BaseException], object] | None = None,
        subscribed: Callable[[RecoveringConsumer], object] | None = None,
        unsubscribed: ConsumerFailure | None = None,
        refused: ConsumerFailure | None = None,
        draining: Callable[[], object] | None = None,
    ) -> Callable[[], None]:
        """
        Have functions called when something happens to the service, in the reactor's
        thread.  What a function raises is logged, and changes nothing.

        :param connecting: ``(address)``: the service tries an address, which is a URI
            without its password.
        :param ready: ``(connection, outcomes)``: AMQP is open, and the topology has
            been declared as far as possible; ``outcomes`` has an `EntityOutcome` for
            each entity.  Channels and consumers come back next.
        :param blocked: ``(reason)``: the broker takes no messages for now.
        :param unblocked: ``()``: the broker takes messages again.
        :param lost: ``(reason)``: a connection that was ready has ended, not by us.
        :param recovering: ``(attempt, delay, reason)``: the service tries to connect
            again in ``delay`` seconds.  ``attempt`` counts the attempts since there was
            a connection that lasted, and ``reason`` is why the last attempt has
            failed, or the connection has ended.
        :param failed: ``(reason)``: the service has given up, as its `RetryPolicy`
            says.
        :param subscribed: ``(consumer)``: the broker gives a `RecoveringConsumer`
            messages, for the first time or again.
        :param unsubscribed: ``(consumer, reason, delay)``: the broker gives a consumer
            no messages, though there is a connection.  That may pass by itself; the
            consumer tries again in ``delay`` seconds at the earliest, or never if it is
            None.
        :param refused: ``(consumer, reason, delay)``: as ``unsubscribed``, but it will
            not pass until someone changes something: the queue is missing, or the user
            may not consume from it, or not in this way.
        :param draining: ``()``: the service is being stopped, and the handlers have
            ended.  The service waits for a Deferred that this returns, for the rest of
            ``shutdown_timeout``, and then closes the channels.
        :returns: call this to end the observation; calling it twice is harmless.
        :raises TypeError: one of them is not callable, or there is none.
        """
        observers, consumers = self._observers, self._group
        return observe(
            connecting=(observers.connecting, connecting),
            ready=(observers.ready, ready),
            blocked=(observers.blocked, blocked),
            unblocked=(observers.unblocked, unblocked),
            lost=(observers.lost, lost),
            recovering=(observers.recovering, recovering),
            failed=(observers.failed, failed),
            subscribed=(consumers.subscribed, subscribed),
            unsubscribed=(consumers.unsubscribed, unsubscribed),
            refused=(consumers.refused, refused),
            draining=(observers.draining, draining),
        )

    def queue_name(self, queue: str | Queue) -> str:
        """
        What the broker calls a queue now.

        :raises LocalProtocolError: the broker has yet to make up its name.
        """
        return self._recovery.queue_name(queue)

    def declare(self, *entities: Entity) -> Deferred[list[EntityOutcome]]:
        """
        Add to the topology.

        :returns: fires with an outcome for each entity when the broker has answered for
            all of them, also if that takes several connections.  Fails with the reason
            when there will be no more connection, as the service was stopped or has
            given up, or when the broker closes the connection for one of them.
            Cancelling it ends the waiting only; the entities stay in the topology.
        """
        return self._recovery.declare(entities)

    def delete(self, *entities: Entity) -> Deferred[list[EntityOutcome]]:
        """
        Take out of the topology, with the bindings from and to them, and delete.  They
        do not come back.

        :returns: as `declare`.  If the connection ends meanwhile, they may still be
            there, but are not declared any more.
        """
        return self._recovery.delete(entities)

    def restore_route(self, exchange: str, routing_key: str) -> Deferred[None] | None:
        """
        Declare again what a message needs that the broker could not route, as far as it
        is in the topology.

        :returns: fires when that was tried; None, if nothing of it is in the topology,
            or it was tried less than 10 s ago.
        """
        return self._recovery.restore_route(exchange, routing_key)

    def channel(
        self,
        confirm: bool = False,
        *,
        window: int = DEFAULT_WINDOW,
        prefetch: int | None = None,
        tx: bool = False,
        join_acks: bool = False,
    ) -> RecoveringChannel:
        """
        A channel that comes back.

        :param confirm: in confirm mode, with so many unconfirmed messages at the most
            as ``window`` says.
        :param prefetch: how many fetched deliveries may be unacknowledged.
        :param tx: in transaction mode.
        :param join_acks: with acknowledgements that leave together, where they can; see
            `txamqp091.channel.Channel.join_acks`.
        """
        channel = RecoveringChannel(
            self.reactor,
            self.policy,
            self._channels.remove,
            confirm=confirm,
            window=window,
            prefetch=prefetch,
            tx=tx,
            join_acks=join_acks,
        )
        self._channels.append(channel)
        if self.connection is not None and self._drain is None:
            channel.attach(self.connection)
        return channel

    def consume(
        self,
        queue: str | Queue,
        handler: Handler,
        *,
        prefetch: int | None = None,
        auto_ack: bool = False,
        ack_on_return: bool = False,
        on_failure: OnFailure = "requeue",
        exclusive: bool = False,
        arguments: Mapping[str, Any] | None = None,
        consumer_tag: str = "",
        join_acks: bool = False,
        channel: RecoveringChannel | None = None,
        on_cancelled: Literal["resubscribe", "end"] = "resubscribe",
        on_refused: Literal["resubscribe", "end"] = "resubscribe",
    ) -> RecoveringConsumer:
        """
        Consume a queue, now and after each reconnect.

        :param queue: its name; or a `Queue`, which is then part of the topology.
        :param handler: called with each `txamqp091.Delivery`; see
            `txamqp091.Consumer`.
        :param prefetch: how many deliveries may be unacknowledged; 0 is no limit.  None
            is the limit of the channel.
        :param auto_ack: the broker forgets each message as soon as it has sent it.
        :param ack_on_return: acknowledge each delivery when its handler has succeeded
            and has not settled it.  Otherwise the handler settles its deliveries
            itself.
        :param on_failure: what happens to a message whose handler has failed; see
            `txamqp091.Consumer`.
        :param exclusive: no one else may consume from the queue.
        :param arguments: see `txamqp091.arguments`.  A consumer of a stream goes on
            behind the last settled message if these say where to begin, with
            ``stream_consumer``, or ``queue`` is a `Queue`.
        :param consumer_tag: a name for the consumer; one is made up if it is "".
        :param join_acks: whether acknowledgements leave together, where they can, on a
            channel of its own; see `txamqp091.channel.Channel.join_acks`.
        :param channel: the channel to use; by default, one of its own, so that no other
            consumer is affected when the broker closes it.
        :param on_cancelled: what to do when the broker cancels the consumer, since its
            queue was deleted or a delivery was not settled in time: subscribe again,
            as often as needed; or end.
        :param on_refused: what to do when the broker refuses the consumer, and will
            until someone changes something: the same.
        :raises TypeError: the handler is not callable.
        :raises ValueError: the prefetch limit is not from 0 to 65535.
        """
        check_handler(handler)
        if prefetch is not None and not 0 <= prefetch <= _PREFETCH_MAX:
            raise ValueError(f"a prefetch of {prefetch}; 0 to {_PREFETCH_MAX}")
        if isinstance(queue, Queue):
            self._recovery.include(queue)
        consumer = RecoveringConsumer(
            self._recovery,
            self._group,
            channel or self.channel(join_acks=join_acks),
            queue,
            handler,
            forget=self._consumers.remove,
            consumer_tag=consumer_tag or f"consumer-{next(self._tags)}",
            prefetch=prefetch,
            auto_ack=auto_ack,
            ack_on_return=ack_on_return,
            on_failure=on_failure,
            exclusive=exclusive,
            arguments=arguments,
            owns_channel=channel is None,
            on_cancelled=on_cancelled,
            on_refused=on_refused,
        )
        self._consumers.append(consumer)
        return consumer

    # -- starting and stopping -----------------------------------------------------

    def startService(self) -> None:
        """
        Twisted: connect.  A service that was stopped can be started again, with its
        channels and consumers; one that is being stopped begins when it has.
        """
        if self.running:
            return
        Service.startService(self)
        if self._loop is None:
            self._start()

    def _start(self) -> None:
        if self._ready.fired:
            self._ready = OneShot()
        self._recovery.reset()
        for channel in self._channels:
            channel.reset()
        for consumer in self._consumers:
            consumer.reset()
        self._loop = Reconnection(
            self.reactor,
            self._addresses,
            self.policy,
            self._observers,
            prepare=self._recovery.apply,
            connected=self._connected,
            disconnected=self._disconnected,
            gave_up=self._gave_up,
            is_of_a_consumer=self._group.is_blamed,
        )
        self._loop.start()

    def stopService(self) -> Deferred[None]:
        """
        Twisted: take no more messages, let the running handlers end, wait for confirms,
        and close: first the channels, so that the broker has processed all
        acknowledgements, then AMQP, then TCP.

        :returns: fires when all that is done; it does not fail.  What takes longer than
            ``shutdown_timeout`` is given up, which the log says; the messages of such
            handlers go back to their queues.  It may be called in any state, and again;
            cancelling the Deferred does nothing.
        """
        if self.running:  # some frameworks refuse to stop what does not run
            Service.stopService(self)
        if self._loop is None:
            return succeed(None)
        if self._drain is None:
            self._stopped = OneShot()
            self._drain = Drain(self.reactor, self._shutdown_timeout)
            self._end_waiting(CancelledError("the service was stopped"))
            stopping = Deferred.fromCoroutine(self._stop(self._loop, self._drain))
            stopping.addErrback(self._not_in_order).addBoth(self._has_stopped)
        return self._stopped.when_fired()

    def skip_grace_period(self) -> None:
        """
        Wait no longer for handlers and confirms.  Before `stopService`, this does
        nothing.
        """
        if self._drain is not None:
            self._drain.expire()

    async def _stop(self, loop: Reconnection, drain: Drain) -> None:
        loop.finish()
        try:
            await self._drain_members(loop.connection, drain)
        finally:
            await loop.stop()

    async def _drain_members(
        self, connection: AMQPProtocol | None, drain: Drain
    ) -> None:
        channels, consumers = list(self._channels), list(self._consumers)
        if connection is None:
            await drain.wait("handlers", [each.when_idle() for each in consumers])
            return
        # The answers of the broker have a limit of their own.
        limit = connection.parameters.close_timeout
        cancelled = [each.unsubscribe() for each in consumers]
        await drain.wait("basic.cancel-ok", cancelled, limit)
        await drain.wait("handlers", [each.when_idle() for each in consumers])
        await drain.wait("observers of draining", self._observers.draining.tell())
        await drain.wait("answers", [each.when_idle() for each in channels])
        await drain.wait(
            "channel.close-ok", [each.finish() for each in channels], limit
        )

    def _not_in_order(self, failure: Failure) -> None:
        _log.failure("The service was not stopped in order", failure=failure)

    def _has_stopped(self, _: object) -> None:
        self._loop = None
        self._drain = None
        self._stop_members(CancelledError("the service was stopped"))
        self._stopped.fire(None)
        if self.running and self._loop is None:
            self._start()

    def _stop_members(self, reason: BaseException) -> None:
        for channel in list(self._channels):
            channel.stop(reason)
        for consumer in list(self._consumers):
            consumer.stop(reason)

    def _end_waiting(self, reason: BaseException) -> None:
        if self._ready.fired:
            self._ready = OneShot()
        self._ready.fail(reason)
        self._recovery.stop(reason)

    # -- what the loop and the topology tell -------------------------------------------

    def _connected(self, connection: AMQPProtocol) -> None:
        self.connection = connection
        connection.observe_blocked(lambda reason: self._blocked(connection, reason))
        self._observers.ready.tell(connection, self.outcomes)
        if connection.blocked is not None:
            self._blocked(connection, connection.blocked)
        for channel in list(self._channels):
            if self.connection is connection and self._drain is None:
                channel.attach(connection)
        if self.connection is connection and self._drain is None:
            self._recovery.begin()

    def _disconnected(self, reason: BaseException) -> None:
        self.connection = None
        self._recovery.lost(reason)
        if self._ready.fired and self._drain is None:
            self._ready = OneShot()
        for channel in list(self._channels):
            channel.detach(reason)

    def _gave_up(self, reason: BaseException) -> None:
        self._end_waiting(reason)
        self._stop_members(reason)
        self._observers.failed.tell(reason)

    def _blocked(self, connection: AMQPProtocol, reason: str | None) -> None:
        if self.connection is not connection:
            return
        if reason is None:
            self._observers.unblocked.tell()
        else:
            self._observers.blocked.tell(reason)

    def _topology_changed(self, error: BaseException | None, queues: set[str]) -> None:
        """
        All of the topology is declared, or a part of it is refused.

        :param queues: the queues that were declared again.
        """
        for consumer in list(self._consumers):
            if getattr(consumer.queue, "key", consumer.queue) in queues:
                consumer.retry_now()
        if self.connection is None or self._drain is not None:
            return
        if self._ready.fired:
            self._ready = OneShot()
        if error is None:
            self._ready.fire(self.connection)
        else:
            self._ready.fail(error)
