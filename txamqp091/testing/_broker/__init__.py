"""
The in-memory broker itself, behind `txamqp091.testing.MemoryBroker`.

`txamqp091.testing._broker.broker` has the semantics: what RabbitMQ would answer,
deliver and refuse, without any bytes.  The bytes are in
`txamqp091.testing._broker.protocol`.
"""
