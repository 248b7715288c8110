"""
Prints the messages of a queue until Ctrl-C::

    python greetings.py amqp://localhost
"""

import sys
from typing import Any

from twisted.internet.task import react

from txamqp091 import connect


async def main(reactor: Any, uri: str = "amqp://localhost") -> None:
    """
    Connect, and consume.
    """
    async with await connect(reactor, uri) as connection:
        channel = await connection.open_channel()
        await channel.queue_declare("greetings")
        print("waiting for greetings; Ctrl-C ends this program", flush=True)
        async for delivery in channel.consume("greetings"):
            print(delivery.body.decode(), flush=True)
            delivery.ack()


if __name__ == "__main__":
    react(main, sys.argv[1:])
