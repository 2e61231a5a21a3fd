"""Who sends requests in the presets with classes: what they ask for, expect and are worth, with published sources.

A sender is a class of requests but for the objectives, which depend on the model. Contexts of 2048 tokens ("short",
LLaMA-65B and GPT-3) and of 40,960 and more ("long") hold different conversations, so lengths are given for both.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, TypeAlias, TypeVar

from papi_env.workload.objectives import Objectives
from papi_env.workload.presets import ASSISTANT
from papi_env.workload.requests import Lengths
from papi_env.workload.service import Conversation, RequestClass

T = TypeVar("T")
Context = Literal["short", "long"]
CONTEXTS: tuple[Context, ...] = ("short", "long")
Promise = Literal["premium", "interactive", "standard", "long-prompts", "batch"]
Talk: TypeAlias = Mapping[Context, Conversation]

# What is promised to whom. The models of 65-70 GB at 16 bits have what MLPerf Inference asks of Llama-2 70B. Its server
# scenario is the standard (2 s, 200 ms; v5.0), its interactive one premium (450 ms, 40 ms; checked in NVIDIA's and
# AMD's reports on v5.0): there a single long prompt before another one makes it late on these GPUs. chosen: people at a
# screen have half of the standard, 1 s and 100 ms; range from one to the other, so that mostly the load decides, and
# not the objective. Long prompts have the server scenario of Llama-3.1 405B (6 s, 175 ms; checked). Batch: nobody
# watches. chosen: the slackest of these, 6 s and 200 ms; range to DistServe's 15 s and 150 ms for summaries (Zhong et
# al., OSDI 2024; checked in the scripts of its figure 9): longer ones need longer episodes, see
# `service_presets.HORIZON_S`.
_OF_70B: Mapping[Promise, Objectives] = {
    "premium": Objectives(ttft_s=0.45, tpot_s=0.04),
    "interactive": Objectives(ttft_s=1.0, tpot_s=0.1),
    "standard": Objectives(ttft_s=2.0, tpot_s=0.2),
    "long-prompts": Objectives(ttft_s=6.0, tpot_s=0.175),
    "batch": Objectives(ttft_s=6.0, tpot_s=0.2),
}
PROMISES: Mapping[str, Mapping[Promise, Objectives]] = {
    "llama-65b": _OF_70B,
    "llama-3.1-70b": _OF_70B,
    # chosen: twice the time to the first token, since a prompt token takes 2.1 times as long; DistServe promises 4 s
    # and 200 ms to chats with OPT-175B (checked in the scripts of its figure 8). Range 1-4 s.
    "gpt3-175b": {
        **_OF_70B,
        "premium": Objectives(ttft_s=0.9, tpot_s=0.08),
        "interactive": Objectives(ttft_s=2.0, tpot_s=0.2),
        "standard": Objectives(ttft_s=4.0, tpot_s=0.2),
    },
    # MLPerf Inference v5.1's Llama-3.1 8B: server 2 s, 100 ms; interactive 500 ms, 30 ms. chosen: as above, half of the
    # former.
    "qwen3-30b-a3b": {
        **_OF_70B,
        "premium": Objectives(ttft_s=0.5, tpot_s=0.03),
        "interactive": Objectives(ttft_s=1.0, tpot_s=0.05),
        "standard": Objectives(ttft_s=2.0, tpot_s=0.1),
    },
}

# Nah (Behaviour & Information Technology 23(3), 2004): people wait 13 s on average without, and 38 s with a sign that
# something happens. Its abstract says that such a sign prolongs the wait, and 2 s for what they would tolerate; the two
# means are not checked. Range: 2 s (there), 10 s, after which attention is lost (Nielsen, 1993), to minutes in
# telephone queues.
PEOPLE_WAIT_S = (13.0, 38.0)
# The default time-out of OpenAI's client library.
PROGRAMS_WAIT_S = (600.0, 600.0)

# Prices of OpenAI's tiers over the standard one: priority 1.75 (GPT-4.1) to 2.5 (GPT-5.5), batch and flex 0.5.
PRIORITY, STANDARD, HALF_PRICE = 2.0, 1.0, 0.5

# Think times of people: InferCept (Abhyankar et al., ICML 2024, table 1; not checked) has 28.6 +- 15.6 s in chats;
# ServeGen (Xiang et al., 2025; not checked) about 100 s in production with a long tail, and 3.5 turns in conversations
# of several; ShareGPT has 3.51 (checked: ShareChat, arXiv 2512.17843, table 1), WildChat 2.54 (checked), LMSYS-Chat-1M
# 2.0 (Zhao et al., ICLR 2024, table 1). chosen: a deviation of 1, range 0.5 (InferCept) to 1.5.
_TURNS, _THINK_S, _THINK_SIGMA = 3.5, 28.6, 1.0
# Calls of a task: InferCept has 2.5 (questions), 3.8 (mathematics) and 28 (a virtual environment; its authors' page
# says 3 to 28 on average, the others are not checked), Codex 33 on SWE-bench Pro. chosen: 5 and 8, so that tasks end
# within an episode; range 2.5-33. Tools take 0.09-0.7 s there (not checked), and 17-20 s where they paint or speak;
# tests of software take seconds. chosen: a median of 2 s with a deviation of 1, half of them between 1 and 4 s; range
# 0.1-20 s.
_CALLS: Mapping[Context, float] = {"short": 5.0, "long": 8.0}
_TOOL_S, _TOOL_SIGMA = 2.0, 1.0

# System prompts and tools. Agents: semianalysisai/cc-traces-weka-042026 has 498-7,460 and 890-17,300 tokens; tasks of
# Codex begin with 12,278, hardly different from one to the next (99 %: 13,744). chosen: 8192, range 1,400-24,700; 512
# where contexts end at 2048 (ReAct prompts; range 256-1024). People: chosen 1024 and 128; published system prompts of
# chat services have some hundred to some thousand tokens.
_TOOLS: Mapping[Context, int] = {"short": 512, "long": 8192}
_INSTRUCTIONS: Mapping[Context, int] = {"short": 128, "long": 1024}


def _both(value: T) -> Mapping[Context, T]:
    return {"short": value, "long": value}


def _talk(turns: Mapping[Context, float], think_s: float, sigma: float, later: Mapping[Context, str]) -> Talk:
    return {
        context: Conversation(
            turns=turns[context], think_s=think_s, think_sigma=sigma, lengths=Lengths(table=later[context])
        )
        for context in CONTEXTS
    }


@dataclass(frozen=True, kw_only=True)
class Sender:
    """Senders of one class; what depends on the context has a value for each.

    Attributes:
        promise: what is promised to them.
        weight: what an output token of theirs is worth, or a request.
        lengths: of their requests, or first turns: names of length tables.
        texts: kinds of text, which decide how many drafts pass.
        patience_s: see `RequestClass`.
        talk: their conversations, where they have some.
        prefix: tokens that all their prompts begin with.
    """

    promise: Mapping[Context, Promise]
    weight: float
    lengths: Mapping[Context, str]
    texts: Mapping[str, float]
    patience_s: tuple[float, float] | None = None
    talk: Talk | None = None
    prefix: Mapping[Context, int] = field(default_factory=lambda: _both(0))

    def entry(self, model: str, context: Context, share: float) -> RequestClass:
        """The class of requests that they are on a model."""
        return RequestClass(
            share=share,
            weight=self.weight,
            objectives=PROMISES[model][self.promise[context]],
            lengths=Lengths(table=self.lengths[context]),
            acceptance=dict(self.texts),
            patience_s=self.patience_s,
            conversation=None if self.talk is None else self.talk[context],
            shared_prefix=self.prefix[context],
        )


SENDERS: Mapping[str, Sender] = {
    # People who wait in front of a screen and ask once.
    "interactive": Sender(
        promise=_both("interactive"),
        weight=PRIORITY,
        lengths=_both("sharegpt-request"),
        texts=ASSISTANT,
        patience_s=PEOPLE_WAIT_S,
    ),
    # The same people, who pay for the fastest answers.
    "premium": Sender(
        promise=_both("premium"),
        weight=PRIORITY,
        lengths=_both("sharegpt-request"),
        texts=ASSISTANT,
        patience_s=PEOPLE_WAIT_S,
    ),
    "standard": Sender(
        promise=_both("standard"),
        weight=STANDARD,
        lengths=_both("azure-conversation"),
        texts=ASSISTANT,
        patience_s=PEOPLE_WAIT_S,
    ),
    # The same requests at half the price, as the batch tiers sell them.
    "batch": Sender(
        promise=_both("batch"),
        weight=HALF_PRICE,
        lengths=_both("azure-conversation"),
        texts={"writing": 1.0},
    ),
    # Summaries of documents over night.
    "summaries": Sender(
        promise=_both("batch"),
        weight=HALF_PRICE,
        lengths=_both("longbench-request"),
        texts={"writing": 1.0},
    ),
    # People who chat and ask once: short questions, long answers, so that decoding and the memory for keys and values
    # decide. Those who pay for priority, those who do not, and writing that nobody waits for.
    "subscribers": Sender(
        promise=_both("interactive"),
        weight=PRIORITY,
        lengths=_both("wildchat-turn"),
        texts=ASSISTANT,
        patience_s=PEOPLE_WAIT_S,
    ),
    "visitors": Sender(
        promise=_both("standard"),
        weight=STANDARD,
        lengths=_both("wildchat-turn"),
        texts=ASSISTANT,
        patience_s=PEOPLE_WAIT_S,
    ),
    "writing": Sender(
        promise=_both("batch"),
        weight=HALF_PRICE,
        lengths=_both("wildchat-turn"),
        texts={"writing": 1.0},
    ),
    "people": Sender(
        promise=_both("interactive"),
        weight=PRIORITY,
        lengths={"short": "lmsys-chat-turn", "long": "wildchat-turn"},
        texts=ASSISTANT,
        patience_s=PEOPLE_WAIT_S,
        talk=_talk(
            _both(_TURNS), _THINK_S, _THINK_SIGMA, {"short": "lmsys-chat-turn", "long": "wildchat-turn"}
        ),
        prefix=_INSTRUCTIONS,
    ),
    # Programs that call tools between two answers. chosen: half code, half tools; range all of either.
    "agents": Sender(
        promise={"short": "standard", "long": "long-prompts"},
        weight=STANDARD,
        lengths={"short": "react-call", "long": "codex-call"},
        texts={"code": 0.5, "tools": 0.5},
        patience_s=PROGRAMS_WAIT_S,
        talk=_talk(_CALLS, _TOOL_S, _TOOL_SIGMA, {"short": "react-call", "long": "codex-call"}),
        prefix=_TOOLS,
    ),
    # People who ask again and again about a long text. On contexts of 2048 tokens few have room for a second question.
    "readers": Sender(
        promise={"short": "standard", "long": "long-prompts"},
        weight=STANDARD,
        lengths={"short": "longbench-request", "long": "mlperf-405b"},
        texts={"questions": 1.0},
        patience_s=PEOPLE_WAIT_S,
        talk=_talk(_both(_TURNS), _THINK_S, _THINK_SIGMA, {"short": "react-call", "long": "lmsys-chat-turn"}),
    ),
}
