The daemon reads streams: ``stream_offset`` says where it begins, ``offset_file`` keeps the place over restarts, and nothing is sent back to a stream, for which RabbitMQ 3 closes the connection.
