``txamqp091.service.Telemetry`` makes OpenTelemetry spans and metrics, also without the
daemon, by the messaging conventions of 2026: ``exchange:routing_key:queue`` as destination,
``server.address``, ``error.type``, and four metrics.
