A process that is given the ``offset_file`` of another running process ends at its start with exit status 78: a lock on a file beside it keeps two consumers from overwriting each other's offset.
