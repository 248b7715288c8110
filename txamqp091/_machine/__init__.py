"""
What two AMQP peers may say to each other, and when.

Fed bytes, it calls a sink; it has no transport, clock, Deferred or log, and
knows nothing of Twisted.  Bytes themselves are the matter of `txamqp091.wire`.
"""
