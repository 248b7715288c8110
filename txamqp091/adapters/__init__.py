"""
The same protocol on other loops than Twisted's, and without a loop.

`txamqp091.adapters.aio` is for asyncio, `txamqp091.adapters.tornado` for Tornado,
`txamqp091.adapters.blocking` for programs without a loop, and
`txamqp091.adapters.threads` for other threads than the connection's.  The adapters
implement no verb of AMQP: they call `txamqp091.channel.Channel`.  They load no reactor.
"""
