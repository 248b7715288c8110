import json

from twisted.logger import Logger

log = Logger(namespace="shop")


async def order(delivery):
    order = json.loads(delivery.body)
    log.info("order {number}: {item}", number=order["number"], item=order["item"])
