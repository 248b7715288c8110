``AMQPClientService.on_drain`` returns a function that takes the step back; a ``Publisher`` that was stopped is not kept by its service.
