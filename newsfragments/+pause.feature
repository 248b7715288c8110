A consumer can be paused and resumed: ``ConsumerService.pause``, or ``raise Pause(60)`` in a
handler.
