"""Whom to serve, compiled: the further choices of Serving-v1, by constants or left to a rule."""

from __future__ import annotations

from agents.serving.inside.compiled import inlined
from papi_env.simulation.serving import state as at

# They follow the four of Serving-v0 in an action. `LEFT` in the place of a constant leaves a choice to the rule.
FIRST, NUM_SERVICE = at.ORDER, len(at.SERVICE_CHOICES)
LEFT = -1


@inlined
def plain_service(e, actions):
    """What Serving-v0 always does: option 0 of each."""
    for k in range(NUM_SERVICE):
        actions[e, FIRST + k] = 0


@inlined
def given_service(e, service, actions):
    """The constants of environment e; what is left to the rule stays as it is."""
    for k in range(NUM_SERVICE):
        if service[e, k] >= 0:
            actions[e, FIRST + k] = service[e, k]
