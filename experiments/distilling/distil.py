"""From a lesson to the smallest tree that keeps what its teacher gained, with its figures and its files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console

from agents.learned.checkpoint import WEIGHTS
from agents.learned.distilled import TREE, DistilledPolicy, tree_document
from agents.learned.networks import Architecture
from agents.learned.onnx_export import network_to_onnx, tree_to_onnx
from agents.learned.policy import LearnedPolicy
from agents.policy import Policy
from agents.registry import make_policy, names_folder
from agents.serving.network import SeesRequests
from experiments.arena.latency import Latency, compiled_decision_s, decision_latency
from experiments.common.runner import RunFolder, write_whole
from experiments.distilling.collect import make_envs, returns_of
from experiments.distilling.files import POLICY, TEACHER_ONNX, TREE_ONNX
from experiments.distilling.grow import CHOOSE_SEED, REPORT_SEED, Pupil, as_policy, learn
from experiments.distilling.lesson import SIZES, Lesson
from experiments.distilling.report import choose_size, kept_figures
from experiments.distilling.rules import tree_text
from experiments.distilling.tree import Samples
from experiments.splitting.splits import trace_records


def distil(lesson: Lesson, folder: RunFolder, command: str, progress: Console) -> tuple[dict[str, Any], str]:
    """Grow, choose, play and time; returns what summary.json and rule.txt hold.

    Args:
        lesson: what is distilled.
        folder: the policy's files are written here.
        command: recorded in them.
        progress: for a line a round.
    """
    envs = make_envs(lesson.env_id, lesson.settings, lesson.growth.seeds)
    baseline = make_policy(lesson.baseline)
    seeds = lesson.seeds(CHOOSE_SEED)
    with progress.status("playing teacher and baseline"):
        chosen_with = {name: returns_of(p, envs, seeds) for name, p in _both(lesson, baseline).items()}
    pupil, samples = learn(lesson, chosen_with["teacher"], chosen_with["baseline"], progress)
    sizes = [size for size in SIZES if size < lesson.growth.leaves] + [lesson.growth.leaves]
    with progress.status("choosing a size"):
        trees = {tree.leaves: tree for tree in (pupil.grown.prefix(size) for size in sizes)}
        earned = {
            leaves: returns_of(as_policy(lesson, tree, envs[0]), envs, seeds)
            for leaves, tree in trees.items()
        }
    size = choose_size(earned, chosen_with["teacher"], chosen_with["baseline"], lesson.growth.keep)
    tree = trees[size]
    policy = as_policy(lesson, tree, envs[0], _training(lesson, command, pupil, samples))
    with progress.status("playing other instances"):
        reported = {
            name: returns_of(p, envs, lesson.seeds(REPORT_SEED))
            for name, p in {**_both(lesson, baseline), "tree": policy}.items()
        }
    with progress.status("timing"):
        latencies = {
            name: decision_latency(p, lesson.env_id, lesson.settings[0])
            for name, p in {**_both(lesson, baseline), "tree": policy}.items()
        }
        compiled_s = compiled_decision_s(tree, samples.observations)
    sizes_b = _write_policy(folder, lesson, policy)
    leaf_shares = np.bincount(tree.leaf_of(samples.observations), minlength=tree.leaves) / len(samples)
    rule = tree_text(lesson.env_id, tree, policy.description.observation.names, leaf_shares.tolist())
    summary = {
        "problem": lesson.env_id,
        "teacher": lesson.name,
        "policy": lesson.policy,
        "baseline": lesson.baseline,
        "settings": [setting.name for setting in lesson.settings],
        "samples": len(samples),
        "round": pupil.round + 1,
        "leaves": tree.leaves,
        "depth": tree.depth,
        "returns_by_leaves": {str(leaves): float(values.mean()) for leaves, values in sorted(earned.items())},
        "chosen_with": {name: float(values.mean()) for name, values in chosen_with.items()},
        **kept_figures(reported),
        "bytes": {"tables": tree.num_bytes, **sizes_b},
        "decision_s": {
            "compiled": compiled_s,
            **{name: _plain_latency(latency) for name, latency in latencies.items()},
        },
    }
    return summary, rule


def _both(lesson: Lesson, baseline: Policy) -> dict[str, Policy]:
    return {"teacher": lesson.teacher, "baseline": baseline}


def _plain_latency(latency: Latency) -> dict[str, float | None]:
    return {"single": latency.single_s, "batched": latency.batched_s}


def _training(lesson: Lesson, command: str, pupil: Pupil, samples: Samples) -> dict[str, Any]:
    """What the tree's file says of its growth, and of its teacher's training."""
    training: dict[str, Any] = {
        "command": command,
        "policy": lesson.policy,
        "samples": len(samples),
        "rounds": pupil.round + 1,
        "traces": trace_records(lesson.settings),
    }
    if isinstance(lesson.teacher, (LearnedPolicy, SeesRequests)):
        before = dict(lesson.teacher.description.training)
        training["traces"] = {**before.pop("traces", {}), **training["traces"]}
        training["teacher"] = before
    return training


def _write_policy(folder: RunFolder, lesson: Lesson, policy: DistilledPolicy) -> dict[str, int]:
    """Write the files of the policy; bytes of each."""
    target = folder.path / POLICY
    target.mkdir(exist_ok=True)
    text = (json.dumps(tree_document(policy.description), allow_nan=False) + "\n").encode()
    onnx = tree_to_onnx(policy.description)
    write_whole(target / TREE, text)
    write_whole(target / TREE_ONNX, onnx)
    sizes = {TREE: len(text), TREE_ONNX: len(onnx)}
    teacher = lesson.teacher
    if isinstance(teacher, LearnedPolicy):
        sizes["network"] = sum(tensor.nbytes for tensor in teacher.checkpoint.tensors.values())
        architecture = teacher.checkpoint.description.architecture
        if isinstance(architecture, Architecture) and architecture.lstm is None:
            exported = network_to_onnx(teacher.checkpoint)
            folder.write(TEACHER_ONNX, exported)
            sizes[TEACHER_ONNX] = len(exported)
        if names_folder(lesson.policy):
            sizes[WEIGHTS] = (Path(lesson.policy) / WEIGHTS).stat().st_size
    return sizes
