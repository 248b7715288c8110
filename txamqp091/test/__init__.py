"""
The tests of `txamqp091`.  The modules mirror those that they test; run them with
``pytest`` or ``trial txamqp091``.
"""

try:
    from hypothesis import HealthCheck, settings
except ImportError:  # the tests that need it say so
    pass
else:
    # On a busy machine any example may take a second, and means nothing by it.
    settings.register_profile(
        "txamqp091",
        settings.default,
        deadline=None,
        suppress_health_check=[HealthCheck.too_slow],
    )
    settings.load_profile("txamqp091")
