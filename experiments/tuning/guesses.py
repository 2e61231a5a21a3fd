"""Where the search of `experiments.tune` starts: rules that can be tuned, and guesses for each."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from agents.serving.choices import SEPARATOR
from agents.serving.combined import CombinedParameters, ServingTuned
from agents.serving.greedy import GreedyParameters, ProfileGreedy
from agents.serving.heuristic import Parameters, ServingHeuristic
from agents.serving.slack import SlackAware, SlackParameters
from agents.serving.tuned import RuleParameters, TunedRule, Value, as_table, parameters_from, stored_entries

RULES: Mapping[str, type[TunedRule[Any]]] = {
    "heuristic": ServingHeuristic,
    "profile-greedy": ProfileGreedy,
    "tuned": ServingTuned,
    "slack-aware": SlackAware,
}
# Always the same choices, and PAPI's rule where prompts are processed: α to the PUs without a chunk; beside one, FC-PIM
# up to where the profile has them cross, 3.8 α rows for LLaMA-65B. A doubling of the speculation length from 1 gains
# 1 + a of tokens if drafts pass with chance a, then 1 + a^2, 1 + a^4; a is 0.65 to 0.75.
_ADMIT_ALL = {"admit_slack": -16.0, "admit_backlog": 65536.0, "urgent": 0.0, "kv_limit": 1.0}
_FREELY = {"rows": 16.0, "rows_beside": 16.0, "overlap_tokens": 5e5, "drift": 0.0, **_ADMIT_ALL}
_ON_FC_PIM = {"pim_alone": 16.0, "split_alone": 16.0, "pim_beside": 16.0, "split_beside": 16.0, **_FREELY}
_SPLIT = _ON_FC_PIM | {"pim_alone": 0.1, "pim_beside": 0.1}
_PREFILL = {"pim_alone": 1.0, "split_alone": 1.0, "pim_beside": 3.8, "split_beside": 3.8, **_FREELY}
_FEW_BESIDE = _PREFILL | {"drift": 1.0, "rows": 6.0, "rows_beside": 3.8}
GUESSES: Mapping[str, Mapping[str, RuleParameters]] = {
    "heuristic": {
        "guess": Parameters(),
        "threshold-prefill-spec2": Parameters(**_PREFILL, gain=1.5),
        "threshold-prefill-spec4": Parameters(**_PREFILL, gain=1.3),
        "fc-pim-1": Parameters(**_ON_FC_PIM, gain=1.8),
        "fc-pim-2": Parameters(**_ON_FC_PIM, gain=1.5),
        "fc-pim-4": Parameters(**_ON_FC_PIM, gain=1.3),
        "fc-pim-4-overlap": Parameters(**_ON_FC_PIM | {"overlap_tokens": 1024.0}, gain=1.3),
        "split-2": Parameters(**_SPLIT, gain=1.5),
        "split-4": Parameters(**_SPLIT, gain=1.3),
        # Far where there is room, few rows beside a chunk: what costs the PUs nothing.
        "few-beside": Parameters(**_FEW_BESIDE, gain=1.3),
        "few-beside-a-large-chunk": Parameters(**_FEW_BESIDE, gain=1.3, small_chunk=192.0),
    },
    "profile-greedy": {
        "guess": GreedyParameters(),
        "prompts-first": GreedyParameters(prompt_worth=2.0),
        "decoding-first": GreedyParameters(prompt_worth=0.5),
        "at-pace": GreedyParameters(pace=1.0),
        "admit-ahead": GreedyParameters(admit_slack=0.0, urgent=0.3),
        "save-energy": GreedyParameters(time_worth=0.25),
    },
    # What servers do, and what is said to be better.
    "tuned": {
        "guess": CombinedParameters(),
        **{
            name: CombinedParameters.of(name.split(SEPARATOR))
            for name in (
                "late",
                "deadline+late",
                "shortest-prompt+late",
                "weight-per-work+late",
                "late+keep+return",
                "deadline+shed-class",
                "weight-per-work+shed-class+keep+return",
                "weight-per-work+late+keep+return",
                "weight-per-work+late+keep-class+return",
                "weight-per-work+late+most-slack+keep+return+draft-accepted",
                "deadline+late+keep+return+by-chunk",
                "least-work+late+keep+return+by-chunk",
                "weight-per-work+late+keep+return+by-chunk",
                "weight-per-work+keep+return+by-chunk",
                "weight-per-work+shed-class+keep+return+by-chunk",
            )
        },
    },
    "slack-aware": {
        "guess": SlackParameters(),
        "drop soon": SlackParameters(calm=0.05, drop_class=0.25),
        "drop nobody in a queue that moves": SlackParameters(
            calm=2.0, drop_class=16.0, calm_shedding="shed-none"
        ),
        "shortest prompt": SlackParameters(crowded_order="shortest-prompt"),
        "always by deadline": SlackParameters(crowded_order="deadline"),
        "drop no class": SlackParameters(drop_class=64.0),
        "keep memory free": SlackParameters(drop_class=64.0, kv_drop=0.6),
        "least work": SlackParameters(calm_order="least-work", crowded_order="least-work", drop_class=0.25),
        "keep conversations": SlackParameters(calm_shedding="shed-none"),
        "keep by class": SlackParameters(keep_until=0.0),
        "drafts for all": SlackParameters(drafted_rows=16.0),
    },
}


def usable_entries(policy: str, training: Collection[str], v1: bool = False) -> dict[str, dict[str, Any]]:
    """What is stored for the policy on Serving-v1, or -v0, and was tuned on the scenarios named alone, by family."""
    known = set(training)
    return {
        name: entry
        for name, entry in stored_entries(RULES[policy].file_of(v1)).items()
        if entry.get("scenarios") and set(entry["scenarios"]) <= known
    }


def starting_points(policy: str, stored: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, Value]]:
    """Guesses and stored sets by name, each parameter within its range."""
    rule = RULES[policy]
    found = {name: as_table(guess) for name, guess in GUESSES[policy].items()}
    for name, entry in stored.items():
        where = f"{rule.file.name}, {name}"
        found[f"stored {name}"] = as_table(parameters_from(where, entry["parameters"], rule.kind))
    return {
        name: {key: span.within(table[key]) for key, span in rule.ranges.items()}
        for name, table in found.items()
    }


def spent_before(entry: Mapping[str, Any] | None) -> dict[str, int]:
    """The budget of a search that one goes on from, and of those before it."""
    entry = entry or {}
    return {
        "earlier_trials": int(entry.get("trials", 0)) + int(entry.get("earlier_trials", 0)),
        "earlier_requests": int(entry.get("simulated_requests", 0)) + int(entry.get("earlier_requests", 0)),
    }
