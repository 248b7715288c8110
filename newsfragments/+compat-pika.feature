``txamqp091.compat.pika`` runs programs that were written for pika's ``BlockingConnection``: change the import to ``import txamqp091.compat.pika as pika``.
