A connection tells how many bytes it has received and sent (``bytes_received``, ``bytes_sent``), and when it last heard the broker (``heard_at``).
