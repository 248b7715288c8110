# -*- test-case-name: txamqp091.test.scenarios.test_differences -*-
"""
What the in-memory broker does otherwise than RabbitMQ, and shall.

It is written down once, here: for the scenarios (`txamqp091.test.support.scenarios`),
which insist that it is so, and for users: ``python -m
txamqp091.test.support.differences`` writes the page of the documentation.
"""

from __future__ import annotations

import textwrap
from dataclasses import dataclass

from txamqp091.test.support.checkout import CHECKOUT

__all__ = ["DIFFERENCES", "PAGE", "Difference", "page"]

#: The page in the documentation; it is not there where the package is installed.
PAGE = CHECKOUT / "docs" / "contributing" / "memory-broker-differences.rst"

_INTRODUCTION = """\
How the in-memory broker differs from RabbitMQ
==============================================

The `~txamqp091.testing.memory.MemoryBroker` is told which RabbitMQ to be like, and the
same scenarios ask it and that RabbitMQ: 3.10 and 4.3.  They get the same replies,
deliveries, headers and codes, but for what is listed here.  What a program finds out by
parsing texts is the same, too, unless it says so below.
"""


@dataclass(frozen=True)
class Difference:
    """
    What the in-memory broker does otherwise than RabbitMQ, and shall.

    :ivar scenario: what it fails: ``Class.test``; or "", if there is none.  It has to
        fail: when it does not any more, this goes.
    :ivar versions: told to be like which RabbitMQ.
    :ivar rabbitmq: what that does.
    :ivar memory: what ours does.
    :ivar reason: why.
    """

    scenario: str
    versions: tuple[str, ...]
    rabbitmq: str
    memory: str
    reason: str


#: All of them.
DIFFERENCES: tuple[Difference, ...] = (
    Difference(
        "EndScenarios.test_product",
        ("3.10", "4.3"),
        "``product`` in the properties of the server is ``RabbitMQ``.",
        "It is ``txamqp091 MemoryBroker``; ``version`` is RabbitMQ's.",
        "A log shall show which broker a program has talked to.",
    ),
    Difference(
        "ContentScenarios.test_order_of_headers",
        ("4.3",),
        "The headers of a message arrive sorted by name.",
        "The headers arrive in the order in which they were sent.",
        "Properties are passed on octet by octet, which is what tests look at; and the "
        "order of a table means nothing.",
    ),
    Difference(
        "StreamDeclareScenarios.test_max_age",
        ("3.10",),
        "``x-max-age`` that is no length of time ends the connection with 541.",
        "It ends the channel with 406, as with 4.3.",
        "541 is RabbitMQ's way to say that it failed itself.",
    ),
    Difference(
        "ViolationScenarios.test_unknown_method",
        ("3.10", "4.3"),
        "A method that AMQP does not have drops the connection, without a word.",
        "The connection is closed with 540, which says so.",
        "AMQP 0-9-1 wants it, and it helps whoever writes a client.",
    ),
    Difference(
        "RawContentScenarios.test_malformed",
        ("3.10", "4.3"),
        "Properties that cannot be decoded end the publisher's connection with 541.",
        "They are passed on as they are; without a field of flags, the code is 502.",
        "A test can see how a consumer copes with them: other ways into RabbitMQ than "
        "AMQP 0-9-1 may let them in.",
    ),
    Difference(
        "ViolationScenarios.test_no_number_in_arguments",
        ("3.10", "4.3"),
        "An argument that is a floating-point number, and not a number or infinite, "
        "drops the connection, without a word.",
        "The connection is closed with 541, as for such a header.",
        "It helps whoever writes a client.",
    ),
    Difference(
        "ViolationScenarios.test_truncated_method",
        ("3.10", "4.3"),
        "A method whose arguments are cut short ends the connection with 501.",
        "The code is 502.",
        "AMQP 0-9-1 has it for arguments, and 501 for frames; the client answers so, "
        "too.",
    ),
    Difference(
        "ViolationScenarios.test_header_of_another_class",
        ("3.10", "4.3"),
        "A content header of a class that is not its method's ends the connection with "
        "505.",
        "The code is 501.",
        "The frame is of the right type, and what is in it is wrong; the client "
        "answers so, too.",
    ),
    Difference(
        "",
        ("3.10", "4.3"),
        "The text that comes with 501 to 505 begins with the name of the code.",
        "It is in the words in which the client's own errors are.",
        "Both sides of a connection share the code that reads frames.",
    ),
    Difference(
        "",
        ("3.10", "4.3"),
        "A client that breaks the rules before it was let in is dropped after three "
        "seconds, without a word.",
        "So it is, at once; and limits in ``connection.tune-ok`` that are out of "
        "bounds are refused with 530.",
        "Nobody wants to wait in a test; and it helps whoever writes a client.",
    ),
    Difference(
        "",
        ("3.10", "4.3"),
        "A frame that comes where none may be ends the connection with 505, a "
        "heartbeat on a channel too.",
        "For the heartbeat, the code is 503.",
        "AMQP 0-9-1 has it; the client answers so, too.",
    ),
    Difference(
        "",
        ("3.10", "4.3"),
        "A refusal names the type of an argument as it was sent, such as ``byte``; and "
        "headers keep their types when a message is dead-lettered.",
        "An integer is a ``signedint`` or, over 32 bits, a ``long``.",
        "Types of integers are not kept when a table is decoded.",
    ),
    Difference(
        "",
        ("3.10", "4.3"),
        "Names that it makes up are random.",
        "They are counted: ``amq.gen-0000000000000000000001`` is the first.",
        "What happens in a test happens again.",
    ),
    Difference(
        "",
        ("3.10", "4.3"),
        "The exchange type ``x-consistent-hash`` needs the plugin "
        "``rabbitmq_consistent_hash_exchange``.",
        "The type can always be declared.",
        "It is the plugin that programs use most, and RabbitMQ ships with it.",
    ),
    Difference(
        "",
        ("3.10", "4.3"),
        "``x-consistent-hash`` and ``x-modulus-hash`` give a routing key to a queue by "
        "Erlang's hash function; ``x-local-random`` chooses a queue at random.",
        "The hash function is another one, and the queues of ``x-local-random`` take "
        "turns.",
        "A test has the same result every time; a program must not depend on which "
        "queue it is.",
    ),
    Difference(
        "",
        ("3.10", "4.3"),
        "Of all other plugins, none is there by default.",
        "None can be enabled: ``x-random``, ``x-recent-history``, "
        "``x-delayed-message`` and ``amq.rabbitmq.event`` are unknown.  "
        "``amq.rabbitmq.trace`` can be bound, and gets no messages.",
        "They are not part of the broker.",
    ),
    Difference(
        "",
        ("3.10", "4.3"),
        "A stream is written in chunks, and a consumer begins with a whole one: it may "
        "get older messages than it asked for.",
        "It begins with the message that it asked for; the last chunk is the last "
        "message.",
        "Which messages share a chunk depends on time, and a program must not care.",
    ),
    Difference(
        "",
        ("3.10", "4.3"),
        "A quorum queue with ``reject-publish`` takes a few messages more than it is "
        "to hold before it refuses any.",
        "It takes one more.",
        "How many they are depends on time, and a program must not care.",
    ),
    Difference(
        "",
        ("3.10", "4.3"),
        "Durable queues and persistent messages outlive a restart.",
        "Nothing outlives the broker.",
        "It is for tests.",
    ),
)


def page() -> str:
    """
    The page in the documentation.
    """
    parts = [_INTRODUCTION]
    for each in DIFFERENCES:
        also = "" if len(each.versions) > 1 else f" {each.versions[0]}"
        text = f"**RabbitMQ{also}:** {each.rabbitmq} **Here:** {each.memory}"
        lines = textwrap.wrap(f"{text} *Why:* {each.reason}", 86)
        parts.append("* " + "\n  ".join(lines) + "\n")
    return "\n".join(parts)


if __name__ == "__main__":
    PAGE.write_text(page())
