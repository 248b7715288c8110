# -*- test-case-name: txamqp091.test.unit.adapters.test_blocking_consuming -*-
"""
Deliveries in programs without a loop: iterators, callbacks, and threads.
"""

from __future__ import annotations

import threading
from functools import partial

from txamqp091.adapters.blocking import BlockingChannel, in_threads
from txamqp091.errors import (
    ChannelClosed,
    ConnectionLost,
    ConsumerCancelled,
    LocalProtocolError,
    NotFound,
)
from txamqp091.message import Delivery, Message
from txamqp091.test.support.served import BlockingTestCase, every_served
from txamqp091.wire.properties import Properties


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

    def wait_for_messages(self, channel: BlockingChannel, count: int) -> None:
        """
        Wait until an iterator has so many messages to give.
        """
        for _ in range(6000):
            if channel.get_waiting_message_count() == count:
                return
            channel.connection.sleep(0.01)
        self.fail("the messages did not come")


@every_served
class IteratorTests(ConsumingTestCase):
    """
    ``for`` loops over a queue.
    """

    def test_lazy(self) -> None:
        """
        Nothing is sent before the first message is asked for.
        """
        channel, queue = self.filled(1)
        messages = channel.consume(queue + "-no")
        with self.assertRaises(NotFound):
            next(messages)

    def test_resume(self) -> None:
        """
        The consumer goes on where a loop was left, until it is cancelled; another one
        is refused until then.
        """
        channel, queue = self.filled(10)
        bodies: list[bytes | None] = []
        for delivery, properties, body in channel.consume(queue):
            assert delivery is not None and isinstance(properties, Properties)
            bodies.append(body)
            channel.basic_ack(delivery.delivery_tag)
            if delivery.delivery_tag == 3:
                break
        with self.assertRaises(ValueError):
            next(channel.consume(queue, auto_ack=True))
        delivery, _, body = next(channel.consume(queue))
        assert delivery is not None
        delivery.ack()
        self.assertEqual([*bodies, body], [b"0", b"1", b"2", b"3"])
        self.assertEqual(delivery.delivery_tag, 4)
        self.wait_for_messages(channel, 6)
        self.assertEqual(channel.cancel(), 6)
        self.expect_depth(channel, queue, 6)

    def test_cancel_counts(self) -> None:
        """
        Cancelling returns the number of messages that went back: the broker counts the
        same, and delivers them again as redelivered.
        """
        channel, queue = self.filled(50)
        for delivery, _, _ in channel.consume(queue):
            assert delivery is not None
            delivery.ack()
            if delivery.delivery_tag == 5:
                break
        requeued = channel.cancel()
        # The rest of the queue may not have been delivered.
        self.assertLessEqual(requeued, 45)
        self.expect_depth(channel, queue, 45)
        self.assertEqual(channel.cancel(), 0)
        again, _, body = next(channel.consume(queue))
        assert again is not None
        self.assertEqual((again.redelivered, body), (requeued > 0, b"5"))

    def test_prefetch(self) -> None:
        """
        What `basic_qos` says holds for the consumers that follow.
        """
        channel, queue = self.filled(10)
        channel.basic_qos(prefetch_count=3)
        next(channel.consume(queue))
        self.wait_for_messages(channel, 2)
        self.assertEqual(channel.cancel(), 2)

    def test_auto_ack(self) -> None:
        """
        With ``auto_ack`` nothing goes back, and nothing is lost: the loop goes on to
        its end.
        """
        channel, queue = self.filled(10)
        messages = channel.consume(queue, auto_ack=True)
        next(messages)
        self.wait_for_messages(channel, 9)
        self.assertEqual(channel.cancel(), 0)
        self.assertEqual([body for _, _, body in messages][-1], b"9")

    def test_back_pressure(self) -> None:
        """
        Of what is not asked for, no more is read than a bound, and nothing is lost.
        """
        channel, queue = self.channel_and_queue()
        channel.confirm_delivery()
        body = "x" * 2000
        channel.publish_many(Message("", queue, body) for _ in range(1000))
        messages = channel.consume(queue, auto_ack=True)
        next(messages)
        channel.connection.sleep(0.1)
        self.assertLess(channel.get_waiting_message_count(), 999)
        for _ in range(999):
            next(messages)
        self.assertEqual(channel.cancel(), 0)

    def test_inactivity(self) -> None:
        """
        When nothing comes for so long, the iterator gives three times None, again and
        again.
        """
        channel, queue = self.channel_and_queue()
        messages = channel.consume(queue, inactivity_timeout=0.01)
        self.assertEqual(next(messages), (None, None, None))
        self.assertEqual(next(messages), (None, None, None))
        channel.basic_publish("", queue, "x")
        while (body := next(messages)[2]) is None:
            pass
        self.assertEqual(body, b"x")

    def test_broker_cancels(self) -> None:
        """
        What had come is given first when the broker ends the consumer; then that is
        raised, once, or the loop just ends if that is wanted.
        """
        for quietly in (False, True):
            channel, queue = self.filled(2)
            messages = channel.consume(queue, auto_ack=True, end_quietly=quietly)
            next(messages)
            self.wait_for_messages(channel, 1)
            channel.queue_delete(queue)
            self.assertEqual(next(messages)[2], b"1")
            if quietly:
                self.assertEqual(list(messages), [])
            else:
                with self.assertRaises(ConsumerCancelled):
                    next(messages)
            self.assertEqual(channel.cancel(), 0)
            channel.connection.process_data_events()

    def test_channel_ends(self) -> None:
        """
        The loop raises why the channel has ended, and nobody else does.
        """
        channel, queue = self.channel_and_queue()
        messages = channel.consume(queue, inactivity_timeout=0)
        next(messages)
        channel.basic_ack(99)
        with self.assertRaises(ChannelClosed):
            list(messages)
        channel.connection.process_data_events()

    def test_link_dies(self) -> None:
        """
        The loop raises why the connection has ended.
        """
        proxy = self.proxy()
        channel = self.connection(self.uri_for(proxy.port)).channel()
        queue = self.queue_name()
        channel.queue_declare(queue, exclusive=True)
        channel.connection.call_later(0.01, proxy.reset)
        with self.assertRaises(ConnectionLost):
            next(channel.consume(queue))
        self.assertEqual(channel.cancel(), 0)

    def test_background(self) -> None:
        """
        It is the same with a loop in the background.
        """
        channel, queue = self.filled(10, background=True)
        for delivery, _, _ in channel.consume(queue):
            assert delivery is not None
            delivery.ack()
            if delivery.delivery_tag == 4:
                break
        self.wait_for_messages(channel, 6)
        self.assertEqual(channel.cancel(), 6)
        self.expect_depth(channel, queue, 6)


@every_served
class CallbackTests(ConsumingTestCase):
    """
    Callbacks, and who calls them.
    """

    def test_start_consuming(self) -> None:
        """
        Callbacks are called until consuming is stopped, and what they were not called
        with goes back.
        """
        channel, queue = self.filled(5)
        bodies: list[bytes] = []

        def take(
            its_channel: BlockingChannel,
            method: Delivery,
            properties: Properties,
            body: bytes,
        ) -> None:
            self.assertIs(its_channel, channel)
            bodies.append(body)
            channel.basic_ack(method.delivery_tag)
            if len(bodies) == 3:
                channel.stop_consuming()

        tag = channel.basic_consume(queue, take, consumer_tag="mine")
        self.assertEqual((tag, channel.consumer_tags), ("mine", ["mine"]))
        channel.start_consuming()
        self.assertEqual(bodies, [b"0", b"1", b"2"])
        self.expect_depth(channel, queue, 2)

    def test_callbacks_call(self) -> None:
        """
        A callback may call what waits, and no other callback is called meanwhile.
        """
        channel, queue = self.filled(3)
        channel.confirm_delivery()
        running: list[bytes] = []
        seen: list[bytes] = []

        def take(_: object, method: Delivery, __: object, body: bytes) -> None:
            self.assertEqual(running, [])
            running.append(body)
            channel.basic_publish("", "nobody", body)
            channel.connection.process_data_events()
            channel.connection.sleep(0.01)
            with self.assertRaises(LocalProtocolError):
                channel.start_consuming()
            method.ack()
            running.clear()
            seen.append(body)
            if len(seen) == 3:
                channel.stop_consuming()

        channel.basic_consume(queue, take)
        channel.start_consuming()
        self.assertEqual(seen, [b"0", b"1", b"2"])

    def test_callback_fails(self) -> None:
        """
        What a callback raises is raised by whoever called it; the others go on.
        """
        channel, queue = self.filled(2)
        seen: list[bytes] = []

        def take(_: object, method: Delivery, __: object, body: bytes) -> None:
            seen.append(body)
            method.ack()
            if body == b"0":
                raise RuntimeError("it failed")
            channel.stop_consuming()

        channel.basic_consume(queue, take)
        with self.assertRaises(RuntimeError):
            channel.start_consuming()
        channel.start_consuming()
        self.assertEqual(seen, [b"0", b"1"])

    def test_cancel(self) -> None:
        """
        Cancelling a consumer gives back what its callback was not called with; with
        ``auto_ack``, to the caller.
        """
        channel, queue = self.filled(2)

        def never(*_: object) -> None:
            self.fail("nobody waits for callbacks")

        tag = channel.basic_consume(queue, never)
        channel.queue_declare(queue, passive=True)
        self.assertEqual(channel.basic_cancel(tag), [])
        self.expect_depth(channel, queue, 2)
        tag = channel.basic_consume(queue, never, auto_ack=True)
        self.expect_depth(channel, queue, 0)
        left = channel.basic_cancel(tag)
        self.assertEqual([body for _, _, body in left], [b"0", b"1"])
        self.assertEqual(channel.basic_cancel("unknown"), [])

    def test_broker_cancels(self) -> None:
        """
        That the broker ends a consumer is raised, once.
        """
        channel, queue = self.channel_and_queue()
        channel.basic_consume(queue, lambda *_: None)
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
        channel.basic_consume(queue, lambda *_: None)
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
        channel.basic_consume(queue, lambda *_: None)
        channel.connection.call_later(0.01, proxy.reset)
        with self.assertRaises(ConnectionLost):
            channel.start_consuming()
        channel.stop_consuming()

    def test_not_a_callback(self) -> None:
        """
        What cannot be called is refused at once.
        """
        channel, queue = self.channel_and_queue()
        with self.assertRaises(TypeError):
            channel.basic_consume(queue, None)  # type: ignore[arg-type]

    # -- threads ---------------------------------------------------------------------

    def test_callback_from_thread(self) -> None:
        """
        Another thread has a delivery acknowledged by the connection's: in the order
        asked for, and with what it raises raised there.
        """
        channel, queue = self.filled(2)
        connection = channel.connection
        threads: list[threading.Thread] = []

        def ack_message(channel: BlockingChannel, delivery_tag: int) -> None:
            channel.basic_ack(delivery_tag)
            if delivery_tag == 2:
                channel.stop_consuming()

        def work(method: Delivery) -> None:
            call = partial(ack_message, channel, method.delivery_tag)
            connection.add_callback_threadsafe(call)

        def take(_: object, method: Delivery, *__: object) -> None:
            thread = threading.Thread(target=work, args=(method,))
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
        with self.assertRaises(TypeError):
            connection.add_callback_threadsafe(None)  # type: ignore[arg-type]

    def test_callback_while_iterating(self) -> None:
        """
        An iterator that waits calls what other threads have asked for.
        """
        channel, queue = self.channel_and_queue()
        connection = channel.connection
        publish = partial(channel.basic_publish, "", queue, "x")
        timer = threading.Timer(0.02, connection.add_callback_threadsafe, [publish])
        timer.start()
        self.assertEqual(next(channel.consume(queue))[2], b"x")
        timer.join()

    def test_threadsafe(self) -> None:
        """
        Another thread publishes and acknowledges by itself, and waits for the results.
        """
        channel, queue = self.filled(1)
        connection = channel.connection
        delivery, _, _ = channel.basic_get(queue)
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
        delivery, _, _ = channel.basic_get(queue)
        assert delivery is not None
        thread = threading.Thread(target=delivery.ack)
        thread.start()
        thread.join()
        channel.close()
        self.expect_depth(other, queue, 0)

    def test_in_threads(self) -> None:
        """
        A callback that blocks runs in threads, while heartbeats go on, and settles its
        delivery there.
        """
        channel, queue = self.filled(4)
        names: set[str] = set()
        together = threading.Barrier(2, timeout=60)
        left = threading.Semaphore(0)

        def work(_: object, delivery: Delivery, __: object, body: bytes) -> None:
            names.add(threading.current_thread().name)
            together.wait()
            delivery.ack()
            left.release()
            if body == b"3":
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
