# -*- test-case-name: txamqp091.test.unit.machine.test_states -*-
"""
Tests for `txamqp091._machine.states`.
"""

from __future__ import annotations

from itertools import product

from twisted.trial.unittest import SynchronousTestCase

from txamqp091._machine.states import Role, State, received, sent
from txamqp091.errors import CommandInvalid, LocalProtocolError
from txamqp091.wire import spec
from txamqp091.wire.method import METHODS, Method

CLIENT, SERVER = Role.CLIENT, Role.SERVER

#: Who may say what when, and what comes of it: the conversation of AMQP 0-9-1
#: §2.2.4, with RabbitMQ's additions, told once more and in its order.  What is not
#: here may not be said.
CONVERSATION: dict[tuple[Role, State, type[Method]], State] = {
    (SERVER, State.GREETED, spec.ConnectionStart): State.STARTED,
    (CLIENT, State.STARTED, spec.ConnectionStartOk): State.AUTHENTICATING,
    (SERVER, State.AUTHENTICATING, spec.ConnectionSecure): State.CHALLENGED,
    (CLIENT, State.CHALLENGED, spec.ConnectionSecureOk): State.AUTHENTICATING,
    (SERVER, State.AUTHENTICATING, spec.ConnectionTune): State.TUNED,
    (CLIENT, State.TUNED, spec.ConnectionTuneOk): State.AGREED,
    (CLIENT, State.AGREED, spec.ConnectionOpen): State.OPENING,
    (SERVER, State.OPENING, spec.ConnectionOpenOk): State.OPEN,
    (SERVER, State.OPEN, spec.ConnectionBlocked): State.OPEN,
    (SERVER, State.OPEN, spec.ConnectionUnblocked): State.OPEN,
    (CLIENT, State.OPEN, spec.ConnectionUpdateSecret): State.OPEN,
    (SERVER, State.OPEN, spec.ConnectionUpdateSecretOk): State.OPEN,
}

PEER = {CLIENT: SERVER, SERVER: CLIENT}
OVER = (spec.ConnectionClose, spec.ConnectionCloseOk)


def after_receiving(role: Role, state: State, method: type[Method]) -> State | None:
    """
    The state that the specification asks for; None for an error.
    """
    if state is State.CLOSING:
        return State.CLOSED if method in OVER else State.CLOSING
    if method is spec.ConnectionClose:
        early = (State.NEW, State.GREETED, State.CLOSED)
        return None if state in early else State.CLOSED
    return CONVERSATION.get((PEER[role], state, method))


def after_sending(role: Role, state: State, method: type[Method]) -> State | None:
    """
    The same for what we say ourselves.
    """
    if method is spec.ConnectionClose:
        over = (State.NEW, State.CLOSING, State.CLOSED)
        return None if state in over else State.CLOSING
    return CONVERSATION.get((role, state, method))


class AllPairsTests(SynchronousTestCase):
    """
    Tests that try every method in every state, on both sides.
    """

    pairs = list(product(Role, State, METHODS.values()))

    def test_received(self) -> None:
        """
        Criterion 4: whatever the peer says, in whatever state, moves the
        conversation on as specified or is its error, 503, and nothing else: there is
        no second start or tune, and no open-ok before tune.
        """
        self.assertEqual(len(self.pairs), 2 * len(State) * len(METHODS))
        for role, state, method in self.pairs:
            wanted = after_receiving(role, state, method)
            with self.subTest(role=role, state=state, method=method.name):
                if wanted is not None:
                    self.assertIs(received(role, state, method), wanted)
                    continue
                error = self.assertRaises(CommandInvalid, received, role, state, method)
                self.assertEqual(error.reply_code, 503)
                self.assertEqual((error.class_id, error.method_id), method.identity)
                self.assertIn(method.name, str(error))
                self.assertIn(state.value, str(error))

    def test_sent(self) -> None:
        """
        Whatever we say, in whatever state, moves the conversation on as specified
        or is refused, and nothing else.
        """
        for role, state, method in self.pairs:
            wanted = after_sending(role, state, method)
            with self.subTest(role=role, state=state, method=method.name):
                if wanted is not None:
                    self.assertIs(sent(role, state, method), wanted)
                    continue
                error = self.assertRaises(LocalProtocolError, sent, role, state, method)
                self.assertIn(method.name, str(error))
                self.assertIn(state.value, str(error))

    def test_both_sides_agree(self) -> None:
        """
        What one side may send, the other may receive, and both end in one state.
        """
        for role, state, method in self.pairs:
            if after_sending(role, state, method) is None:
                continue
            if method is not spec.ConnectionClose:
                self.assertIs(
                    received(PEER[role], state, method), sent(role, state, method)
                )

    def test_whole_conversation(self) -> None:
        """
        The conversation can be had from its beginning to its end, and every state
        is reached.
        """
        for role in Role:
            state = State.GREETED
            seen = {State.NEW, State.GREETED}
            for (who, before, method), after in CONVERSATION.items():
                if before is not state:
                    continue
                move = sent if who is role else received
                state = move(role, state, method)
                self.assertIs(state, after)
                seen.add(state)
            self.assertIs(state, State.OPEN)
            state = sent(role, state, spec.ConnectionClose)
            seen.add(state)
            state = received(role, state, spec.ConnectionCloseOk)
            seen.add(state)
            self.assertEqual(seen, set(State))
