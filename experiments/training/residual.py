"""Policies of Stable-Baselines3 and sb3-contrib whose heads read the last features of an observation as they are.

With the choices of a rule there, and a weight on each, the logits are the network's besides the rule's.
"""

from __future__ import annotations

from typing import Any

import torch
from sb3_contrib.common.maskable.policies import MaskableActorCriticPolicy
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.policies import ActorCriticPolicy
from stable_baselines3.common.torch_layers import MlpExtractor
from torch import Tensor


class SkipExtractor(MlpExtractor):
    """The layers of actor and critic; of the actor the last `skip` features follow the last layer."""

    def __init__(self, features: int, *args: Any, skip: int, **more: Any) -> None:
        super().__init__(features, *args, **more)
        self._skip = skip
        self.latent_dim_pi += skip

    def forward_actor(self, features: Tensor) -> Tensor:
        """What the actor's head reads."""
        return torch.cat([self.policy_net(features), features[:, -self._skip :]], dim=1)


class _Skips:
    """Builds the extractor of a policy; mixed into the libraries' own."""

    def __init__(self, *args: Any, skip: int, **more: Any) -> None:
        self._skip = skip
        super().__init__(*args, **more)

    def _build_mlp_extractor(self) -> None:
        own: Any = self  # both libraries' policies have the attributes, by other names of types
        own.mlp_extractor = SkipExtractor(
            own.features_dim,
            net_arch=own.net_arch,
            activation_fn=own.activation_fn,
            device=own.device,
            skip=self._skip,
        )


class ResidualPolicy(_Skips, ActorCriticPolicy):
    """Of PPO and A2C."""


class MaskableResidualPolicy(_Skips, MaskableActorCriticPolicy):
    """Of MaskablePPO."""


def start_from_advice(model: BaseAlgorithm, weight: float) -> None:
    """Let each of the last features add `weight` to the logit of its option, and nothing to the others'."""
    policy: Any = model.policy
    head = policy.action_net
    with torch.no_grad():
        head.weight[:, -head.out_features :] = weight * torch.eye(head.out_features)
