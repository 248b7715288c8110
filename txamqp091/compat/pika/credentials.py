# -*- test-case-name: txamqp091.test.unit.compat.test_pika -*-
"""
pika's credentials.
"""

from __future__ import annotations

__all__ = ["ExternalCredentials", "PlainCredentials"]

from txamqp091 import credentials as native


class PlainCredentials(native.PlainCredentials):
    """
    A user name and a password.

    ``erase_on_connect`` is accepted and has no effect: a reconnect needs the password.
    """

    def __init__(
        self, username: str, password: str, erase_on_connect: bool = False
    ) -> None:
        super().__init__(username, password)
        self.erase_on_connect = erase_on_connect


ExternalCredentials = native.ExternalCredentials
