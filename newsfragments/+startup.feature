The daemon calls the functions that ``startup`` and ``shutdown`` name.  Handlers get what
``startup`` has returned by ``txamqp091.worker.started``.
