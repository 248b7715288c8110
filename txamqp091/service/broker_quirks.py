# -*- test-case-name: txamqp091.test.unit.service.test_outbox -*-
"""
What RabbitMQ does that no specification says, and the time limits that answer it.

*A frozen leader.*  While the leader of a quorum queue is frozen or cut off, RabbitMQ
answers nothing for that queue on a channel that asks for it: no ``basic.consume-ok``
and no confirm, for 65 seconds.  On another channel it answers as soon as there is
another leader.  With much to do for that channel, it reads nothing any more from the
whole connection.  So the first message of a channel is sent alone; a channel without
its first confirm, or without an answer to ``basic.consume``, is given up after
`FIRST_CONFIRM` and `SUBSCRIBE_TIMEOUT`, which grow with each try.

*A queue that was deleted and declared again.*  RabbitMQ 4.3 may keep for ever what a
channel has sent for a quorum queue that was deleted and declared again, and read
nothing any more from the connection.  So a consumer uses another channel for a queue
that was declared again, and a publisher without any confirm for `SILENCE` seconds
closes the connection.

*A channel that is nacked for ever.*  RabbitMQ 3.10 may nack each message on a channel
that had to do with a quorum queue without a leader, also when there is one again.  So a
nacked message is sent again on another channel.  A publisher waits for the answers that
its old channels owe, on `OLD_CHANNELS_MAX` of them at most.

*A declaration without an answer.*  A quorum queue whose nodes are away is declared when
they come back.  So each step that needs one answer has `STEP_TIMEOUT` seconds.

*A consumer that is cancelled but kept.*  RabbitMQ 4.3 cancels the consumer of a quorum
queue that has not settled a delivery within the queue's consumer timeout.  It sends
``basic.cancel`` with no-wait, and keeps the consumer and its tag until the client
cancels it, too; `txamqp091._machine.channel` does so at once.
"""

from __future__ import annotations

from txamqp091.service.retry import RetryPolicy

#: How long the first message of a channel waits for its confirm, in seconds.
FIRST_CONFIRM = RetryPolicy(initial_delay=2.0, factor=1.25, max_delay=30.0, jitter=0.0)

#: How long ``basic.consume`` waits for its answer, in seconds.
SUBSCRIBE_TIMEOUT = RetryPolicy(
    initial_delay=5.0, factor=1.5, max_delay=30.0, jitter=0.0
)

#: After how many seconds without any confirm, though messages were sent, the connection
#: is closed.
SILENCE = 30.0

#: How many channels a publisher keeps that were given up, and owe it answers.
OLD_CHANNELS_MAX = 8

#: How long the broker may take to open a channel, or to declare an entity, in seconds.
STEP_TIMEOUT = 15.0
