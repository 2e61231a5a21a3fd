"""Plain data that is changed at random: a field here, a level there, each value to one that readers stumble over."""

from __future__ import annotations

import copy
import json
import math
from collections.abc import Iterator
from random import Random
from typing import Any

# What has broken readers of numbers, texts and tables before; ints beyond 64 bits are numbers of JSON and of TOML.
STRANGE: tuple[Any, ...] = (
    *(
        0,
        1,
        -1,
        2,
        7,
        127,
        255,
        2**15,
        2**31 - 1,
        2**31,
        2**53 + 1,
        2**63 - 1,
        2**63,
        -(2**63) - 1,
        2**64,
        10**30,
    ),
    *(10**400, 0.0, -0.0, 0.5, 1e-320, 5e-324, 1e-30, 1.5, 1e30, 1.7e308, math.inf, -math.inf, math.nan),
    *(
        True,
        False,
        None,
        "",
        " ",
        "a",
        "0",
        "-1",
        "1e5",
        "nan",
        "inf",
        "1_000",
        "٣",
        "x" * 200,
        "papi",
        "llama-65b",
    ),
    *(
        "../x",
        "/etc/passwd",
        "/dev/zero",
        "~",
        ".",
        "..",
        "a/b",
        "a\\b",
        "*",
        "\n",
        "\0",
        "\ud800",
        "é",
        "\u202e",
        "😀",
    ),
    *(
        "${HOME}",
        "%s%n",
        "{0}",
        "$\\frac{$",
        "[red]",
        "<b>",
        "'",
        '"',
        "__class__",
        "nan.toml",
        "file:///etc/passwd",
    ),
    *(
        [],
        {},
        [[]],
        [{}],
        {"": 1},
        {"base": "papi"},
        {"hf": "../x"},
        [1, 2],
        ["a", 1],
        [None],
        {"a": {"b": {}}},
    ),
)


def changed(data: Any, rng: Random) -> Any:
    """Plain data with one to four changes; what is given may be changed itself."""
    # A root that can be replaced, too.
    root = [data]
    for _ in range(1 + min(int(rng.expovariate(1.0)), 3)):
        places = list(_places(root))
        holder, key = places[rng.randrange(len(places))]
        _change(holder, key, places, rng)
    return root[0]


def _places(data: Any) -> Iterator[tuple[Any, Any]]:
    """Every value by what holds it and its key or position."""
    waiting = [data]
    while waiting:
        holder = waiting.pop()
        for key in list(holder) if isinstance(holder, dict) else range(len(holder)):
            yield holder, key
            if isinstance(holder[key], (dict, list)):
                waiting.append(holder[key])


def _change(holder: Any, key: Any, places: list[tuple[Any, Any]], rng: Random) -> None:
    value, kind = holder[key], rng.random()
    if kind < 0.3:
        holder[key] = copy.deepcopy(rng.choice(STRANGE))
    elif kind < 0.45 and isinstance(value, (int, float)) and not isinstance(value, bool):
        holder[key] = _number(value, rng)
    elif kind < 0.45 and isinstance(value, str):
        holder[key] = text_changed(value, rng)
    elif kind < 0.6 and isinstance(holder, dict):
        del holder[key]
        if rng.random() < 0.7:
            holder[text_changed(str(key), rng)] = value
    elif kind < 0.7 and isinstance(value, list):
        _resize(value, rng)
    elif kind < 0.8 and isinstance(value, dict):
        value[rng.choice(("", "a", "base", "name", "\ud800", "x" * 100))] = copy.deepcopy(rng.choice(STRANGE))
    elif kind < 0.95:
        # A part of the same document at a place where another belongs.
        other, at = places[rng.randrange(len(places))]
        if _size(other[at]) < 5000:
            holder[key] = copy.deepcopy(other[at])
    else:
        for _ in range(rng.choice((1, 3, 60))):
            value = [value] if rng.random() < 0.5 else {"a": value}
        holder[key] = value


def _size(value: Any) -> int:
    return sum(1 for _ in _places([value]))


def _number(value: float, rng: Random) -> Any:
    try:  # some numbers are beyond those with a point
        with_float = (value * 1e6, value * 1e-9, value / 3)
        whole = (value + 1, value - 1, -value, value * 2, float(value), str(value))
        return rng.choice((*whole, *with_float, int(value)))
    except (OverflowError, ValueError):
        return 0


def _resize(value: list[Any], rng: Random) -> None:
    kind = rng.randrange(4)
    if kind == 0 or not value:
        value.append(copy.deepcopy(rng.choice(STRANGE)))
    elif kind == 1:
        del value[rng.randrange(len(value))]
    elif kind == 2:
        value.insert(rng.randrange(len(value) + 1), copy.deepcopy(rng.choice(value)))
    elif len(value) < 1000:
        value *= rng.choice((0, 2, 20))


def text_changed(text: str, rng: Random) -> str:
    """A text with a character less, more, or another."""
    at = rng.randrange(len(text) + 1)
    new = rng.choice(("", "x", "-", " ", ".", "/", "\0", "é", "_", "9", text))
    return text[:at] + new + text[at + rng.randrange(2) :]


def as_toml(data: Any) -> str:
    """Plain data as TOML, everything inline; None has no form there, and becomes a text."""
    if not isinstance(data, dict):
        return _toml(data)
    return "".join(f"{_toml(str(key))} = {_toml(value)}\n" for key, value in data.items())


def _toml(value: Any) -> str:
    if isinstance(value, dict):
        return "{" + ", ".join(f"{_toml(str(key))} = {_toml(inner)}" for key, inner in value.items()) + "}"
    if isinstance(value, (list, tuple)):
        return "[" + ", ".join(map(_toml, value)) + "]"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float):
        return repr(value)
    if isinstance(value, int):
        return str(value)
    text = str(value).encode("utf-8", "replace").decode()
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")
