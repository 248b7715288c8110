"""
Tests with other AMQP clients.
"""
