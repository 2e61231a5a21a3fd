"""Who asks for what: classes of requests with their own objectives and worth, and conversations of several turns.

A class says what its requests are worth, by when they must be served, how long their senders wait, and whether they
belong to conversations. What a class leaves out it takes from the serving scenario that it belongs to.
"""

from __future__ import annotations

import re
from typing import Literal

from pydantic import Field, field_validator, model_validator

from papi_env.definition import Definition
from papi_env.errors import shortened
from papi_env.quantities import Count, Number, Ratio, Share, SpanSeconds, Truth, Whole
from papi_env.workload.objectives import Objectives
from papi_env.workload.requests import Lengths
from papi_env.workload.traces.sessions import MOST_TURNS

# chosen: as many as the four that are usual, interactive, standard, batch and agent; each has features of its own.
MAX_CLASSES = 4
# Kinds of text of a class, as of `Speculation`.
MAX_TEXTS = 16
# What names columns of results and observations, too. chosen: up to 32 characters (range 16-64).
_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_-]{0,31}", re.ASCII)
# Requests that wait, and conversations that are open, at most. chosen: two full machines of either (range 64-4096);
# what comes beyond is refused, as servers do.
MAX_WAITING = 512
MAX_OPEN = 512


class Conversation(Definition):
    """Several turns, each of which goes on from all that was said before.

    The prompt of a turn is the whole context so far and a new part; the new part and the answer are drawn from
    `lengths` (by default from those of the class, which are of first turns). After each turn another follows with the
    same chance, so that there are `turns` on average, and at most `most_turns`; a conversation also ends where a turn
    would not fit into the model's context. The next turn comes a think time after the answer is complete, lognormal
    with median `think_s` and `think_sigma` of its logarithm.
    """

    turns: Ratio = Field(ge=1, le=MOST_TURNS)
    most_turns: Count = Field(MOST_TURNS, ge=1, le=MOST_TURNS)
    think_s: SpanSeconds = Field(gt=0, le=1e5)
    think_sigma: Number = Field(1.0, ge=0, le=4)
    lengths: Lengths | None = None

    @model_validator(mode="after")
    def _ends(self) -> Conversation:
        if self.turns > 1 and self.turns >= self.most_turns:
            raise ValueError(
                f"turns is {self.turns:g} on average with most_turns = {self.most_turns}, so that conversations would "
                f"never end by themselves: expected turns below most_turns, or 1"
            )
        return self


class RequestClass(Definition):
    """One class of requests.

    Attributes:
        share: of all sessions (conversations, and requests that are none); shares are normalised.
        weight: what one output token within the objectives is worth, or one request (see `Service.worth`).
        objectives, lengths: None for those of the serving scenario.
        acceptance: shares of the kinds of text that decide how many drafts pass, as in `Speculation.classes`; None
            for those of the scenario.
        patience_s: a request that has waited so long without being admitted is given up by its sender: evenly drawn
            between the two; None: senders wait for ever. Schedulers do not know it.
        conversation: None where every request stands alone.
        shared_prefix: so many tokens at the start of every prompt are the same in all of the class (a system prompt,
            descriptions of tools). Their full KV pages are computed once, and counted once.
    """

    share: Number = Field(1.0, ge=0, le=1e6)
    weight: Ratio = Field(1.0, gt=0, le=1e6)
    objectives: Objectives | None = None
    lengths: Lengths | None = None
    acceptance: dict[str, Number] | None = None
    patience_s: tuple[SpanSeconds, SpanSeconds] | None = None
    conversation: Conversation | None = None
    shared_prefix: Whole = Field(0, ge=0, le=1_000_000)

    @field_validator("patience_s")
    @classmethod
    def _shorter_first(cls, patience: tuple[float, float] | None) -> tuple[float, float] | None:
        if patience is not None and patience[0] > patience[1]:
            raise ValueError(f"{patience[0]:g} to {patience[1]:g} s, expected the shorter one first")
        return patience

    @field_validator("acceptance")
    @classmethod
    def _shares(cls, shares: dict[str, float] | None) -> dict[str, float] | None:
        # Whether the kinds of text are known says the scenario, which may define its own (`Serving`).
        if shares is None:
            return None
        if not 1 <= len(shares) <= MAX_TEXTS:
            raise ValueError(f"{len(shares)} kinds of text, expected 1 to {MAX_TEXTS}")
        for name, share in shares.items():
            if share < 0:
                raise ValueError(f"share of {name!r} is {share:g}, expected at least 0")
        if not sum(shares.values()) > 0:
            raise ValueError("shares of the kinds of text are all 0, expected one above")
        return shares


class Service(Definition):
    """Whom a serving scenario serves, and what comes of being late.

    Attributes:
        classes: by name, at most four; by default one that takes everything from the scenario.
        charge: of the worth of a request that is late, dropped, refused or given up, and of the turns that a
            conversation loses with it, so much is subtracted from the reward.
        worth: whether a weight counts for every output token of a request or once.
        max_waiting: requests that wait at most; max_open: conversations that are open at most. Others are refused.
        drain: sessions arrive until the horizon, and the episode goes on until all of them are over; without, it is
            cut at the horizon.
    """

    classes: dict[str, RequestClass] = Field({"standard": RequestClass()})
    charge: Share = Field(0.0, ge=0, le=1)
    worth: Literal["tokens", "requests"] = "tokens"
    max_waiting: Count = Field(MAX_WAITING, ge=1, le=4096)
    max_open: Count = Field(MAX_OPEN, ge=1, le=4096)
    drain: Truth = True

    def lengths(self) -> dict[str, Lengths]:
        """Where the lengths of classes ("people") and of their later turns ("people.conversation") come from.

        Only those that have their own.
        """
        found: dict[str, Lengths | None] = {}
        for name, entry in self.classes.items():
            talk = entry.conversation
            found |= {name: entry.lengths, f"{name}.conversation": None if talk is None else talk.lengths}
        return {name: lengths for name, lengths in found.items() if lengths is not None}

    @model_validator(mode="after")
    def _classes(self) -> Service:
        if not 1 <= len(self.classes) <= MAX_CLASSES:
            raise ValueError(f"{len(self.classes)} classes, expected 1 to {MAX_CLASSES}")
        for name in self.classes:
            if not _NAME.fullmatch(name):
                raise ValueError(
                    f"a class is called {shortened(repr(name), 60)}, expected a letter and up to 31 letters, digits, "
                    "'-' and '_'"
                )
        if not sum(entry.share for entry in self.classes.values()) > 0:
            raise ValueError("shares of the classes are all 0, expected one above")
        return self
