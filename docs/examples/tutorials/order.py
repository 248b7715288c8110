import os
import sys

from twisted.internet.task import react

from txamqp091 import connect


async def main(reactor, order):
    uri = os.environ.get("AMQP_URI", "amqp://localhost")
    async with await connect(reactor, uri) as connection:
        channel = await connection.open_channel()
        await channel.confirm_select()
        await channel.basic_publish("", "orders", order, mandatory=True)
        print("sent")


react(main, sys.argv[1:])
