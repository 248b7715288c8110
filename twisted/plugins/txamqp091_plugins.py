"""
Makes ``twistd amqp-consumer`` and ``twistd amqp-broker`` known.  Every run of
``twistd`` on the machine imports this file, so it imports nothing of ours: the services
are named by strings.
"""

from twisted.application.service import ServiceMaker

amqp_consumer = ServiceMaker(
    "txamqp091 consumer",
    "txamqp091.tap",
    "Run an AMQP consumer.",
    "amqp-consumer",
)

amqp_broker = ServiceMaker(
    "txamqp091 in-memory broker",
    "txamqp091.testing.tap",
    "Run an AMQP broker that keeps nothing, for tests.",
    "amqp-broker",
)
