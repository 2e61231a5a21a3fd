"""A decision tree that acts: small enough to read, to compile into a scheduler, and to check.

`tree.json` is the policy, plain data for any runtime. Nodes are numbered from 0, the root; each has a `feature`, a
`threshold`, `left` and `right`. To decide:

    node = 0
    while feature[node] >= 0:
        node = left[node] if observation[feature[node]] <= threshold[node] else right[node]
    action = actions[left[node]]

A leaf has feature -1, and its number in `left` and `right`; `actions` has a row for each leaf, an option for each
choice of the environment's action space. Observations are the environment's float32 features, in the order of
`observation.names`; thresholds are float32 numbers. A choice that is not possible in a step is one the environment
falls back from, as from anybody's.

Loading executes nothing from the file; every number is checked, and a digest finds a file that was cut off or changed.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from agents.environments import in_shape, joint_of, problems_of
from agents.learned.checkpoint import ActionLayout, ObservationLayout, document_digest, read_document
from agents.learned.policy import layout_difference, options_of
from agents.policy import Actions
from papi_env.envs.flatten import JointActions
from papi_env.errors import ConfigurationError, DataError, describe_validation
from papi_env.simulation.compiled import njit

TREE = "tree.json"
# chosen: far above any tree that somebody would read or compile (64 are asked for; range up to what int16 numbers).
MAX_LEAVES = 1024

_Numbers = Annotated[tuple[int, ...], Field(min_length=1, max_length=2 * MAX_LEAVES - 1, strict=False)]
_Name = Annotated[str, Field(min_length=1, max_length=200)]


@dataclass(frozen=True, eq=False)
class Tree:
    """A binary decision tree over observations; see the module for how it decides.

    Attributes:
        feature: int16 [nodes], -1 for leaves.
        threshold: float32 [nodes].
        left, right: int16 [nodes], children, or the number of a leaf.
        actions: int64 [leaves, choices].
    """

    feature: npt.NDArray[np.int16]
    threshold: npt.NDArray[np.float32]
    left: npt.NDArray[np.int16]
    right: npt.NDArray[np.int16]
    actions: Actions

    @property
    def leaves(self) -> int:
        """How many actions it tells apart at most."""
        return len(self.actions)

    @property
    def depth(self) -> int:
        """Comparisons of the longest decision."""
        depth = np.zeros(len(self.feature), dtype=np.int64)
        for node in range(len(self.feature)):  # children come after their parent
            if self.feature[node] >= 0:
                depth[[self.left[node], self.right[node]]] = depth[node] + 1
        return int(depth.max())

    @property
    def num_bytes(self) -> int:
        """Bytes of its tables in memory, actions with a byte for each choice."""
        nodes = sum(array.nbytes for array in (self.feature, self.threshold, self.left, self.right))
        return nodes + self.actions.size

    def leaf_of(self, observations: npt.NDArray[np.float32]) -> npt.NDArray[np.int64]:
        """The leaf of each observation: float32 [num_envs, features] to int64 [num_envs]."""
        found = np.empty(len(observations), dtype=np.int64)
        walk(np.ascontiguousarray(observations), self.feature, self.threshold, self.left, self.right, found)
        return found


@njit
def walk(observations, feature, threshold, left, right, found):  # type: ignore[no-untyped-def]
    """Write the leaf of every observation to `found`; arguments as in `Tree`."""
    for e in range(len(observations)):
        node = 0
        while feature[node] >= 0:
            node = left[node] if observations[e, feature[node]] <= threshold[node] else right[node]
        found[e] = left[node]


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)


class Nodes(_Part):
    """The columns of a tree's nodes."""

    feature: _Numbers
    threshold: Annotated[tuple[float, ...], Field(strict=False)]
    left: _Numbers
    right: _Numbers


class TreeDescription(_Part):
    """What `tree.json` says, apart from its digest.

    Attributes:
        env: id that it plays.
        teacher: whose decisions it imitates.
        nodes, actions: the tree.
        scenarios: that it, and its teacher before, were trained on.
        training: a summary for people; `traces` in it is what `experiments.splits` reads.
    """

    format: Literal["papi_env tree"] = "papi_env tree"
    version: Literal[1] = 1
    env: _Name
    teacher: _Name
    observation: ObservationLayout
    action: ActionLayout
    nodes: Nodes
    actions: Annotated[
        tuple[Annotated[tuple[int, ...], Field(strict=False)], ...],
        Field(min_length=1, max_length=MAX_LEAVES, strict=False),
    ]
    scenarios: Annotated[tuple[dict[str, Any], ...], Field(strict=False)] = ()
    training: dict[str, Any] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _a_tree(self) -> TreeDescription:
        nodes, leaves, features = self.nodes, len(self.actions), len(self.observation.names)
        count = len(nodes.feature)
        lengths = [len(column) for column in (nodes.threshold, nodes.left, nodes.right)]
        if lengths != [count] * 3 or count != 2 * leaves - 1:
            raise ValueError(
                f"nodes have {[count, *lengths]} entries, but {leaves} leaves make {2 * leaves - 1}"
            )
        reached: list[int] = []
        ends: list[int] = []
        for i, (feature, left, right) in enumerate(zip(nodes.feature, nodes.left, nodes.right, strict=True)):
            if not -1 <= feature < features:
                raise ValueError(f"node {i} reads feature {feature} of {features}")
            if feature < 0 and left != right:
                raise ValueError(f"node {i} is leaf {left} and {right}, expected one number")
            if feature >= 0 and not i < min(left, right):
                raise ValueError(f"node {i} has children {left} and {right}, expected later nodes")
            (ends if feature < 0 else reached).extend((left,) if feature < 0 else (left, right))
        if sorted(reached) != list(range(1, count)) or sorted(ends) != list(range(leaves)):
            raise ValueError(
                "nodes are no tree: expected every node to have one parent, and every leaf one node"
            )
        with np.errstate(over="ignore"):  # to an infinity, which is another number
            wrong = [t for t in nodes.threshold if float(np.float32(t)) != t]
        if wrong:
            raise ValueError(f"threshold {wrong[0]!r} is no float32 number")
        options = self.action.options
        if self.action.flat:
            raise ValueError("flat actions, expected those of the environment's own space")
        for leaf, action in enumerate(self.actions):
            if len(action) != len(options) or any(
                not 0 <= a < n for a, n in zip(action, options, strict=False)
            ):
                raise ValueError(
                    f"leaf {leaf} does {list(action)}, expected a choice of {list(options)} options each"
                )
        return self

    @property
    def tree(self) -> Tree:
        """The tree as arrays."""
        nodes = self.nodes
        return Tree(
            np.array(nodes.feature, dtype=np.int16),
            np.array(nodes.threshold, dtype=np.float32),
            np.array(nodes.left, dtype=np.int16),
            np.array(nodes.right, dtype=np.int16),
            np.array(self.actions, dtype=np.int64),
        )


def describe_tree(
    tree: Tree,
    *,
    env: str,
    teacher: str,
    names: Sequence[str],
    options: Sequence[int],
    scenarios: Sequence[dict[str, Any]] = (),
    training: dict[str, Any] | None = None,
) -> TreeDescription:
    """A tree as `tree.json` holds it.

    Args:
        tree: what decides.
        env: id of the problem; teacher: who is imitated.
        names: of the features; options: of each choice.
        scenarios, training: as in `TreeDescription`.

    Raises:
        DataError: what is given is no tree over these features and options.
    """
    try:
        return TreeDescription(
            env=env,
            teacher=teacher,
            observation=ObservationLayout(names=tuple(names)),
            action=ActionLayout(options=tuple(int(n) for n in options)),
            nodes=Nodes(
                feature=tuple(tree.feature.tolist()),
                threshold=tuple(tree.threshold.tolist()),
                left=tuple(tree.left.tolist()),
                right=tuple(tree.right.tolist()),
            ),
            actions=tuple(tuple(row) for row in tree.actions.tolist()),
            scenarios=tuple(scenarios),
            training=training or {},
        )
    except ValidationError as error:
        raise DataError(str(describe_validation("tree", error))) from None


def tree_document(description: TreeDescription) -> dict[str, Any]:
    """The content of `tree.json`."""
    document = description.model_dump(mode="json")
    return {**document, "sha256": document_digest(document)}


def holds_tree(folder: str | os.PathLike[str]) -> bool:
    """Whether a folder holds a distilled policy rather than a network."""
    return (Path(folder) / TREE).is_file()


def load_tree(folder: str | os.PathLike[str]) -> DistilledPolicy:
    """The distilled policy in a folder; nothing in it is executed.

    Raises:
        ConfigurationError: there is none.
        DataError: its file is cut off, changed, of another kind, or no tree.
    """
    path = Path(folder) / TREE
    if not path.is_file():
        raise ConfigurationError(f"{folder}: holds no {TREE}")
    document = read_document(path)
    recorded = document.pop("sha256", None)
    if recorded != document_digest(document):
        raise DataError(f"{path}: changed since it was written (its digest is another)")
    try:
        return DistilledPolicy(TreeDescription.model_validate(document))
    except ValidationError as error:
        raise DataError(str(describe_validation(str(path), error, _FIELDS))) from None


_FIELDS = {
    name for part in (TreeDescription, Nodes, ObservationLayout, ActionLayout) for name in part.model_fields
}


class DistilledPolicy:
    """A decision tree as a `Policy`; it has no state, and draws nothing."""

    privileged = False

    def __init__(self, description: TreeDescription) -> None:
        self.description = description
        self.tree = description.tree
        self._joint: JointActions | None = None

    def bind(self, env: Any) -> None:
        """Play `env`; see `LearnedPolicy.bind`.

        Raises:
            ConfigurationError: the environment has other observations or actions than the tree knows.
        """
        self._joint = joint_of(env)
        where = f"The tree (of {self.description.teacher}, for {self.description.env})"
        for problem in problems_of(env):
            difference = layout_difference(self.description.observation.names, problem.observation_names)
            if difference:
                raise ConfigurationError(
                    f"{where} reads other observations than this environment has: {difference}"
                )
            options = options_of(problem.single_space())
            if options != self.description.action.options:
                raise ConfigurationError(
                    f"{where} takes actions of {list(self.description.action.options)} options, but this "
                    f"environment has {list(options)}"
                )

    def predict(
        self,
        observation: Any,
        state: Any = None,
        episode_start: npt.NDArray[np.bool_] | None = None,
        deterministic: bool = True,
        action_masks: npt.NDArray[np.bool_] | None = None,
    ) -> tuple[Any, Any]:
        """Actions in the shape that the environment takes, for one observation or a batch; see `Policy`.

        Raises:
            ConfigurationError: observations of another length.
        """
        observations = np.asarray(observation, dtype=np.float32)
        single = observations.ndim == 1
        observations = np.atleast_2d(observations)
        features = len(self.description.observation.names)
        if observations.ndim != 2 or observations.shape[1] != features:
            raise ConfigurationError(
                f"Observations have shape {observations.shape}, but the tree reads {features} features"
            )
        chosen = in_shape(self._joint, self.tree.actions[self.tree.leaf_of(observations)])
        return (chosen[0] if single else chosen), state
