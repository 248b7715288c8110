"""
An AMQP broker in memory, for tests and first tries.

The semantics are in `txamqp091.testing.broker`: what RabbitMQ would answer, deliver and
refuse, without any bytes.
"""
