``txamqp091.service`` exports what a service program needs: ``AMQPClientService``,
``Publisher``, ``Queue``, ``Exchange``, ``Binding``, ``Topology``, ``RetryPolicy`` and more.
