"""
The interfaces of other AMQP clients, over this one.
"""
