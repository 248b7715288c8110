The service's ``Publisher`` adds the ``message_id`` to properties that are encoded once: a message costs two thirds of what it did.
