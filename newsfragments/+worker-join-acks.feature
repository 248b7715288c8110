Workers join acknowledgements by default (``join_acks``): the broker has a third less to do for each message, and a worker that is limited by the broker is a third faster.
