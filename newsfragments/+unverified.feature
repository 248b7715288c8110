``EntityOutcome.unverified`` is the broker's refusal when the user may neither declare an exchange or a queue nor ask whether it exists, so that the service assumes that it does.
