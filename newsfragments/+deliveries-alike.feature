A delivery that is like one before it costs 0.4 of what it did: one ``Struct`` reads it.
