"""
kombu, with confirms: one message after the other, as it has no other way.
"""

from __future__ import annotations

import os

from counting import COUNT, PAYLOAD, done
from kombu import Connection, Producer

connection = Connection(
    os.environ["BENCH_URI"], transport_options={"confirm_publish": True}
)
producer = Producer(connection.channel())
for _ in range(COUNT):
    producer.publish(PAYLOAD, routing_key=os.environ["BENCH_QUEUE"], serializer="json")
    done(PAYLOAD)
