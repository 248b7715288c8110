# -*- test-case-name: txamqp091.test.unit.machine.test_states -*-
"""
The life of a connection, as a table.

Everything that decides which method can come in which state is in this file, and
nothing else is.

Theory.  A connection is negotiated on channel 0, in a conversation whose next method is
always known (AMQP 0-9-1 §2.2.4).  The state changes when this side *sends* a method,
through `sent`, and when it *receives* one, through `received`.  A method without an
entry for the present state is the peer's error (503), or a bug of this side.
``connection.close`` can come at any time after the start; after this side has sent it,
everything but its answer is discarded.

The `Role` of this side chooses the table.
"""

from __future__ import annotations

import enum

from txamqp091.errors import CommandInvalid, LocalProtocolError
from txamqp091.wire import spec
from txamqp091.wire.method import Method

__all__ = ["Role", "State", "received", "sent"]


class Role(enum.Enum):
    """
    The end of a connection.
    """

    CLIENT = "client"
    SERVER = "server"


class State(enum.Enum):
    """
    The state of the conversation.
    """

    #: The protocol header is the next thing to be sent (by the client).
    NEW = "new"
    #: The client waits for ``start``.
    GREETED = "greeted"
    #: ``start`` was sent; the client is to choose a mechanism.
    STARTED = "started"
    #: ``start-ok`` or ``secure-ok`` was sent; the server is to judge it.
    AUTHENTICATING = "authenticating"
    #: ``secure`` was sent; the client is to answer it.
    CHALLENGED = "challenged"
    #: ``tune`` was sent; the client is to answer it.
    TUNED = "tuned"
    #: ``tune-ok`` was sent; the client is to ask for a virtual host.
    AGREED = "agreed"
    #: ``open`` was sent; the server is to judge it.
    OPENING = "opening"
    #: Channels may be opened.
    OPEN = "open"
    #: We have sent ``close``.
    CLOSING = "closing"
    #: Nothing more is said.
    CLOSED = "closed"


_Table = dict[State, dict[type[Method], State]]

#: What the server says, and what becomes of the conversation.
_SERVER_SAYS: _Table = {
    State.GREETED: {spec.ConnectionStart: State.STARTED},
    State.STARTED: {},
    State.AUTHENTICATING: {
        spec.ConnectionSecure: State.CHALLENGED,
        spec.ConnectionTune: State.TUNED,
    },
    State.CHALLENGED: {},
    State.TUNED: {},
    State.AGREED: {},
    State.OPENING: {spec.ConnectionOpenOk: State.OPEN},
    State.OPEN: {
        spec.ConnectionBlocked: State.OPEN,
        spec.ConnectionUnblocked: State.OPEN,
        spec.ConnectionUpdateSecretOk: State.OPEN,
    },
}

#: What the client says, and what becomes of the conversation.
_CLIENT_SAYS: _Table = {
    State.STARTED: {spec.ConnectionStartOk: State.AUTHENTICATING},
    State.CHALLENGED: {spec.ConnectionSecureOk: State.AUTHENTICATING},
    State.TUNED: {spec.ConnectionTuneOk: State.AGREED},
    State.AGREED: {spec.ConnectionOpen: State.OPENING},
    State.OPEN: {spec.ConnectionUpdateSecret: State.OPEN},
    State.GREETED: {},
    State.AUTHENTICATING: {},
    State.OPENING: {},
}

_SAYS = {Role.SERVER: _SERVER_SAYS, Role.CLIENT: _CLIENT_SAYS}
_PEER = {Role.SERVER: Role.CLIENT, Role.CLIENT: Role.SERVER}


def received(role: Role, state: State, method: type[Method]) -> State:
    """
    The state after the peer has sent a method.

    :param role: which end *we* are.
    :raises CommandInvalid: when the peer may not send that now.
    """
    if state is State.CLOSING:
        over = (spec.ConnectionClose, spec.ConnectionCloseOk)
        return State.CLOSED if method in over else State.CLOSING
    if state in (State.NEW, State.CLOSED):
        table = {}
    else:
        table = {**_SAYS[_PEER[role]][state], spec.ConnectionClose: State.CLOSED}
        if state is State.GREETED:  # nothing precedes the start, not even a close
            del table[spec.ConnectionClose]
    if method not in table:
        raise CommandInvalid(
            f"{method.name}, while the connection is {state.value}", *method.identity
        )
    return table[method]


def sent(role: Role, state: State, method: type[Method]) -> State:
    """
    The state after we have sent a method.

    :param role: which end we are.
    :raises LocalProtocolError: when we may not send that now.
    """
    if method is spec.ConnectionClose and state not in (
        State.NEW,
        State.CLOSING,
        State.CLOSED,
    ):
        return State.CLOSING
    table = _SAYS[role].get(state, {})
    if method not in table:
        raise LocalProtocolError(
            f"{method.name}, while the connection is {state.value}"
        )
    return table[method]
