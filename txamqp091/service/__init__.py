"""
AMQP as a Twisted service: what the ``twistd`` plugin runs.
"""
