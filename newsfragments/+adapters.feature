The same protocol serves programs without Twisted's reactor: ``txamqp091.adapters`` has modules for asyncio (and uvloop), for Tornado, for programs without a loop, and for threads, on every loop.
