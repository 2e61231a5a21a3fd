"""What the experiments write and print stays what it was.

Small runs of each command, beside the text files that they left: every name and its place exact, whole numbers and
text exact, other numbers to nine digits (bootstraps use logarithms whose last bit differs among processors). Left
out is what differs from run to run: times, versions, digests of code, and where the run folder is. Run this file as a
script to write `tests/data/frozen_results` anew, after a change that is meant.
"""

import contextlib
import csv
import io
import json
import math
import re
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

import agents
from experiments import compare, distill, headroom, leaderboard, serve

FROZEN = Path(__file__).resolve().parents[1] / "data" / "frozen_results"
DECODE, KERNELS, SERVING = "papi_env/Decode-v0", "papi_env/Kernels-v0", "papi_env/Serving-v0"
# What a person finds in a run folder, of which pictures and ONNX files are not text.
FILES = ("results.csv", "summary.json", "rule.txt", "trace.json", "policy/tree.json")
# Keys of what differs from run to run, by the file.
VOLATILE = {
    "run.json": ("policy_sources", "policy_source"),
    "summary.json": ("decision_s", "tree.json", "tree.onnx"),
    "policy/tree.json": ("training", "sha256"),
}
TINY = """
system = "papi"
model = "llama-65b"
[serving]
horizon_s = 2.0
arrivals = { process = "poisson", rate_per_s = 30.0 }
lengths = { input = 300, output = 8 }
objectives = { ttft_s = 0.5, tpot_s = 0.05 }
max_running = 16
"""
PRICED = """
energy_weight = 1e-3
system = "papi-pim-only"
model = "llama2-70b"
[serving]
requests = 12
arrivals = { process = "gamma", rate_per_s = 8.0, shape = 0.5 }
lengths = { table = "dolly-general-qa" }
objectives = { ttft_s = 2.0, tpot_s = 0.05 }
drift = { period_s = 1.0 }
max_running = 8
"""
TRACE = "TIMESTAMP,ContextTokens,GeneratedTokens\n0.0,100,10\n0.5,2000,49\n0.5,700,5\n1.5,30,1\n20.0,512,30\n"
# fmt: off
# Commands by the names of their records; FOLDER is where the scenarios are.
RUNS = {
    "compare_decode": (
        compare, "--scenario", "general-qa/opt-30b", "creative-writing/gpt3-66b", "--batch-sizes", 16,
        "--speculation", 2, "--acceptance-rate", 0.8, "--seeds", 2, "--jobs", 1, "--entries", "a100-attacc/static",
        "attacc-only/static", "papi/static-pu", "papi/random", "papi/threshold", "papi/adaptive", "papi/learned",
        "papi/oracle", "papi-1gpu/threshold",
    ),
    "compare_readings": (
        compare, "--env", KERNELS, "--scenario", "vision-language", "--batch-sizes", 8, "--speculation", 1, "--seeds",
        1, "--jobs", 1, "--entries", "papi/static-pu", "papi/adaptive", "papi/oracle", "--constants", "reproduction",
        "--gpu-bandwidth", "hbm3", "--bank-rate", "papi", "--energy-weight", 1e-3, "--switch-s", 1e-5,
    ),
    "compare_images": (compare, "--env", KERNELS, "--scenario", "vision-stream", "--seeds", 2, "--jobs", 1),
    "compare_serving": (
        compare, "--env", SERVING, "--scenario", "FOLDER/tiny.toml", "FOLDER/priced.toml", "--seeds", 2, "--jobs", 1,
        "--entries", "papi/threshold", "papi/random", "papi/heuristic", "papi/learned", "papi/oracle",
    ),
    "headroom": (
        headroom, "--presets", "FOLDER/tiny.toml", "FOLDER/priced.toml", "--seeds", 2, "--jobs", 1, "--policies",
        "threshold", "best-threshold", "best-fixed", "profile-greedy", "oracle",
    ),
    "leaderboard_decode": (
        leaderboard, "--env", DECODE, "--seeds", 3, "--jobs", 1, "--no-latency", "--policies", "static-pu",
        "threshold", "adaptive", "oracle", "--learned", "ours=FOLDER/decode-v0",
    ),
    "leaderboard_serving": (
        leaderboard, "--env", SERVING, "--seeds", 2, "--jobs", 1, "--no-latency", "--policies", "threshold",
        "best-threshold", "heuristic", "search", "--slow-seeds", 1, "--learned", "ours=FOLDER/serving-v0",
    ),
    "serve": (
        serve, "--preset", "light/llama-65b", "--policies", "threshold", "oracle", "--seeds", 2,
        "--gantt", 0.5, 0.53, "--trace-json",
    ),
    "serve_trace": (serve, "--trace", "FOLDER/trace.csv", "--time-scale", 2, "--policies", "threshold"),
    "distill_decode": (
        distill, "--policy", "learned", "--env", DECODE, "--baseline", "static-pu", "--rounds", 2, "--seeds", 2,
        "--samples", 2000, "--leaves", 8, "--scenarios", "general-qa/opt-30b",
    ),
    "distill_serving": (
        distill, "--policy", "heuristic", "--env", SERVING, "--rounds", 2, "--seeds", 2, "--samples", 2000,
        "--leaves", 12, "--keep", 1.0, "--scenarios", "FOLDER/tiny.toml", "FOLDER/priced.toml",
    ),
}
# fmt: on
# Of the test splits: known ones, and some with something new.
SETTINGS = {
    DECODE: (
        "general-qa/llama-65b, batch 64, speculation 2",
        "general-qa/opt-30b, batch 64, speculation 1",
        "general-qa/gpt3-175b, batch 64, speculation 4",
    ),
    SERVING: ("saturated/llama-65b", "drifting/gpt3-175b", "short-context/llama2-70b"),
}


def shrunken(env, whole):
    """A split with three of its settings; those of serving are cut short."""
    settings = tuple(setting for setting in whole.settings if setting.name in SETTINGS[env])
    assert len(settings) == len(SETTINGS[env])
    if env == SERVING:
        short = {"horizon_s": 8.0}
        settings = tuple(replace(s, scenario=s.scenario.replace(serving=short)) for s in settings)
    return replace(whole, settings=settings)


def inputs(folder):
    """Write what the commands read: scenarios, a trace, and runs that trained the policies in the package."""
    (folder / "tiny.toml").write_text(TINY)
    (folder / "priced.toml").write_text(PRICED)
    (folder / "trace.csv").write_text(TRACE)
    for name in ("decode-v0", "serving-v0"):
        shutil.copytree(Path(agents.__file__).parent / "pretrained" / name, folder / name / "best")
        session = {"status": "finished", "wall_s": 2.0, "steps": 640}
        record = {"experiment": "train", "configuration": {}, "sessions": [session]}
        (folder / name / "run.json").write_text(json.dumps(record))


def without(data, names):
    """Plain data without the keys `names`, wherever they are."""
    if isinstance(data, dict):
        return {key: without(value, names) for key, value in data.items() if key not in names}
    return [without(value, names) for value in data] if isinstance(data, list) else data


def compact(data):
    return json.dumps(data, ensure_ascii=False, separators=(",", ":")) + "\n"


def steady(printed):
    """What a command printed, without times."""
    printed = re.sub(r"[\d.]+ s on (\d+) cores", r"# s on \1 cores", printed)
    printed = re.sub(r"(wall time of the replay \(s\)).*", r"\1 #", printed)
    # Distilling prints decision times in a table, whose columns are as wide as they.
    printed = re.sub(r"^ +(bytes  us, one of).*", r"\1", printed, flags=re.M)
    return re.sub(
        r"^(tree|teacher|baseline) +([\d,-]+) +[\d.-]+ +[\d.]+ +[\d.-]+ *$", r"\1 \2", printed, flags=re.M
    )


def played(name, folder):
    """Texts that a command leaves, by the name of the file; `printed.txt` is what it prints."""
    module, *arguments = RUNS[name]
    inputs(folder)
    out, err = io.StringIO(), io.StringIO()
    run = folder / "run"
    with (
        pytest.MonkeyPatch.context() as patch,
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
    ):
        if module is leaderboard:
            load = leaderboard.load_split
            patch.setattr(
                leaderboard, "load_split", lambda env, split, traces: shrunken(env, load(env, split, traces))
            )
        asked = [str(argument).replace("FOLDER", str(folder)) for argument in arguments]
        status = module.main([*asked, "--out", str(run)])
    assert status == 0, err.getvalue()
    texts = {"printed.txt": steady(out.getvalue())}
    record = without(json.loads((run / "run.json").read_text())["configuration"], VOLATILE["run.json"])
    texts["configuration.json"] = compact(record)
    for file in FILES:
        if not (run / file).exists():
            continue
        text = (run / file).read_text()
        if file.endswith(".json"):
            text = compact(without(json.loads(text), VOLATILE.get(file, ())))
        texts[file.replace("/", "_")] = text
    return {file: text.replace(str(folder), "FOLDER") for file, text in texts.items()}


# --- comparison -------------------------------------------------------------------------------------


def close(ours, theirs):
    """Whether two numbers are the same to nine digits; what is zero but for rounding is zero."""
    return math.isclose(ours, theirs, rel_tol=1e-9, abs_tol=1e-12)


def same_cell(ours, theirs):
    """Whether two cells of a table are the same."""
    if ours == theirs:
        return True
    try:
        whole = "." not in theirs and "e" not in theirs
        return not whole and close(float(ours), float(theirs))
    except ValueError:
        return False


def differences(ours, theirs, where=""):
    """Where two pieces of plain data differ: their keys in order, their lengths, their values."""
    if isinstance(ours, dict) and isinstance(theirs, dict):
        if list(ours) != list(theirs):
            return [f"{where}: keys {list(ours)}, on record {list(theirs)}"]
        return [line for key in ours for line in differences(ours[key], theirs[key], f"{where}.{key}")]
    if isinstance(ours, list) and isinstance(theirs, list) and len(ours) == len(theirs):
        pairs = enumerate(zip(ours, theirs, strict=True))
        return [line for i, (a, b) in pairs for line in differences(a, b, f"{where}[{i}]")]
    if isinstance(ours, float) and isinstance(theirs, float) and close(ours, theirs):
        return []
    if type(ours) is type(theirs) and ours == theirs:
        return []
    return [f"{where}: {ours!r}, on record {theirs!r}"]


def table_differences(ours, theirs):
    """Where two tables differ."""
    mine, recorded = (list(csv.reader(io.StringIO(text))) for text in (ours, theirs))
    if [len(row) for row in mine] != [len(row) for row in recorded] or mine[0] != recorded[0]:
        return [f"{len(mine)} rows of {mine[0]}, on record {len(recorded)} of {recorded[0]}"]
    return [
        f"row {i}, {name}: {a!r}, on record {b!r}"
        for i, (row, then) in enumerate(zip(mine, recorded, strict=True))
        for name, a, b in zip(recorded[0], row, then, strict=True)
        if not same_cell(a, b)
    ]


@pytest.mark.parametrize("name", RUNS)
def test_commands_write_and_print_what_they_did(name, tmp_path):
    now = played(name, tmp_path)
    then = {path.name: path.read_text() for path in (FROZEN / name).iterdir()}
    assert sorted(now) == sorted(then)
    for file, text in now.items():
        if file.endswith(".json"):
            assert differences(json.loads(text), json.loads(then[file])) == [], file
        elif file.endswith(".csv"):
            assert table_differences(text, then[file]) == [], file
        else:
            assert text == then[file], file


def test_the_comparison_finds_what_changed():
    whole = {"a": [1, 2.0, None], "b": "x"}
    assert differences(whole, {"a": [1, 2.0 + 1e-12, None], "b": "x"}) == []
    for other in (
        {"b": "x", "a": [1, 2.0, None]},
        {"a": [1, 2.0 + 1e-8, None], "b": "x"},
        {"a": [1.0, 2.0, None], "b": "x"},
        {"a": [1, 2.0], "b": "x"},
        {"a": [1, 2.0, None], "b": "y"},
    ):
        assert len(differences(whole, other)) == 1
    table = "name,x,n\na,1.5,3\n"
    assert table_differences(table, "name,x,n\na,1.5000000000001,3\n") == []
    for other in (
        "name,x,n\na,1.50001,3\n",
        "name,x,n\na,1.5,4\n",
        "name,n,x\na,1.5,3\n",
        "name,x,n\nb,1.5,3\n",
    ):
        assert table_differences(table, other)


if __name__ == "__main__":
    import sys
    import tempfile

    for asked in sys.argv[1:] or RUNS:
        shutil.rmtree(FROZEN / asked, ignore_errors=True)
        (FROZEN / asked).mkdir(parents=True)
        with tempfile.TemporaryDirectory() as temporary:
            for file, text in played(asked, Path(temporary)).items():
                (FROZEN / asked / file).write_text(text)
