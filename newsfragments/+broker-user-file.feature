``twistd amqp-broker --user-file PATH`` reads users and passwords from a file, so that the command line, which all users of a machine can see, has no passwords.
