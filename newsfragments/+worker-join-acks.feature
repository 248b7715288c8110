Workers join acknowledgements by default (``join_acks``): the broker has less to do for each message.
