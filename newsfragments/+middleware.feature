``ConsumerService(..., middleware=[...])`` puts functions around a handler.  ``RateLimit`` and
``Deduplicate`` are such functions.
