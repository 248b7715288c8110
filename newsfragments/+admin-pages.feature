``/health`` is an alias of ``/ready``, ``txamqp091_info`` tells the version, and systemd's status follows the connection.
