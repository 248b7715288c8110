"""
Scenarios: each runs against the in-memory broker and every RabbitMQ.
"""
