"""
Makes ``twistd amqp-consumer`` known.  Every run of ``twistd`` on the machine
imports this file, so it imports nothing of ours: the service is named by a string.
"""

from twisted.application.service import ServiceMaker

amqp_consumer = ServiceMaker(
    "txamqp091 consumer",
    "txamqp091.tap",
    "Run an AMQP consumer.",
    "amqp-consumer",
)
