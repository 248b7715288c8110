# -*- test-case-name: txamqp091.test.unit.machine.test_channel -*-
"""
The client's end of a channel: matches answers to calls, and finds the consumer of a
delivery.

Theory.  The channel is open for calls until ``reason`` is set, and that is the first
thing that `fail` does.  While ``closing``, our ``channel.close`` is on its way: answers
still come and are matched, deliveries are dropped (the broker has them again), calls
are refused.

A consumer that the broker cancels without waiting for an answer is cancelled by us,
too: RabbitMQ 4.3 keeps the tag of one whose delivery was not settled in time, and
delivers to it again once that is settled.  Until the broker agrees, such a consumer is
in ``_ending``.

What comes per message (deliver, ack) is taken apart by hand here; every other
method through `txamqp091.wire.method`.
"""

from __future__ import annotations

from collections.abc import Callable
from struct import Struct
from struct import error as StructError
from typing import Any, NamedTuple

from txamqp091._machine.acks import JoinedAcks, settle_frame
from txamqp091._machine.confirms import Confirms
from txamqp091._machine.content import Assembler
from txamqp091._machine.replies import Replies
from txamqp091._machine.sinks import ChannelSink, ConsumerSink, ReplyHandle
from txamqp091.errors import (
    AMQPError,
    ChannelClosed,
    CommandInvalid,
    ContentTooLarge,
    DecodeError,
    EncodeError,
    LocalProtocolError,
    channel_closed,
)
from txamqp091.wire import spec
from txamqp091.wire.frames import (
    Piece,
    content_frames,
    content_heads,
    method_frame,
)
from txamqp091.wire.method import Method, decode_method, operation_name
from txamqp091.wire.templates import Template, Templates
from txamqp091.wire.types import encode_short_string

__all__ = ["ChannelMachine", "Content"]

_DELIVER = spec.BasicDeliver.prefix
_UNPACK_TAG = Struct(">QB").unpack_from
_END = bytes([spec.FRAME_END])
# The octets of a header frame that come before the properties.
_HEADER_FIELDS = 12

#: How many method frames of ``basic.publish`` are kept, encoded, for the next time.
_ROUTES = 1024


class Content(NamedTuple):
    """
    A method with its content, as the answer to a call.
    """

    method: Method
    header: bytes
    body: bytes


class ChannelMachine(Assembler):
    """
    What may be said when on one channel.

    :ivar number: the channel's number.
    :ivar consumers: who takes the deliveries for each consumer tag, encoded.
    :ivar confirms: the unconfirmed messages, in confirm mode.
    :ivar reason: why the channel has ended, or None while it has not.
    :ivar closing: whether we have asked for its end.
    :ivar recovering: how many answers to ``basic.recover`` are due.
    :ivar dropping: whether deliveries are dropped, as the broker has them again: while
        closing, or recovering.
    """

    #: No broker has a message of a tebibyte; to wait for its end would be for ever.
    impossible = 1 << 40

    __slots__ = (
        "_ending",
        "_joined",
        "_like",
        "_max_payload",
        "_max_properties",
        "_max_returned",
        "_method",
        "_prefix",
        "_release",
        "_replies",
        "_routes",
        "_seam",
        "_templates",
        "_waits",
        "_write",
        "closing",
        "confirms",
        "consumers",
        "dropping",
        "number",
        "reason",
        "recovering",
        "sink",
    )

    def __init__(
        self,
        number: int,
        write: Callable[[Piece], None],
        release: Callable[[int, bool], None],
        waits: Callable[[ChannelMachine], None],
        *,
        max_payload: int,
        max_body: int,
        spares: list[bytearray],
        templates: dict[bytes, Template],
    ) -> None:
        """
        :param write: sends bytes.
        :param release: called with the number when it can be used again, and with
            whether the peer has ended the channel.
        :param waits: called when the peer owes this channel an answer, and did not.
        :param spares: where a buffer for large bodies is kept, for all channels.
        :param templates: where the templates of all channels are kept.
        """
        super().__init__(max_body, spares)
        self.number = number
        self.sink: ChannelSink
        self.consumers: dict[bytes, ConsumerSink] = {}
        self.confirms: Confirms | None = None
        self.reason: AMQPError | None = None
        self.closing = False
        self.dropping = False
        self.recovering = 0
        # Who takes the deliveries for a tag that the broker has cancelled.
        self._ending: dict[bytes, ConsumerSink] = {}
        self._joined: JoinedAcks | None = None
        self._write = write
        self._release = release
        self._waits = waits
        self._max_payload = max_payload
        self._max_properties = max_payload - _HEADER_FIELDS
        self._replies = Replies()
        self._routes: dict[tuple[str, str, bool], bytes] = {}
        self._templates = Templates(templates)
        # What the last message was like, its method's frame, all before its properties,
        # and what is between them and its body.
        self._like: tuple[str, str, bool, int, int] | None = None
        self._method = self._prefix = self._seam = b""
        # The largest body that the peer may give back to us.
        self._max_returned = 0

    # -- what we say -----------------------------------------------------------

    def send(self, method: Method) -> None:
        """
        Send a method that needs no answer.

        :raises AMQPError: why the channel has ended, if it has.
        :raises EncodeError: when a field does not fit; nothing was sent.
        """
        self.check()
        self._write(self._frame(method))

    def call(self, method: Method, handle: ReplyHandle) -> None:
        """
        Send a method; its answer goes to ``handle``: the method, or `Content`.  If
        it asks for no answer, ``handle`` is given an empty one of our own at once.

        :raises AMQPError: as `send` does; ``handle`` is not called then.
        """
        self.check()
        frame = self._frame(method)
        if getattr(method, "no_wait", False) or getattr(method, "nowait", False):
            self._write(frame)
            handle.callback(method.replies[0]())
        else:
            self._replies.expect(method, handle)
            self._waits(self)
            self._write(frame)

    def _frame(self, method: Method) -> bytes:
        payload = method.encode()
        if len(payload) > self._max_payload:
            raise EncodeError(
                method.name,
                f"{len(payload)} octets of arguments, in a frame of "
                f"{self._max_payload}: the frame_max of the connection is too low",
            )
        return method_frame(self.number, payload)

    def close(self, reply_code: int, reply_text: str, handle: ReplyHandle) -> None:
        """
        Ask for the end of the channel.
        """
        self.call(spec.ChannelClose(reply_code, reply_text, 0, 0), handle)
        self.closing = True
        self._drop()

    def abandon(self, reason: AMQPError) -> None:
        """
        Ask for the end of the channel, and do not wait for it.  Its number is free once
        the peer has agreed.
        """
        self.send(spec.ChannelClose(200, "", 0, 0))
        self.closing = True
        self._drop()
        self.fail(reason)
        self.expect = self._await_close_ok

    def select_confirms(self, handle: ReplyHandle, no_wait: bool = False) -> None:
        """
        Enter confirm mode.  The broker counts messages from the moment it reads
        this, so those that follow can be published without waiting for the answer.
        """
        self.call(spec.ConfirmSelect(no_wait), handle)
        if self.confirms is None:
            self.confirms = Confirms()

    def publish(
        self,
        exchange: str,
        routing_key: str,
        body: bytes,
        properties: bytes,
        mandatory: bool,
        handle: ReplyHandle | None,
    ) -> None:
        """
        Send a message.  In confirm mode, the answer for it goes to ``handle``.

        :raises AMQPError: as `send` does; ``handle`` is not called then.
        """
        if self.reason is not None or self.closing:
            raise self._refusal()
        size = len(body)
        # Where the route and the sizes are as before, so are the octets between them.
        like = (exchange, routing_key, mandatory, len(properties), size)
        if like != self._like:
            self._prepare(*like)
        confirms = self.confirms
        if confirms is not None:
            assert handle is not None
            if not confirms.outstanding:
                self._waits(self)
            if mandatory:
                confirms.publish_mandatory(handle, exchange, routing_key, body)
            else:
                confirms.publish(handle, size)
        if 0 < size <= self._max_payload:
            self._write(b"".join((self._prefix, properties, self._seam, body, _END)))
            return
        for data in content_frames(
            self.number, self._method, properties, body, self._max_payload
        ):
            self._write(data)

    def _prepare(
        self,
        exchange: str,
        routing_key: str,
        mandatory: bool,
        encoded: int,
        size: int,
    ) -> None:
        """
        Encode what is between the properties and the body of a message.

        :param encoded: the octets of the encoded properties.
        :param size: the octets of the body.
        """
        self._like = None
        try:
            method = self._routes[exchange, routing_key, mandatory]
        except (KeyError, TypeError):  # or what cannot be a key, nor a name
            method = self._route(exchange, routing_key, mandatory)
        if encoded > self._max_properties:
            raise EncodeError(
                "properties",
                f"{encoded} octets, in a frame of {self._max_payload}: the "
                "frame_max of the connection is too low",
            )
        if mandatory and size > self._max_returned:
            self._max_returned = size
        self._method = method
        if size <= self._max_payload:
            header, self._seam = content_heads(self.number, encoded, size)
            self._prefix = method + header
        self._like = (exchange, routing_key, mandatory, encoded, size)

    def _route(self, exchange: str, routing_key: str, mandatory: bool) -> bytes:
        method = spec.BasicPublish(0, exchange, routing_key, mandatory, False)
        frame = method_frame(self.number, method.encode())
        if len(self._routes) >= _ROUTES:
            self._routes.clear()
        self._routes[exchange, routing_key, mandatory] = frame
        return frame

    def settle(self, method: type[Method], delivery_tag: int, bits: int) -> None:
        """
        Send ``basic.ack``, ``basic.nack`` or ``basic.reject`` for a delivery.  On a
        channel that has ended, nothing is sent: the broker has the message again.
        """
        if self.reason is not None or self.closing:
            return
        if self._joined is None:
            self._write(settle_frame(self.number, method, delivery_tag, bits))
        else:
            self._joined.settle(method, delivery_tag, bits)

    def join_acks(self) -> None:
        """
        Have acknowledgements of one turn leave as one, where they can.

        :raises LocalProtocolError: when it is too late to know which can.
        """
        if self.consumers:
            raise LocalProtocolError("acks cannot be joined once there is a consumer")
        if self._joined is None:
            self._joined = JoinedAcks(self.number, self._write)

    def part_acks(self) -> None:
        """
        Join acknowledgements no more: which ones can be joined is not known now.
        """
        self._joined = None

    def recover(self, requeue: bool, handle: ReplyHandle) -> None:
        """
        Have all unsettled deliveries delivered again, those that are on their way now
        included: what comes before the answer is dropped.
        """
        self.call(spec.BasicRecover(requeue), _Recovering(self, handle))
        self.recovering += 1
        self._drop()

    def _drop(self) -> None:
        """
        Drop the deliveries that come.
        """
        self.dropping = True
        self._templates.forget()

    @property
    def is_open(self) -> bool:
        """
        Whether anything can be sent.
        """
        return self.reason is None and not self.closing

    def answers_due(self) -> bool:
        """
        Whether the peer owes us an answer, to a call or for a message.
        """
        confirms = self.confirms
        return bool(self._replies or (confirms is not None and confirms.outstanding))

    def check(self) -> None:
        """
        :raises AMQPError: why nothing can be sent any more, if that is so.
        """
        if self.reason is not None or self.closing:
            raise self._refusal()

    def _refusal(self) -> AMQPError:
        if self.reason is not None:
            return self.reason.with_traceback(None)
        return ChannelClosed("the channel was closed by us", reply_code=200, by_us=True)

    # -- what the peer says: messages ------------------------------------------

    def receive_method(self, payload: bytes) -> None:
        handler = _HANDLERS.get(payload[:4])
        if handler is not None:
            handler(self, payload)
        else:
            method = decode_method(payload)
            self._replies.take(method).callback(method)

    def receive_message(self, message: tuple[bytes, bytes, bytes]) -> None:
        method, header, body = message
        if method[:4] == _DELIVER and len(body) <= self.max_body:
            consumer, tag, redelivered, _, route = self._parse_deliver(method)
            if not self.dropping:
                if not self._ending:
                    take = consumer.delivered
                    self._templates.learn(self, self.number, method, header, take)
                consumer.delivered(
                    tag, redelivered, method, route, header[_HEADER_FIELDS:], body
                )
        else:
            super().receive_message(message)

    def _begin_deliver(self, payload: bytes) -> None:
        self.begin(self._parse_deliver(payload), self._deliver, self.max_body)

    def _parse_deliver(
        self, payload: bytes
    ) -> tuple[ConsumerSink, int, bool, bytes, int]:
        """
        Who a ``basic.deliver`` is for, and what it says.
        """
        try:
            place = 5 + payload[4]
            tag, bits = _UNPACK_TAG(payload, place)
            route = place + 9
            routing_key = route + 1 + payload[route]
            end = routing_key + 1 + payload[routing_key]
        except (IndexError, StructError):
            end = -1
        if end != len(payload):
            raise DecodeError(
                "basic.deliver: its fields do not fill its frame",
                *spec.BasicDeliver.identity,
            )
        consumer = self.consumers.get(payload[5:place])
        if consumer is None:
            consumer = self._cancelled_consumer(payload[5:place])
        return consumer, tag, bits & 1 != 0, payload, route

    def _cancelled_consumer(self, tag: bytes) -> ConsumerSink:
        """
        Who a delivery is for whose consumer the broker has cancelled.
        """
        try:
            return self._ending[tag]
        except KeyError:
            name = tag.decode("utf-8", "backslashreplace")
            raise CommandInvalid(
                f"a delivery for the consumer {name!r}, which does not exist",
                *spec.BasicDeliver.identity,
            ) from None

    def _deliver(
        self,
        content: tuple[ConsumerSink, int, bool, bytes, int],
        header: bytes,
        body: bytes | None,
    ) -> None:
        consumer, tag, redelivered, payload, route = content
        if self.dropping:
            return
        if body is None:
            consumer.oversized(
                tag, redelivered, payload, route, header[_HEADER_FIELDS:], self._size
            )
        else:
            consumer.delivered(
                tag, redelivered, payload, route, header[_HEADER_FIELDS:], body
            )

    def _begin_return(self, payload: bytes) -> None:
        keep = max(self.max_body, self._max_returned)
        self.begin(spec.BasicReturn.decode(payload), self._return, keep)

    def _return(
        self, method: spec.BasicReturn, header: bytes, body: bytes | None
    ) -> None:
        if body is None:
            return  # larger than anything that we have published
        error = self.sink.returned(method, header, body)
        if self.confirms is not None:
            self.confirms.returned(method.exchange, method.routing_key, body, error)

    def _begin_get_ok(self, payload: bytes) -> None:
        method = spec.BasicGetOk.decode(payload)
        self._replies.check(spec.BasicGetOk)
        self.begin(method, self._get_ok, self.max_body)

    def _get_ok(
        self, method: spec.BasicGetOk, header: bytes, body: bytes | None
    ) -> None:
        handle = self._replies.take(method)
        if body is None:
            error = ContentTooLarge(self._size, self.max_body)
            error.delivery_tag = method.delivery_tag
            handle.errback(error)
        else:
            handle.callback(Content(method, header, body))

    # -- what the peer says: the rest ------------------------------------------

    def _ack(self, payload: bytes) -> None:
        self._confirm(payload, spec.BasicAck)

    def _nack(self, payload: bytes) -> None:
        self._confirm(payload, spec.BasicNack)

    def _confirm(self, payload: bytes, method: type[Method]) -> None:
        if len(payload) != 13:
            raise DecodeError(
                f"{method.name}: its fields do not fill its frame", *method.identity
            )
        if self.confirms is None:
            raise CommandInvalid(
                f"{method.name} on a channel that is not in confirm mode",
                *method.identity,
            )
        number, bits = _UNPACK_TAG(payload, 4)
        self.confirms.settle(number, bits & 1 != 0, method is spec.BasicAck)
        self.sink.confirmed()

    def _cancel(self, payload: bytes) -> None:
        method = spec.BasicCancel.decode(payload)
        tag = method.consumer_tag.encode("utf-8", "surrogateescape")
        consumer = self._pop_consumer(tag)
        if method.no_wait and consumer is not None:
            self._ending[tag] = consumer
            if self.is_open:
                ending = _Ending(self._ending, tag, consumer)
                self.call(spec.BasicCancel(method.consumer_tag), ending)
        elif self.is_open and not method.no_wait:
            self.send(spec.BasicCancelOk(method.consumer_tag))
        if consumer is not None:
            consumer.cancelled()

    def _flow(self, payload: bytes) -> None:
        active = spec.ChannelFlow.decode(payload).active
        if not self.closing:
            self.send(spec.ChannelFlowOk(active))
            self.sink.flow(active)

    def _close(self, payload: bytes) -> None:
        method = spec.ChannelClose.decode(payload)
        self._write(method_frame(self.number, spec.ChannelCloseOk().encode()))
        operation = operation_name(method.class_id, method.method_id)
        reason = channel_closed(
            method.reply_code,
            method.reply_text,
            method.class_id,
            method.method_id,
            operation,
        )
        if self.closing:
            # Our close crossed the peer's, and its answer is still to come.
            self.fail(reason)
            self.expect = self._await_close_ok
        else:
            self._release(self.number, True)
            self.fail(reason)

    def _await_close_ok(self, kind: int, payload: bytes) -> None:
        if kind != spec.FRAME_METHOD:
            return
        if payload[:4] == spec.ChannelClose.prefix:
            self._write(method_frame(self.number, spec.ChannelCloseOk().encode()))
        elif payload[:4] == spec.ChannelCloseOk.prefix:
            self.ignore_all()
            self._release(self.number, True)

    def _close_ok(self, payload: bytes) -> None:
        method = spec.ChannelCloseOk.decode(payload)
        handle = self._replies.take(method)
        self._release(self.number, False)
        self.fail(self._refusal())
        handle.callback(method)

    # -- the end ---------------------------------------------------------------

    def fail(self, reason: AMQPError) -> None:
        """
        End the channel: tell everyone who waits for something on it, once.
        """
        if self.reason is not None:
            return
        self.reason = reason
        self.ignore_all()
        self._templates.forget()
        self._ending.clear()
        consumers, self.consumers = self.consumers, {}
        self._replies.fail(reason)
        if self.confirms is not None:
            self.confirms.fail(reason)
        for consumer in consumers.values():
            consumer.ended(reason)
        self.sink.closed(reason)

    def register(self, tag: str, consumer: ConsumerSink) -> None:
        """
        Have the deliveries for a tag go to a consumer.

        :raises LocalProtocolError: when the tag is in use on this channel, or cannot
            be sent.
        """
        key = encode_short_string(tag, "consumer_tag")[1:]
        if key in self.consumers:
            raise LocalProtocolError(f"the consumer tag {tag!r} is in use")
        self.consumers[key] = consumer

    def forget(self, tag: str) -> None:
        """
        There are no more deliveries for a tag.
        """
        self._pop_consumer(tag.encode("utf-8", "surrogateescape"))

    def _pop_consumer(self, tag: bytes) -> ConsumerSink | None:
        self._templates.forget()
        return self.consumers.pop(tag, None)


class _Ending:
    """
    Waits until the broker has agreed to the end of a consumer that it has cancelled.
    """

    __slots__ = ("_consumer", "_ending", "_tag")

    def __init__(
        self, ending: dict[bytes, ConsumerSink], tag: bytes, consumer: ConsumerSink
    ) -> None:
        self._ending = ending
        self._tag = tag
        self._consumer = consumer

    def callback(self, result: object) -> None:
        if self._ending.get(self._tag) is self._consumer:
            del self._ending[self._tag]

    def errback(self, fail: object) -> None:
        """
        The channel has ended, and the consumer with it.
        """


class _Recovering:
    """
    Waits for the answer after which deliveries are new ones.
    """

    __slots__ = ("_handle", "_machine")

    def __init__(self, machine: ChannelMachine, handle: ReplyHandle) -> None:
        self._machine = machine
        self._handle = handle

    def callback(self, result: Any) -> None:
        machine = self._machine
        machine.recovering -= 1
        machine.dropping = machine.closing or machine.recovering > 0
        self._handle.callback(result)

    def errback(self, fail: Any) -> None:
        self._handle.errback(fail)


#: Who takes a method that is not the answer to a call.
_HANDLERS: dict[bytes, Callable[[ChannelMachine, bytes], None]] = {
    spec.BasicDeliver.prefix: ChannelMachine._begin_deliver,
    spec.BasicReturn.prefix: ChannelMachine._begin_return,
    spec.BasicGetOk.prefix: ChannelMachine._begin_get_ok,
    spec.BasicAck.prefix: ChannelMachine._ack,
    spec.BasicNack.prefix: ChannelMachine._nack,
    spec.BasicCancel.prefix: ChannelMachine._cancel,
    spec.ChannelFlow.prefix: ChannelMachine._flow,
    spec.ChannelClose.prefix: ChannelMachine._close,
    spec.ChannelCloseOk.prefix: ChannelMachine._close_ok,
}
