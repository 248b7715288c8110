# -*- test-case-name: txamqp091.test.unit.adapters.test_blocking_consuming -*-
"""
Deliveries in programs without a loop: iterators, handlers, and threads.
"""

from __future__ import annotations

import threading
from collections.abc import AsyncIterator, Iterator
from functools import partial
from typing import Any, cast

from txamqp091.adapters.blocking import BlockingChannel, Deliveries, in_threads
from txamqp091.errors import (
    AMQPError,
    ChannelClosed,
    ConnectionLost,
    ConsumerCancelled,
    LocalProtocolError,
    NotFound,
)
from txamqp091.message import Delivery, Message
from txamqp091.test.support.served import BlockingTestCase, every_served


class ConsumingTestCase(BlockingTestCase):
    """
    A test case with messages.
    """

    def filled(
        self, count: int, *, background: bool = False
    ) -> tuple[BlockingChannel, str]:
        """
        A channel, and a queue of so many messages, whose bodies are numbers.
        """
        channel, queue = self.channel_and_queue(background=background)
        for number in range(count):
            channel.basic_publish("", queue, str(number))
        self.expect_depth(channel, queue, count)
        return channel, queue

    def wait_for_messages(self, deliveries: Deliveries, count: int) -> None:
        """
        Wait until an iterator has so many messages to give.
        """
        connection = deliveries._channel.connection
        came = connection.wait_until(lambda: deliveries.buffered == count, 60)
        self.assertTrue(came)


@every_served
class IteratorTests(ConsumingTestCase):
    """
    ``for`` loops over a queue.
    """

    def test_refused(self) -> None:
        """
        A consumer that the broker refuses raises at once.
        """
        channel, queue = self.filled(1)
        with self.assertRaises(NotFound):
            channel.consume(queue + "-no")

    def test_cancel_counts(self) -> None:
        """
        Leaving the ``with`` gives back what was not asked for, and `cancel` returns how
        much that was: the broker counts the same, and delivers it as redelivered.
        """
        channel, queue = self.filled(50)
        with channel.consume(queue) as deliveries:
            for delivery in deliveries:
                delivery.ack()
                if delivery.delivery_tag == 5:
                    break
            requeued = deliveries.cancel()
            # The rest of the queue may not have been delivered.
            self.assertLessEqual(requeued, 45)
        self.expect_depth(channel, queue, 45)
        with self.assertRaises(LookupError):
            deliveries.get()
        with channel.consume(queue) as again:
            delivery = again.get()
        self.assertEqual((delivery.redelivered, delivery.body), (requeued > 0, b"5"))
        delivery.nack()
        self.expect_depth(channel, queue, 45)

    def test_several(self) -> None:
        """
        A channel has any number of iterators, which go on where they were left.
        """
        channel, queue = self.filled(2)
        other = self.queue_name()
        channel.queue_declare(other, exclusive=True)
        channel.basic_publish("", other, "other")
        one, two = channel.consume(queue), channel.consume(other)
        self.assertEqual(one.get().body, b"0")
        self.assertEqual(two.get().body, b"other")
        self.assertEqual(next(one).body, b"1")

    def test_forgotten(self) -> None:
        """
        An iterator that the program has forgotten gives its messages back.
        """
        channel, queue = self.filled(3)
        for delivery in channel.consume(queue):
            delivery.ack()
            break
        self.expect_depth(channel, queue, 2)
        self.assertEqual(channel.queue_declare(queue, passive=True).consumer_count, 0)

    def test_prefetch(self) -> None:
        """
        What `basic_qos` says holds for the consumers that follow, unless they say
        otherwise.
        """
        channel, queue = self.filled(10)
        channel.basic_qos(prefetch_count=3)
        for prefetch, expected in ((None, 3), (5, 5)):
            deliveries = channel.consume(queue, prefetch=prefetch)
            self.wait_for_messages(deliveries, expected)
            channel.queue_declare(queue, passive=True)
            self.assertEqual(deliveries.cancel(), expected)
            self.expect_depth(channel, queue, 10)

    def test_auto_ack(self) -> None:
        """
        With ``auto_ack`` nothing goes back, and nothing is lost: the loop goes on to
        its end.
        """
        channel, queue = self.filled(10)
        deliveries = channel.consume(queue, auto_ack=True)
        self.wait_for_messages(deliveries, 10)
        self.assertEqual(deliveries.cancel(), 0)
        self.assertEqual([each.body for each in deliveries][-1], b"9")

    def test_back_pressure(self) -> None:
        """
        Of what is not asked for, no more is read than a bound, and nothing is lost.
        """
        channel, queue = self.channel_and_queue()
        channel.confirm_select()
        body = "x" * 2000
        channel.publish_many(Message("", queue, body) for _ in range(1000))
        deliveries = channel.consume(queue, auto_ack=True)
        channel.connection.sleep(0.1)
        self.assertLess(deliveries.buffered, 1000)
        for _ in range(1000):
            deliveries.get()
        self.assertEqual(deliveries.cancel(), 0)

    def test_timeout(self) -> None:
        """
        When nothing comes for so long, `get` raises, and what comes later is not lost.
        """
        channel, queue = self.channel_and_queue()
        deliveries = channel.consume(queue)
        for seconds in (0, 0.01):
            with self.assertRaises(TimeoutError):
                deliveries.get(seconds)
        channel.basic_publish("", queue, "x")
        self.assertEqual(deliveries.get(60).body, b"x")

    def test_broker_cancels(self) -> None:
        """
        What had come is given first when the broker ends the consumer; then that is
        raised, to those that ask.
        """
        channel, queue = self.filled(2)
        with channel.consume(queue, auto_ack=True) as deliveries:
            self.wait_for_messages(deliveries, 2)
            channel.queue_delete(queue)
            self.assertEqual([deliveries.get().body for _ in "01"], [b"0", b"1"])
            for _ in range(2):
                with self.assertRaises(ConsumerCancelled):
                    next(deliveries)
        channel.connection.process_data_events()

    def test_channel_ends(self) -> None:
        """
        The loop raises why the channel has ended, and nothing else does.
        """
        channel, queue = self.channel_and_queue()
        with channel.consume(queue) as deliveries:
            channel.basic_ack(99)
            with self.assertRaises(ChannelClosed):
                list(deliveries)
        channel.connection.process_data_events()

    def test_closed_meanwhile(self) -> None:
        """
        A channel, or a connection, that is closed while an iterator waits ends that.
        """
        for what in ("channel", "connection"):
            channel, queue = self.channel_and_queue()
            deliveries = channel.consume(queue)
            closing = channel if what == "channel" else channel.connection
            channel.connection.call_later(0, closing.close)
            with self.assertRaises(AMQPError) as raised:
                deliveries.get()
            self.assertIn("closed by us", str(raised.exception))

    def test_link_dies(self) -> None:
        """
        The loop raises why the connection has ended.
        """
        proxy = self.proxy()
        channel = self.connection(self.uri_for(proxy.port)).channel()
        queue = self.queue_name()
        channel.queue_declare(queue, exclusive=True)
        channel.connection.call_later(0.01, proxy.reset)
        with channel.consume(queue) as deliveries:
            with self.assertRaises(ConnectionLost):
                deliveries.get()

    def test_background(self) -> None:
        """
        It is the same with a loop in the background.
        """
        channel, queue = self.filled(10, background=True)
        with channel.consume(queue) as deliveries:
            for delivery in deliveries:
                delivery.ack()
                if delivery.delivery_tag == 4:
                    break
            self.wait_for_messages(deliveries, 6)
            with self.assertRaises(LookupError):
                self.assertEqual(deliveries.cancel(), 6)
                deliveries.get()
        self.expect_depth(channel, queue, 6)


@every_served
class HandlerTests(ConsumingTestCase):
    """
    Handlers, and what calls them.
    """

    def test_start_consuming(self) -> None:
        """
        Handlers are called until consuming is stopped, and what they were not called
        with goes back.
        """
        channel, queue = self.filled(5)
        bodies: list[bytes] = []

        def take(delivery: Delivery) -> None:
            bodies.append(delivery.body)
            delivery.ack()
            if len(bodies) == 3:
                channel.stop_consuming()

        subscription = channel.basic_consume(queue, take, consumer_tag="mine")
        self.assertEqual(
            (subscription.consumer_tag, subscription.queue), ("mine", queue)
        )
        self.assertTrue(subscription.is_active)
        channel.start_consuming()
        self.assertFalse(subscription.is_active)
        self.assertEqual(bodies, [b"0", b"1", b"2"])
        self.expect_depth(channel, queue, 2)

    def test_ack_on_return(self) -> None:
        """
        With ``ack_on_return`` a delivery is acknowledged when its handler has returned,
        unless the handler has settled it, or failed.
        """
        channel, queue = self.filled(3)

        def take(delivery: Delivery) -> None:
            if delivery.body == b"0":
                delivery.nack(requeue=False)
            elif delivery.body == b"2":
                channel.stop_consuming()
                raise RuntimeError("it failed")

        channel.basic_consume(queue, take, ack_on_return=True)
        with self.assertRaises(RuntimeError):
            channel.start_consuming()
        channel.close()
        self.expect_depth(channel.connection.channel(), queue, 1)

    def test_handlers_call(self) -> None:
        """
        A handler may call whatever waits, and no other handler is called meanwhile;
        what would wait for ever is refused.
        """
        channel, queue = self.filled(3)
        connection = channel.connection
        channel.confirm_select()
        running: list[bytes] = []
        seen: list[bytes] = []

        def take(delivery: Delivery) -> None:
            self.assertEqual(running, [])
            self.assertTrue(connection.in_handler)
            running.append(delivery.body)
            channel.basic_publish("", "nobody", delivery.body)
            connection.process_data_events()
            connection.process_data_events(0.01)
            connection.sleep(0.01)
            with self.assertRaises(LocalProtocolError):
                channel.start_consuming()
            with self.assertRaises(LocalProtocolError):
                connection.process_data_events(None)
            delivery.ack()
            running.clear()
            seen.append(delivery.body)
            if len(seen) == 3:
                channel.stop_consuming()

        channel.basic_consume(queue, take)
        channel.start_consuming()
        self.assertEqual(seen, [b"0", b"1", b"2"])
        self.assertFalse(connection.in_handler)

    def test_waiting_in_a_handler(self) -> None:
        """
        In a handler, `process_data_events` waits for its time limit, though there are
        messages that no handler is called with.
        """
        channel, queue = self.filled(2)
        turns: list[int] = []

        def take(delivery: Delivery) -> None:
            before = channel.connection.native.reactor.seconds()
            channel.connection.process_data_events(0.2)
            turns.append(channel.connection.native.reactor.seconds() - before >= 0.2)
            delivery.ack()
            if len(turns) == 2:
                channel.stop_consuming()

        channel.basic_consume(queue, take)
        channel.start_consuming()
        self.assertEqual(turns, [True, True])

    def test_iterating_in_a_handler(self) -> None:
        """
        A handler may iterate; other handlers wait.
        """
        channel, queue = self.filled(2)
        other = self.queue_name()
        channel.queue_declare(other, exclusive=True)
        seen: list[bytes] = []

        def take(delivery: Delivery) -> None:
            channel.basic_publish("", other, delivery.body)
            with channel.consume(other) as answers:
                answer = answers.get()
            answer.ack()
            delivery.ack()
            seen.append(answer.body)
            if len(seen) == 2:
                channel.stop_consuming()

        channel.basic_consume(queue, take)
        channel.start_consuming()
        self.assertEqual(seen, [b"0", b"1"])

    def test_handler_fails(self) -> None:
        """
        What a handler raises is raised by the call that waits; the others go on.
        """
        channel, queue = self.filled(2)
        seen: list[bytes] = []

        def take(delivery: Delivery) -> None:
            seen.append(delivery.body)
            delivery.ack()
            if delivery.body == b"0":
                raise RuntimeError("it failed")
            channel.stop_consuming()

        channel.basic_consume(queue, take)
        with self.assertRaises(RuntimeError):
            channel.start_consuming()
        channel.start_consuming()
        self.assertEqual(seen, [b"0", b"1"])

    def test_cancel(self) -> None:
        """
        Cancelling a consumer gives back what its handler was not called with; with
        ``auto_ack``, the handler is still called.
        """
        channel, queue = self.filled(2)
        seen: list[bytes] = []

        def take(delivery: Delivery) -> None:
            seen.append(delivery.body)

        subscription = channel.basic_consume(queue, take)
        connection = channel.connection
        connection.wait_until(lambda: subscription.buffered == 2, 60)
        self.assertEqual(subscription.cancel(), 2)
        self.expect_depth(channel, queue, 2)
        tag = channel.basic_consume(queue, take, auto_ack=True).consumer_tag
        for _ in range(6000):
            if not channel.queue_declare(queue, passive=True).message_count:
                break
        self.assertEqual(channel.basic_cancel(tag).consumer_tag, tag)
        channel.basic_cancel("unknown")
        self.assertEqual(seen, [])
        channel.start_consuming()
        self.assertEqual(seen, [b"0", b"1"])

    def test_closed_meanwhile(self) -> None:
        """
        `start_consuming` returns when its channel, or the connection, is closed by us:
        by a timer, by another channel's handler, by one of several handlers of its own,
        by another thread.
        """
        for background in (False, True):
            for way in ("timer", "thread", "future", "own", "other"):
                for what in ("channel", "connection"):
                    self.close_meanwhile(way, what, background)

    def close_meanwhile(self, way: str, what: str, background: bool) -> None:
        """
        Close a channel, or its connection, while it is consumed from.
        """
        channel, quiet = self.channel_and_queue(background=background)
        connection = channel.connection
        close = channel.close if what == "channel" else connection.close
        other = connection.channel()
        queue = self.queue_name()
        channel.queue_declare(queue, exclusive=True)
        channel.basic_publish("", queue, "x")
        channel.basic_consume(quiet, lambda _: None)
        if way == "timer":
            connection.call_later(0, close)
        elif way == "thread":
            post = connection.add_callback_threadsafe
            threading.Thread(target=post, args=(close,)).start()
        elif way == "future":
            threading.Thread(target=channel.threadsafe.close).start()
        else:
            on = channel if way == "own" else other
            on.basic_consume(queue, lambda _: close())
        channel.start_consuming()
        self.assertFalse(channel.is_open)
        channel.stop_consuming()
        channel.start_consuming()
        connection.close()

    def test_stopped_by_another_thread(self) -> None:
        """
        With ``background``, another thread can stop consuming, or cancel the consumer.
        """
        channel, queue = self.channel_and_queue(background=True)
        for cancels in (False, True):
            subscription = channel.basic_consume(queue, lambda _: None)
            stop = subscription.cancel if cancels else channel.stop_consuming
            timer = threading.Timer(0.02, stop)
            timer.start()
            channel.start_consuming()
            timer.join()

    def test_broker_cancels(self) -> None:
        """
        That the broker ends a consumer is raised, once.
        """
        channel, queue = self.channel_and_queue()
        channel.basic_consume(queue, lambda _: None)
        channel.queue_delete(queue)
        with self.assertRaises(ConsumerCancelled):
            channel.start_consuming()
        channel.start_consuming()
        channel.connection.process_data_events()

    def test_channel_ends(self) -> None:
        """
        That the broker closes the channel is raised, once.
        """
        channel, queue = self.channel_and_queue()
        channel.basic_consume(queue, lambda _: None)
        channel.basic_ack(99)
        with self.assertRaises(ChannelClosed):
            channel.start_consuming()
        channel.stop_consuming()
        channel.connection.process_data_events()

    def test_link_dies(self) -> None:
        """
        That the link dies ends consuming, and stopping to consume is no error then.
        """
        proxy = self.proxy()
        channel = self.connection(self.uri_for(proxy.port)).channel()
        queue = self.queue_name()
        channel.queue_declare(queue, exclusive=True)
        channel.basic_consume(queue, lambda _: None)
        channel.connection.call_later(0.01, proxy.reset)
        with self.assertRaises(ConnectionLost):
            channel.start_consuming()
        channel.stop_consuming()

    def test_nothing_to_await(self) -> None:
        """
        A handler, or a callback, that nothing would await is refused, by name, and
        nothing is sent; so is what cannot be called.
        """
        channel, queue = self.filled(2)
        connection = channel.connection

        async def coroutine(*_: object) -> None:
            self.fail("nothing awaits this")

        def generator(*_: object) -> Iterator[None]:
            yield

        async def both(*_: object) -> AsyncIterator[None]:
            yield

        for function in (coroutine, generator, both, partial(coroutine), None, "text"):
            for call in (
                lambda it: channel.basic_consume(queue, it),
                lambda it: connection.call_later(1, it),
                connection.add_callback_threadsafe,
                channel.observe_returns,
                connection.observe_blocked,
            ):
                with self.assertRaisesRegex(TypeError, "blocking connection"):
                    call(cast(Any, function))
        self.assertEqual(channel.queue_declare(queue, passive=True).consumer_count, 0)
        results = iter([coroutine, generator])
        channel.basic_consume(queue, lambda delivery: next(results)(delivery))
        for name in ("coroutine", "generator"):
            with self.assertRaisesRegex(TypeError, f"cannot await the {name}"):
                channel.start_consuming()

    # -- threads ---------------------------------------------------------------------

    def test_callback_from_thread(self) -> None:
        """
        Another thread has a delivery acknowledged by the connection's: in the order
        asked for, and with what it raises raised there.
        """
        channel, queue = self.filled(2)
        connection = channel.connection
        threads: list[threading.Thread] = []

        def acknowledge(delivery: Delivery) -> None:
            delivery.ack()
            if delivery.delivery_tag == 2:
                channel.stop_consuming()

        def work(delivery: Delivery) -> None:
            connection.add_callback_threadsafe(partial(acknowledge, delivery))

        def take(delivery: Delivery) -> None:
            thread = threading.Thread(target=work, args=(delivery,))
            thread.start()
            thread.join()
            threads.append(thread)

        channel.basic_consume(queue, take)
        channel.start_consuming()
        self.assertEqual(len(threads), 2)
        channel.close()
        self.expect_depth(connection.channel(), queue, 0)

        def fail() -> None:
            raise RuntimeError("it failed")

        connection.add_callback_threadsafe(fail)
        with self.assertRaises(RuntimeError):
            connection.process_data_events()

    def test_callback_while_iterating(self) -> None:
        """
        An iterator that waits calls what other threads have asked for.
        """
        channel, queue = self.channel_and_queue()
        connection = channel.connection
        publish = partial(channel.basic_publish, "", queue, "x")
        timer = threading.Timer(0.02, connection.add_callback_threadsafe, [publish])
        timer.start()
        self.assertEqual(channel.consume(queue).get().body, b"x")
        timer.join()

    def test_handlers_while_iterating(self) -> None:
        """
        An iterator that waits has handlers called, of its channel and of others.
        """
        channel, queue = self.filled(2)
        other = channel.connection.channel()
        answers = self.queue_name()
        other.queue_declare(answers, exclusive=True)

        def take(delivery: Delivery) -> None:
            other.basic_publish("", answers, delivery.body)
            delivery.ack()

        for each in (channel, other):
            each.basic_consume(queue, take, prefetch=1)
        with other.consume(answers) as deliveries:
            bodies = {deliveries.get().body for _ in range(2)}
        self.assertEqual(bodies, {b"0", b"1"})

    def test_threadsafe(self) -> None:
        """
        Another thread publishes and acknowledges by itself, and waits for the results.
        """
        channel, queue = self.filled(1)
        connection = channel.connection
        delivery = channel.basic_get(queue)
        assert delivery is not None
        results: list[object] = []

        def work() -> None:
            delivery.ack()
            ask = channel.threadsafe
            ask.confirm_select().result(60)
            results.append(ask.basic_publish("", queue, "y").result(60))
            try:
                ask.queue_declare(queue + "-no", passive=True).result(60)
            except NotFound as error:
                results.append(error)
            connection.add_callback_threadsafe(done.set)

        done = threading.Event()
        thread = threading.Thread(target=work)
        thread.start()
        while not done.is_set():
            try:
                connection.process_data_events(None)
            except NotFound:
                pass  # no call of this thread has been told
        thread.join()
        self.assertIsNone(results[0])
        self.assertIsInstance(results[1], NotFound)

    def test_settled_before_the_end(self) -> None:
        """
        What another thread has settled is so, whatever follows: also the end of the
        channel.
        """
        channel, queue = self.filled(1)
        other = channel.connection.channel()
        delivery = channel.basic_get(queue)
        assert delivery is not None
        thread = threading.Thread(target=delivery.ack)
        thread.start()
        thread.join()
        channel.close()
        self.expect_depth(other, queue, 0)

    def test_in_threads(self) -> None:
        """
        A handler that blocks runs in threads, while heartbeats go on, and settles its
        delivery there.
        """
        channel, queue = self.filled(4)
        names: set[str] = set()
        together = threading.Barrier(2, timeout=60)
        left = threading.Semaphore(0)

        def work(delivery: Delivery) -> None:
            names.add(threading.current_thread().name)
            together.wait()
            delivery.ack()
            left.release()
            if delivery.body == b"3":
                channel.connection.add_callback_threadsafe(channel.stop_consuming)

        callback = in_threads(work, 2, "worker")
        self.addCleanup(callback.stop)
        channel.basic_consume(queue, callback)
        channel.start_consuming()
        for _ in range(4):
            self.assertTrue(left.acquire(timeout=60))
        self.assertEqual(names, {"worker-1", "worker-2"})
        channel.close()
        other = channel.connection.channel()
        self.expect_depth(other, queue, 0)
