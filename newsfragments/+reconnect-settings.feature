The table ``[reconnect]`` sets the delays between attempts to connect.
