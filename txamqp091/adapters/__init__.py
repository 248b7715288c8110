"""
The same protocol from other loops than Twisted's, and from none.

`txamqp091.adapters.aio` is for asyncio, `txamqp091.adapters.tornado` for Tornado,
`txamqp091.adapters.blocking` for programs without a loop, and
`txamqp091.adapters.threads` for other threads than the one of the connection.  None of
them knows a verb of AMQP: they drive `txamqp091.channel.Channel`, and load no reactor.
"""
