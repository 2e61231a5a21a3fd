"""A start for training on Serving-v1: a network fitted to the choices of a rule, in states that both lead to.

Rounds play the environments of the training: in the first the rule acts, in the others the network does and the rule
says what it would have chosen (DAgger: Ross, Gordon and Bagnell, AISTATS 2011). The actor is fitted to all choices so
far by their likelihood; the critic stays as it is.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from stable_baselines3.common.base_class import BaseAlgorithm

from agents.environments import problems_of
from agents.learned.advice import make_adviser
from experiments.training.hyperparameters import Cloning
from experiments.training.interruption import Interruption
from experiments.training.record import Listener
from papi_env.envs.serving_v1 import ServingV1Problem
from papi_env.errors import ConfigurationError


def clone(
    model: BaseAlgorithm, parameters: Cloning, seed: int, interruption: Interruption, listener: Listener
) -> list[float]:
    """Fit the actor of a model to a rule.

    Args:
        model: PPO, A2C or MaskablePPO, with its environments, which are played on.
        parameters: which rule, and how much.
        seed: of the samples drawn.
        interruption: asked between rounds; a training that goes on starts its imitation anew.
        listener: told of every round: with the share of choices in which the network differs.

    Returns:
        The share of choices in which the network's most likely ones differ from the rule's, after each round.

    Raises:
        ConfigurationError: another problem than Serving-v1, or an unknown rule.
        KeyboardInterrupt: the interruption was asked for.
    """
    envs: Any = model.get_env()
    problems = problems_of(envs)
    for problem in problems:
        if not isinstance(problem, ServingV1Problem):
            raise ConfigurationError("cloning is of rules for papi_env/Serving-v1; expected none here")
    rule = make_adviser(parameters.rule)
    rule.bind(envs)
    rng = np.random.default_rng(seed)
    seen, chosen, differs = [], [], []
    observations, starts = envs.reset(), np.ones(envs.num_envs, dtype=np.bool_)
    state: Any = None
    own = len(problems[0].observation_names)
    policy: Any = model.policy
    optimizer = torch.optim.Adam(
        [*policy.mlp_extractor.policy_net.parameters(), *policy.action_net.parameters()],
        lr=parameters.learning_rate,
    )
    for number in range(parameters.rounds):
        if interruption.asked:
            raise KeyboardInterrupt
        for _ in range(parameters.steps):
            wanted, state = rule.predict(observations[:, :own], state, starts)
            seen.append(observations)
            chosen.append(wanted)
            actions = wanted if number == 0 else model.predict(observations)[0]
            observations, _, starts, _ = envs.step(actions)
        rows, targets = np.concatenate(seen), np.concatenate(chosen)
        for k in range(parameters.updates):
            for group in optimizer.param_groups:
                group["lr"] = parameters.learning_rate * (1 - k / parameters.updates)
            batch = rng.integers(len(rows), size=parameters.batch_size)
            likely = policy.get_distribution(torch.from_numpy(rows[batch]))
            loss = -likely.log_prob(torch.from_numpy(targets[batch])).mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        sample = rng.integers(len(rows), size=min(len(rows), 16384))
        found = model.predict(rows[sample], deterministic=True)[0]
        differs.append(float((found != targets[sample]).mean()))
        listener.cloned(number + 1, parameters.rounds, len(rows), differs[-1])
    return differs
