# -*- test-case-name: txamqp091.test.unit.service.test_topology_recovery -*-
"""
Declaring the topology of a service on each of its connections: `TopologyRecovery`.

Theory.  `TopologyRecovery` has the topology, and for each entity the outcome of its
last declaration.  It declares the whole topology on each new connection.  It declares
an entity that failed again after a growing delay, for as long as the connection lasts.
An entity for which the broker closes the connection goes into *quarantine*, since no
connection would last otherwise: it is declared again much later, if time may help, or
when the user declares it again.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Coroutine, Iterable
from dataclasses import dataclass
from math import inf
from typing import Any, TypeVar

from twisted.internet.defer import (
    CancelledError,
    Deferred,
    DeferredLock,
    TimeoutError,
    succeed,
)
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.logger import Logger
from twisted.python.failure import Failure

from txamqp091._observer import OneShot
from txamqp091.errors import (
    AMQPError,
    ConnectionClosed,
    InternalError,
    LocalProtocolError,
    ResourceError,
    ResourceLocked,
    TopologyFailed,
    printable,
)
from txamqp091.protocol import AMQPProtocol
from txamqp091.service.entities import Entity, EntityOutcome, EntityState, Queue
from txamqp091.service.retry import Backoff, RetryPolicy
from txamqp091.service.topology import Declaration, Topology

_log = Logger(namespace="txamqp091.service")

T = TypeVar("T")

#: How many seconds pass before an exchange or a queue is declared again for a message
#: that could not be routed, and how many of them are remembered.
_RESTORED_AGAIN = 10.0
_RESTORED_MAX = 1000

#: Where there are no heartbeats, how long the broker may take our last connection for
#: alive, in seconds.
_NO_HEARTBEAT = 60


class TopologyRecovery:
    """
    The topology of a service.

    :ivar topology: what should be there.
    :ivar changed: told when it is known whether all of it stands: with None if it
        does, or the error if a part is refused; and with the keys of the queues that
        were declared again.
    """

    def __init__(
        self, reactor: IReactorTime, policy: RetryPolicy, topology: Topology
    ) -> None:
        self.topology = topology
        self.changed: Callable[[BaseException | None, set[str]], object]
        self._reactor = reactor
        self._policy = policy
        self._connection: AMQPProtocol | None = None
        self._begun = False
        self._outcomes: dict[Entity, EntityOutcome] = {}
        self._names: dict[str, str] = {}
        self._quarantine = _Quarantine()
        self._opened: OneShot[AMQPProtocol] = OneShot()
        self._backoff = Backoff(policy)
        self._call: IDelayedCall | None = None
        self._repairing: Deferred[Any] | None = None
        # One thing at a time: what is deleted must not be declared at that moment.
        self._lock = DeferredLock()
        self._released: list[DeferredLock] = []
        self._locked_until = 0.0
        # The exchanges and queues that were declared again for a message, and when.
        self._restored: dict[str, tuple[float, OneShot[None]]] = {}

    @property
    def outcomes(self) -> list[EntityOutcome]:
        """
        What became of each entity, in the order of the topology.
        """
        return [
            self._outcomes[each] for each in self.topology if each in self._outcomes
        ]

    # -- one connection after the other --------------------------------------------

    async def apply(self, connection: AMQPProtocol) -> bool:
        """
        Declare all of it on a new connection.

        :returns: whether the connection has survived that; if not, it will the next
            time.
        :raises AMQPError: the connection has ended for another reason.
        """
        self._connection = connection
        self._outcomes, self._names = {}, {}
        seconds = connection.parameters.heartbeat or _NO_HEARTBEAT
        self._locked_until = self._reactor.seconds() + 2 * seconds + 5
        self._lock = DeferredLock()
        declared = self.topology
        try:
            await self._declare(connection, declared)
        except Exception as error:
            self._connection = None
            if isinstance(error, _ClosedByEntity):
                return False
            raise
        added = [each for each in self.topology if each not in declared]
        if added:  # meanwhile, by the user
            await self._declare(connection, Topology.of(*added))
        return True

    async def _declare(
        self, connection: AMQPProtocol, part: Topology
    ) -> list[EntityOutcome]:
        declaration = Declaration(
            connection, part, names=self._names, skip=self._skipped()
        )
        try:
            outcomes = await declaration.apply()
        except CancelledError:
            raise
        except Exception as error:
            if declaration.culprit is not None:
                self._put_in_quarantine(declaration.culprit, error)
                raise _ClosedByEntity from error
            raise
        for each in outcomes:
            self._outcomes[each.entity] = each
            if each.ok:
                self._quarantine.release(each.entity)
            if isinstance(each.entity, Queue) and each.ok:
                self._names[each.entity.key] = each.name
            if not each.ok:
                _log.error("Not declared: {outcome}", outcome=str(each))
        return outcomes

    def _skipped(self) -> dict[Entity, BaseException]:
        return self._quarantine.errors(self._reactor.seconds())

    def _put_in_quarantine(self, entity: Entity, error: BaseException) -> None:
        self._quarantine.put(entity, error, self._reactor.seconds())
        _log.error(
            "The broker closes the connection when the service declares the {entity}; "
            "the service leaves it out for now: {error}",
            entity=str(entity),
            error=printable(str(error)),
        )

    async def _alone(self, doing: Coroutine[Deferred[Any], Any, T]) -> T:
        lock = self._lock
        try:
            await lock.acquire()
        except BaseException:
            doing.close()
            raise
        try:
            return await doing
        finally:
            self._release(lock)

    def _release(self, lock: DeferredLock) -> None:
        """
        Let the next one go on.  When the connection has ended, all fail one after the
        other: from a loop, as each from within the one before would be too deep.
        """
        self._released.append(lock)
        if len(self._released) > 1:
            return
        while self._released:
            self._released[0].release()
            del self._released[0]

    def begin(self) -> None:
        """
        The connection is ready.
        """
        assert self._connection is not None
        self._begun = True
        self._backoff = Backoff(self._policy)
        self._opened.fire(self._connection)
        self._judge(set())

    def lost(self, reason: BaseException) -> None:
        """
        It has ended.
        """
        self._connection = None
        self._begun = False
        self._cancel()
        self.reset()

    def reset(self) -> None:
        """
        Let what waits for a connection wait again, after `stop`.
        """
        if self._opened.fired:
            self._opened = OneShot()

    def stop(self, reason: BaseException) -> None:
        """
        There will be none.
        """
        self._cancel()
        self.reset()
        self._opened.fail(reason)

    def _cancel(self) -> None:
        if self._call is not None:
            self._call.cancel()
            self._call = None
        repairing, self._repairing = self._repairing, None
        if repairing is not None:
            repairing.cancel()

    # -- what failed ---------------------------------------------------------------

    def _judge(self, again: set[str]) -> None:
        """
        See what has failed, and whether it can be mended.

        :param again: the queues that were declared again.
        """
        failed = [each for each in self.outcomes if not each.ok]
        refused = [each for each in failed if not self._may_pass(each)]
        if failed:
            self._repair_later([each.entity for each in failed])
        if not failed:
            self.changed(None, again)
        elif refused:
            errors = [(each.entity, each.error) for each in failed if each.error]
            self.changed(TopologyFailed([*errors]), again)

    def _may_pass(self, outcome: EntityOutcome) -> bool:
        if isinstance(outcome.error, ResourceLocked):
            # By our own last connection, until the broker notices that it has gone.
            return self._reactor.seconds() < self._locked_until
        return outcome.retriable and outcome.entity not in self._quarantine

    def _repair_later(self, failed: list[Entity]) -> None:
        if self._call is not None or self._repairing is not None:
            return
        skipped = self._skipped()
        now = self._reactor.seconds()
        if all(each in skipped for each in failed):
            delay = min(map(self._quarantine.until, failed)) - now
        else:
            delay = self._backoff.next(now)
        if delay < inf:
            self._call = self._reactor.callLater(delay, self._repair)

    def _repair(self) -> None:
        self._call = None
        failed = [each.entity for each in self.outcomes if not each.ok]
        repairing = self._redeclare(Topology.of(*failed))
        self._repairing = repairing
        repairing.addErrback(self._not_repaired)
        repairing.addCallback(self._repaired)

    def _repaired(self, outcomes: list[EntityOutcome] | None) -> None:
        self._repairing = None
        if outcomes is not None and self._begun:
            self._judge(_queues(outcomes))

    def _not_repaired(self, failure: Failure) -> None:
        """
        The connection has ended; or this is a defect of ours.
        """
        self._repairing = None
        if (
            failure.check(AMQPError, CancelledError, TimeoutError, _ClosedByEntity)
            is None
        ):
            _log.failure("The topology was not repaired", failure=failure)
        if self._begun:
            self._repair_later([each.entity for each in self.outcomes if not each.ok])

    def _redeclare(self, part: Topology) -> Deferred[list[EntityOutcome]]:
        assert self._connection is not None
        declaring = self._declare_wanted(self._connection, part)
        return Deferred.fromCoroutine(self._alone(declaring))

    async def _declare_wanted(
        self, connection: AMQPProtocol, part: Topology
    ) -> list[EntityOutcome]:
        """
        Declare what has not been deleted meanwhile.
        """
        wanted = Topology.of(*(each for each in part if each in self.topology))
        return await self._declare(connection, wanted)

    # -- changes -------------------------------------------------------------------

    def include(self, queue: Queue) -> None:
        """
        A consumer wants this queue.
        """
        if queue not in self.topology:
            self.topology = self.topology.with_(queue)
            self._quarantine.release(queue)

    def declare(self, entities: Iterable[Entity]) -> Deferred[list[EntityOutcome]]:
        """
        See `AMQPClientService.declare`.
        """
        part = Topology.of(*entities)
        self.topology = self.topology.with_(*part)
        for each in part:
            self._quarantine.release(each)
            self._outcomes.pop(each, None)
        return Deferred.fromCoroutine(self._declare_when_open(part))

    async def _declare_when_open(self, part: Topology) -> list[EntityOutcome]:
        connection = await self._opened.when_fired()
        while not all(each in self._outcomes for each in part):
            try:
                await self._alone(self._declare_wanted(connection, part))
            except _ClosedByEntity as error:
                raise error.__cause__ or error from None
            except ConnectionClosed:
                # The whole topology is declared on the next connection.
                await connection.when_closed().addErrback(lambda _: None)
                connection = await self._opened.when_fired()
                continue
            found = [each for each in self.outcomes if each.entity in part]
            if self._begun:
                self._judge(_queues(found))
            break  # what is missing was deleted meanwhile
        return [each for each in self.outcomes if each.entity in part]

    def delete(self, entities: Iterable[Entity]) -> Deferred[list[EntityOutcome]]:
        """
        See `AMQPClientService.delete`.
        """
        part = Topology.of(*entities)
        self.topology = self.topology.without(*part)
        for each in [each for each in self._outcomes if each not in self.topology]:
            del self._outcomes[each]
        self._quarantine.keep(self.topology)
        return Deferred.fromCoroutine(self._delete_when_open(part))

    async def _delete_when_open(self, part: Topology) -> list[EntityOutcome]:
        connection = await self._opened.when_fired()
        declaration = Declaration(connection, part, names=self._names)
        return await self._alone(_await(declaration.delete()))

    # -- messages without a way ----------------------------------------------------

    def restore_route(self, exchange: str, routing_key: str) -> Deferred[None] | None:
        """
        Declare again what a message needs that the broker could not route: only
        publishing notices when that was deleted.

        :returns: fires when that was tried; None, if nothing of it is in the topology,
            or it was tried a moment ago.
        """
        key, now = exchange or routing_key, self._reactor.seconds()
        at, done = self._restored.get(key, (-_RESTORED_AGAIN, OneShot()))
        if now - at < _RESTORED_AGAIN:
            return None if done.fired else done.when_fired()
        part = self.topology.behind(exchange, routing_key)
        if self._connection is None or not (part.exchanges or part.queues):
            return None
        _log.warn(
            "The broker could not route a message to {exchange} with {key}; the "
            "service declares again what it needs",
            exchange=repr(printable(exchange)),
            key=repr(printable(routing_key)),
        )
        if len(self._restored) >= _RESTORED_MAX:
            self._restored.clear()
        event: OneShot[None] = OneShot()
        self._restored[key] = now, event
        waiting = event.when_fired()
        restoring = self._redeclare(part)
        restoring.addErrback(lambda _: [])  # the connection has ended
        restoring.addCallback(self._repaired).addCallback(event.fire)
        return waiting

    # -- queues --------------------------------------------------------------------

    def queue_name(self, queue: str | Queue) -> str:
        """
        See `AMQPClientService.queue_name`.
        """
        key = queue.key if isinstance(queue, Queue) else queue
        name = self._names.get(key, "")
        if name:
            return name
        known = queue if isinstance(queue, Queue) else self.topology.queue(key)
        if known is not None and not known.name:
            raise LocalProtocolError(f"the {known} does not stand")
        return key

    def prepare(self, queue: str | Queue, gone: bool) -> Deferred[tuple[str, bool]]:
        """
        Declare a queue of the topology, if that is needed.

        :param gone: whether the queue may have been deleted.
        :returns: fires with the name of the queue, and whether it was missing, and has
            been declared again; fails with the reason why it cannot be declared.
        """
        key = queue.key if isinstance(queue, Queue) else queue
        known = self.topology.queue(key)
        if known is None or self._connection is None:
            return succeed((self.queue_name(queue), False))
        outcome = self._outcomes.get(known)
        if outcome is not None and outcome.ok and not gone:
            return succeed((outcome.name, False))
        restoring = self._restore(self._connection, known)
        return Deferred.fromCoroutine(self._alone(restoring))

    async def _restore(
        self, connection: AMQPProtocol, queue: Queue
    ) -> tuple[str, bool]:
        """
        Make a queue of the topology, and its bindings, unless it is there.
        """
        old = self._names.get(queue.key, "")
        renewed = True
        if old:
            there = Topology.of(Queue(name=old))
            (found,) = await there.diff(connection, compare=False)
            renewed = found.state is EntityState.MISSING
            if not renewed and not queue.name:
                return old, False
        try:
            around = self.topology.around(queue.key)
            outcomes = await self._declare(connection, around)
        except _ClosedByEntity as error:
            raise error.__cause__ or error from None
        outcome = self._outcomes[queue]
        if outcome.error is not None:
            raise outcome.error.with_traceback(None)
        if self._begun:
            self._judge(_queues(outcomes) - {queue.key})
        return outcome.name, renewed


#: How long an entity is in quarantine the first time, and at most, in seconds.
_FIRST_QUARANTINE = 60.0
_LONGEST_QUARANTINE = 3600.0


@dataclass
class _Term:
    """
    Why an entity is in quarantine, and until when.
    """

    error: BaseException
    seconds: float
    until: float


class _Quarantine:
    """
    The entities for which the broker has closed the connection, each left out for a
    time that grows.
    """

    def __init__(self) -> None:
        self._terms: dict[Entity, _Term] = {}

    def __contains__(self, entity: Entity) -> bool:
        return entity in self._terms

    def put(self, entity: Entity, error: BaseException, now: float) -> None:
        """
        Leave out an entity for which the broker has closed the connection.
        """
        before = self._terms.get(entity)
        seconds = _FIRST_QUARANTINE
        if not isinstance(error, InternalError | ResourceError):
            seconds = inf  # the broker understood the request, and refuses it
        elif before is not None:
            seconds = min(before.seconds * 2, _LONGEST_QUARANTINE)
        self._terms[entity] = _Term(error, seconds, now + seconds)

    def release(self, entity: Entity) -> None:
        """
        Let an entity be declared at once.
        """
        self._terms.pop(entity, None)

    def keep(self, wanted: Container[Entity]) -> None:
        """
        Release all entities that are not among the wanted ones.
        """
        self._terms = {
            each: term for each, term in self._terms.items() if each in wanted
        }

    def errors(self, now: float) -> dict[Entity, BaseException]:
        """
        The entities that must not be declared now, and why.
        """
        return {
            entity: each.error
            for entity, each in self._terms.items()
            if now < each.until
        }

    def until(self, entity: Entity) -> float:
        """
        When an entity may be declared again.
        """
        return self._terms[entity].until


async def _await(step: Deferred[T]) -> T:
    return await step


class _ClosedByEntity(Exception):
    """
    The broker has closed the connection for an entity.
    """


def _queues(outcomes: Iterable[EntityOutcome]) -> set[str]:
    """
    The queues that stand, or are bound anew.
    """
    return {
        each.entity.key
        for each in outcomes
        if isinstance(each.entity, Queue) and each.ok
    }
