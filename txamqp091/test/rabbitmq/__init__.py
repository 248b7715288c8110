"""
Tests that need a RabbitMQ.
"""
