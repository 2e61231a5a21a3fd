"""Contents of files that are almost valid: a valid one, changed at random in the way of its form."""

from __future__ import annotations

import gzip
import io
import json
import re
import struct
import tomllib
import zipfile
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from random import Random
from typing import Any

from experiments.fuzzing.values import STRANGE, as_toml, changed, text_changed

Mutation = Callable[[bytes, Random], bytes]
# Of a text, each with what ends it: a comma, quote, bracket or line.
_WORDS = re.compile(rb'[^\n,:{}\[\]"= \t]*[\n,:{}\[\]"= \t]|[^\n,:{}\[\]"= \t]+')
_TOKENS = (
    b"",
    b"\n",
    b",",
    b'"',
    b"{",
    b"}",
    b"[",
    b"]",
    b"\0",
    b"\r",
    b"\xff",
    b"\xef\xbb\xbf",
    b"-",
    b"e",
    b"9" * 50,
)


def bytes_changed(data: bytes, rng: Random) -> bytes:
    """Bytes flipped, cut out, repeated, put elsewhere or cut off."""
    out = bytearray(data)
    for _ in range(1 + min(int(rng.expovariate(0.7)), 7)):
        at, kind = rng.randrange(len(out) + 1), rng.randrange(7)
        # Half of the changes near the start, where files say what they are.
        if rng.random() < 0.3:
            at = min(at, rng.randrange(64))
        length = rng.choice((1, 1, 2, 4, 8, 50))
        if kind == 0 and at < len(out):
            out[at] ^= 1 << rng.randrange(8)
        elif kind == 1 and at < len(out):
            out[at] = rng.choice((0, 1, 0x7F, 0x80, 0xFF, rng.randrange(256)))
        elif kind == 2:
            del out[at : at + length]
        elif kind == 3:
            out[at:at] = rng.choice(_TOKENS)
        elif kind == 4:
            out[at:at] = out[at : at + length]
        elif kind == 5 and len(out) >= at + 8:
            out[at : at + 8] = struct.pack("<q", rng.choice((0, -1, 1, 2**31, 2**62, -(2**63), len(out))))
        elif kind == 6 and rng.random() < 0.3:
            del out[at:]
    return bytes(out)


def words_changed(data: bytes, rng: Random) -> bytes:
    """Words of a text replaced, dropped, repeated or swapped; a word ends at a comma, quote, bracket or line."""
    words = _WORDS.findall(data)
    for _ in range(1 + min(int(rng.expovariate(0.7)), 5)):
        if not words:
            break
        at, kind = rng.randrange(len(words)), rng.randrange(6)
        if kind == 0:
            strange = str(rng.choice(STRANGE)) if rng.random() < 0.8 else "7" * 5000
            words[at] = strange.encode("utf-8", "replace") + words[at][-1:]
        elif kind == 1:
            del words[at]
        elif kind == 2:
            words.insert(at, rng.choice(words))
        elif kind == 3:
            other = rng.randrange(len(words))
            words[at], words[other] = words[other], words[at]
        elif kind == 4:
            words[at] = text_changed(words[at].decode("utf-8", "replace"), rng).encode("utf-8", "replace")
        else:
            words.insert(at, rng.choice(_TOKENS))
    return b"".join(words)


def _by_parts(parse: Callable[[bytes], Any], write: Callable[[Any], bytes]) -> Mutation:
    """Mostly the parts of what the file says; sometimes its words or its bytes."""

    # Read as JSON, which is the quickest copy of what was parsed once.
    @lru_cache(maxsize=32)
    def parsed(data: bytes) -> str:
        return _dumps(parse(data))

    def mutate(data: bytes, rng: Random) -> bytes:
        kind = rng.random()
        if kind < 0.7:
            return write(changed(json.loads(parsed(data)), rng))
        return (words_changed if kind < 0.9 else bytes_changed)(data, rng)

    return mutate


def _json(data: Any) -> bytes:
    return _dumps(data).encode("utf-8", "replace")


def _dumps(data: Any) -> str:
    # Python refuses to write numbers of thousands of digits, and STRANGE has none.
    return json.dumps(data)


def _json_lines(data: Any) -> bytes:
    return "".join(_dumps(line) + "\n" for line in (data if isinstance(data, list) else [data])).encode()


def text(data: bytes, rng: Random) -> bytes:
    """A text without parts that are known, such as CSV."""
    return (words_changed if rng.random() < 0.8 else bytes_changed)(data, rng)


def gzipped(inner: Mutation) -> Mutation:
    """Gzip around a changed content, or changed itself."""

    def mutate(data: bytes, rng: Random) -> bytes:
        if rng.random() < 0.5:
            return gzip.compress(inner(gzip.decompress(data), rng), 1)
        return bytes_changed(data, rng)

    return mutate


def zipped(data: bytes, rng: Random) -> bytes:
    """A ZIP archive with one of its files changed, or changed itself."""
    if rng.random() < 0.5:
        return bytes_changed(data, rng)
    out = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(data)) as old, zipfile.ZipFile(out, "w") as new:
        entries = old.infolist()
        which = rng.randrange(len(entries))
        for k, entry in enumerate(entries):
            content = old.read(entry)
            new.writestr(entry.filename, bytes_changed(content, rng) if k == which else content)
    return out.getvalue()


def safetensors(data: bytes, rng: Random) -> bytes:
    """A file of safetensors with its header, its numbers or anything changed."""
    kind = rng.random()
    if kind < 0.3:
        return bytes_changed(data, rng)
    length = int.from_bytes(data[:8], "little")
    header, numbers = data[8 : 8 + length], data[8 + length :]
    if kind < 0.8:
        header = _json(changed(json.loads(header), rng))
    else:
        numbers = bytes_changed(numbers, rng) if numbers else b"\0"
    return len(header).to_bytes(8, "little") + header + numbers


def state(data: bytes, rng: Random) -> bytes:
    """A training's state: its plain data, which is text within the header, or as any file of safetensors."""
    if rng.random() < 0.5:
        return safetensors(data, rng)
    length = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + length])
    header["__metadata__"]["state"] = _dumps(changed(json.loads(header["__metadata__"]["state"]), rng))
    text = _json(header)
    return len(text).to_bytes(8, "little") + text + data[8 + length :]


FORMS: Mapping[str, Mutation] = {
    "json": _by_parts(json.loads, _json),
    "json-lines": _by_parts(lambda data: [json.loads(line) for line in data.splitlines()], _json_lines),
    "toml": _by_parts(
        lambda data: tomllib.loads(data.decode()), lambda data: as_toml(data).encode("utf-8", "replace")
    ),
    "text": text,
    "gzip": gzipped(text),
    "zip": zipped,
    "parquet": bytes_changed,
    "safetensors": safetensors,
    "state": state,
}


def mutated(seeds: Sequence[bytes], form: str, rng: Random) -> bytes:
    """A changed one of the valid contents; sometimes a valid one with the end of another."""
    data = rng.choice(seeds)
    if rng.random() < 0.03:
        other = rng.choice(seeds)
        data = data[: rng.randrange(len(data) + 1)] + other[rng.randrange(len(other) + 1) :]
        return data
    return FORMS[form](data, rng)
