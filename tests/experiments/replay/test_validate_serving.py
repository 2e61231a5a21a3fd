"""`experiments.validate --serving`: a made-up run of a server is replayed, and bad folders are refused."""

import json

import pytest

from experiments.replay.llmservingsim import _tables, registered_gpu, registered_model
from experiments.replay.run_folder import RunLink
from experiments.replay.validate_serving import read_run, ring, validate_serving
from experiments.validate import main
from papi_env.errors import ConfigurationError, DataError
from papi_env.hardware.collectives import all_reduce_s

FC = ("qkv_proj", "o_proj", "gate_up_proj", "down_proj")
RUN = {
    "model": "llama-3.1-8b",
    "gpu": "rtx-4090",
    "gpus": 1,
    "max_running": 8,
    "token_budget": 256,
    "page_tokens": 16,
    "kv_tokens": 4096,
    "prefix_caching": True,
}
MOMENTS = "arrival_s,queued_s,scheduled_s,first_token_s,last_token_s"
HEADER = f"input_tokens,output_tokens,{MOMENTS}"
# Microseconds of one layer, the LM head, and attention of any kind: what an iteration takes can be worked out by hand.
LAYER_US, HEAD_US, ATTENTION_US = 4 * 200.0, 1000.0, 50.0
ITERATION_S = (32 * (LAYER_US + ATTENTION_US) + HEAD_US) * 1e-6


def doubling(most):
    return [1 << k for k in range(most.bit_length())]


def write_tables(folder):
    rows = [f"{name},{n},{LAYER_US / 4}" for name in FC for n in doubling(256)]
    (folder / "dense.csv").write_text("\n".join(["layer,tokens,time_us", *rows]) + "\n")
    rows = [f"{name},{n},{HEAD_US / 2}" for name in ("lm_head", "sampler") for n in doubling(8)]
    (folder / "per_sequence.csv").write_text("\n".join(["layer,sequences,time_us", *rows]) + "\n")
    contexts = [16, 64, 256, 1024]
    points = [(0, 0, n, q) for n in doubling(8) for q in contexts]
    for c in (16, 64, 256):
        for k in (0, *contexts):
            points += [(c, k, 0, 0), *((c, k, n, q) for n in doubling(8) for q in contexts)]
    rows = [f"{c},{k},{n},{q},{ATTENTION_US}" for c, k, n, q in points]
    text = ["prefill_chunk,kv_prefill,n_decode,kv_decode,time_us", *rows]
    (folder / "attention.csv").write_text("\n".join(text) + "\n")


def row(number, length=100, output=5):
    """A request alone on the machine, which takes a prompt's iteration and four more."""
    queued = 10.0 + number
    moments = (queued - 0.1, queued, queued, queued + ITERATION_S, queued + output * ITERATION_S)
    return ",".join(map(str, (length, output, *moments)))


@pytest.fixture
def write(tmp_path):
    def write(*rows, tables=True, **changes):
        said = {name: value for name, value in {**RUN, **changes}.items() if value is not ...}
        (tmp_path / "run.json").write_text(json.dumps(said))
        (tmp_path / "requests.csv").write_text("\n".join([HEADER, *(rows or (row(0), row(1)))]) + "\n")
        if tables:
            write_tables(tmp_path)
        return tmp_path

    return write


def silent(text):
    raise AssertionError(text)


def test_a_run_that_follows_the_tables_is_replayed_to_the_microsecond(write):
    result = validate_serving(write(), silent)
    assert list(result) == ["measured", "datasheet"]
    measured = result["measured"]
    for name, seconds in (("ttft", ITERATION_S), ("tpot", ITERATION_S), ("latency", 5 * ITERATION_S)):
        assert list(measured[name]) == ["mean", "p50", "p90", "p99"]
        for numbers in measured[name].values():
            assert numbers["simulated"] == pytest.approx(seconds, rel=1e-6)
            assert numbers["real"] == pytest.approx(seconds, rel=1e-6)
            assert numbers["ratio"] == pytest.approx(1, rel=1e-6)
    assert measured["end"]["real"] == pytest.approx(1 + 5 * ITERATION_S)
    assert measured["end"]["ratio"] == pytest.approx(1)
    assert (measured["preemptions"], measured["iterations"], measured["beyond_tables"]) == (0, 10, 0)
    # By the data sheet weights alone take 16 GB / 1008 GB/s; the tables were made up.
    assert 0.015 < result["datasheet"]["tpot"]["mean"]["simulated"] < 0.025
    assert result["datasheet"]["tpot"]["mean"]["ratio"] < 1


def test_requests_are_served_in_the_order_in_which_they_were_queued(write):
    result = validate_serving(write(row(1, 60, 3), row(0, 100, 5)), silent)
    assert result["measured"]["end"]["simulated"] == pytest.approx(1 + 3 * ITERATION_S)


def test_without_tables_the_data_sheet_alone_is_given_with_the_reason(write, capsys):
    folder = write(tables=False)
    assert main(["--serving", str(folder), "--out", str(folder / "out")]) == 0
    printed = capsys.readouterr()
    assert json.loads(printed.out)["measured"] is None
    assert json.loads(printed.out)["datasheet"]["end"]["simulated"] > 1
    assert printed.out.count("\n") == 1
    assert "no measured tables" in printed.err
    assert (folder / "out" / "serving.json").read_text() == printed.out


def test_requests_of_one_token_have_no_tpot(write):
    result = validate_serving(write(row(0, 100, 1)), silent)
    assert result["measured"]["tpot"]["mean"] == {"real": None, "simulated": None, "ratio": None}
    assert result["measured"]["ttft"]["mean"]["ratio"] == pytest.approx(1, rel=1e-6)


def test_preemptions_are_counted(write):
    rows = [",".join(map(str, (100, 60, 1, 1, 1, 2, 9)))] * 4
    measured = validate_serving(write(*rows, kv_tokens=31 * 16), silent)["measured"]
    assert measured["preemptions"] > 0
    assert measured["found_tokens"] + measured["recomputed_tokens"] > 0


def test_a_ring_takes_its_hops():
    link = RunLink(bandwidth=16e9, latency_s=20e-6)
    for gpus in (2, 4, 8):
        hops = 2 * (gpus - 1)
        expected = hops * (20e-6 + 1e6 / gpus / 16e9)
        assert float(all_reduce_s(1e6, gpus, ring(link, gpus))) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"model": "llama-3.1-8"}, r"run\.json: model: .*Did you mean 'llama-3\.1-8b'\?"),
        ({"gpu": "rtx4090"}, r"run\.json: gpu: .*Did you mean 'rtx-4090'\?"),
        ({"kv_tokens": 0}, r"kv_tokens: found 0, expected a whole number of tokens"),
        ({"kv_tokens": ...}, r"kv_tokens: Field required"),
        ({"max_running": 2.5}, r"max_running: found 2\.5"),
        ({"gpus": 2}, r"link: found none for 2 GPUs"),
        ({"page_tokens": 24}, r"expected a power of two, such as 16"),
        ({"token_budget": 4}, r"token_budget is 4, expected at least a token of each of max_running = 8"),
        (
            {"token_budget": 512},
            r"dense\.csv: found tokens up to 256, expected up to 512, token_budget of the run",
        ),
        (
            {"kv_tokens": 64},
            r"requests\.csv:2: found a request of 105 tokens, expected at most 32, by kv_tokens",
        ),
        ({"kv_tokens": 1_000_000}, r"weights and KV caches need"),
        ({"gpu": "h200", "model": "qwen3-30b-a3b"}, r"found no moe\.csv, but model 'qwen3-30b-a3b' has"),
        ({"cards": 2}, r"cards: not a known field"),
        (
            {"model": "qwen3-32b", "kv_tokens": 2048},
            r"need 66\.1 GB \(weights 65\.5, KV 0\.5\), but the weight stacks hold 24\.0 GB",
        ),
    ],
)
def test_a_description_that_cannot_be_is_refused(write, changes, words):
    with pytest.raises((ConfigurationError, DataError), match=words):
        validate_serving(write(**changes), silent)


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("100,5,0,1,1,0.5,2", r"csv:2: field 'first_token_s': found 0\.5 before scheduled_s = 1\.0"),
        ("100,5,0,-1,1,2,3", r"csv:2: field 'queued_s': found '-1', expected a number >= 0"),
        ("100,5,0,1,1,2,nan", r"field 'last_token_s': found 'nan'"),
        ("0,5,0,1,1,2,3", r"field 'input_tokens': found '0', expected a whole number from 1"),
        ("100,5.5,0,1,1,2,3", r"field 'output_tokens': found '5\.5'"),
        ("100,5,0,1,1,2", r"csv:2: field 'last_token_s': found 6 fields, expected 7"),
        (
            "2000,5,0,1,1,2,3",
            r"attention\.csv: found tokens up to 1024, expected up to 2005, the longest request",
        ),
    ],
)
def test_requests_that_cannot_be_are_refused(write, line, words):
    with pytest.raises(DataError, match=words):
        validate_serving(write(line), silent)


def test_folders_that_lack_something_are_refused(write, tmp_path, capsys):
    assert main(["--serving", str(tmp_path / "nowhere")]) == 2
    assert "found no such folder, expected one with run.json" in capsys.readouterr().err
    assert main(["--serving", str(tmp_path)]) == 2
    assert "run.json: cannot be read: No such file or directory" in capsys.readouterr().err
    folder = write()
    (folder / "dense.csv").unlink()
    with pytest.raises(
        DataError, match=r"dense\.csv: found no such file beside attention\.csv, per_sequence\.csv"
    ):
        validate_serving(folder, silent)
    (folder / "requests.csv").write_text(HEADER + "\n")
    with pytest.raises(DataError, match=r"requests\.csv:1: found a header and no rows"):
        validate_serving(folder, silent)
    (folder / "requests.csv").unlink()
    with pytest.raises(DataError, match=r"requests\.csv: found no such file"):
        validate_serving(folder, silent)
    (folder / "run.json").write_text('{"gpus": NaN}')
    with pytest.raises(DataError, match=r"run\.json: found NaN, which is no number of JSON"):
        validate_serving(folder, silent)


def test_tables_of_another_gpu_are_refused(write):
    folder = write()
    text = (folder / "dense.csv").read_text().replace(",200.0", ",2.0")
    (folder / "dense.csv").write_text(text)
    with pytest.raises(
        DataError, match=r"dense\.csv: qkv_proj of .* tokens takes 2e-06 s, but llama-3\.1-8b on 1 RTX"
    ):
        validate_serving(folder, silent)


def llmservingsim(folder, **changes):
    """A folder as LLMServingSim's bench writes it."""
    (folder / "vllm").mkdir(exist_ok=True)
    meta = {
        "model": "meta-llama/Llama-3.1-8B-Instruct",
        "engine_kwargs": {"tensor_parallel_size": 1, "max_num_seqs": 8, "max_num_batched_tokens": 256},
        "kv_cache": {"num_gpu_blocks": 256, "block_size": 16, "enable_prefix_caching": True},
        "hardware": {"device_name": "NVIDIA GeForce RTX 4090"},
    }
    meta |= changes
    (folder / "vllm" / "meta.json").write_text(json.dumps(meta))
    rows = [
        {
            "request_id": str(i),
            "input_toks": 100,
            "output_toks": 5,
            "arrival_time": 1.79e9 + i,
            "queued_ts": 500.0 + i,
            "scheduled_ts": 500.0 + i,
            "first_token_ts": 500.0 + i + ITERATION_S,
            "last_token_ts": 500.0 + i + 5 * ITERATION_S,
        }
        for i in range(2)
    ]
    (folder / "vllm" / "requests.jsonl").write_text("\n".join(map(json.dumps, rows)) + "\n")
    (folder / "tp1").mkdir(exist_ok=True)
    write_tables(folder / "tp1")
    return folder


def test_a_folder_of_llmservingsim_is_the_same_run(tmp_path):
    folder = llmservingsim(tmp_path)
    run = read_run(folder)
    assert run.description.model_dump() == {**RUN, "link": None}
    result = validate_serving(folder, silent)
    assert result["measured"]["latency"]["mean"]["ratio"] == pytest.approx(1, rel=1e-6)


def test_what_a_folder_of_llmservingsim_may_lack(tmp_path):
    folder = llmservingsim(tmp_path, kv_cache={})
    with pytest.raises(
        DataError, match=r"meta\.json: kv_cache: found none, and no config\.json with mem_size"
    ):
        read_run(folder)
    folder = llmservingsim(tmp_path, engine_kwargs={"data_parallel_size": 2, "max_num_seqs": 8})
    with pytest.raises(DataError, match=r"engine_kwargs\.data_parallel_size: found 2, expected 1"):
        read_run(folder)
    folder = llmservingsim(tmp_path, hardware={})
    with pytest.raises(DataError, match=r"hardware\.device_name: found none"):
        read_run(folder)
    cluster = {"nodes": [{"instances": [{"hardware": "RTXPRO6000"}]}], "link_bw": 16, "link_latency": 20000}
    (folder / "config.json").write_text(json.dumps(cluster))
    engine = {"tensor_parallel_size": 2, "max_num_seqs": 8, "max_num_batched_tokens": 256}
    run = read_run(llmservingsim(tmp_path, engine_kwargs=engine, hardware={}))
    assert run.description.gpu == "rtx-pro-6000"
    assert run.description.link.model_dump() == pytest.approx({"bandwidth": 16e9, "latency_s": 20e-6})
    assert run.tables is None  # those of two ranks are not there
    memory = {"mem_size": 24, "mem_util": 0.833919}
    cluster["nodes"][0]["instances"][0] = {"hardware": "RTX4090", "npu_mem": memory}
    (folder / "config.json").write_text(json.dumps(cluster))
    older = read_run(llmservingsim(tmp_path, kv_cache=None, hardware=None)).description
    # A page more than the simulator has, which counts the weights of norms too.
    assert (older.kv_tokens, older.page_tokens, older.prefix_caching) == (41424, 16, True)


@pytest.mark.parametrize("moment", ["10" * 200, "1e300", "-1", "true", '"500"', "NaN"])
def test_a_moment_of_llmservingsim_is_a_number_of_seconds(tmp_path, moment):
    folder = llmservingsim(tmp_path)
    requests = folder / "vllm" / "requests.jsonl"
    requests.write_text(requests.read_text().replace('"queued_ts": 501.0', f'"queued_ts": {moment}'))
    with pytest.raises(
        DataError, match=r"requests\.jsonl:2: field 'queued_ts': found .*, expected seconds from 0 to"
    ):
        read_run(folder)


def test_names_of_hubs_and_drivers(tmp_path):
    path = tmp_path / "meta.json"
    assert registered_gpu(path, "NVIDIA RTX PRO 6000 Blackwell Server Edition") == "rtx-pro-6000"
    assert registered_gpu(path, "NVIDIA H100 80GB HBM3") == "h100"
    assert registered_model(path, "/data/model/Qwen3-32B") == "qwen3-32b"
    assert registered_model(path, "Qwen/Qwen3-30B-A3B-Instruct-2507") == "qwen3-30b-a3b"
    with pytest.raises(ConfigurationError, match="Unknown GPU 'TPU v5'"):
        registered_gpu(path, "TPU v5")
    with pytest.raises(ConfigurationError, match="Unknown model 'llama-3-8b'"):
        registered_model(path, "meta-llama/Llama-3-8B")


def write_mixture(folder):
    """Tables of a mixture of experts instead: 300 us for one expert, 2 us for each more, 1 us for each token."""
    for name in FC[2:]:
        lines = (folder / "dense.csv").read_text().splitlines()
        (folder / "dense.csv").write_text("\n".join(x for x in lines if not x.startswith(name)) + "\n")
    points = [(n, a) for n in doubling(256) for a in (8, 16, 32, 64, 128) if a <= 8 * n]
    rows = [f"{n},{a},{300.0 + 2.0 * a + n}" for n, a in points]
    (folder / "moe.csv").write_text("\n".join(["tokens,activated_experts,time_us", *rows]) + "\n")


def test_a_mixture_of_experts_takes_its_table_at_the_experts_that_its_tokens_activate(write):
    folder = write(model="qwen3-30b-a3b", gpu="rtx-pro-6000")
    write_mixture(folder)
    measured = validate_serving(folder, silent)["measured"]
    fixed = 48 * (LAYER_US / 2 + ATTENTION_US) + HEAD_US

    def iteration_s(tokens):
        activated = 128 * (1 - (1 - 8 / 128) ** tokens)
        return (fixed + 48 * (300.0 + 2.0 * activated + tokens)) * 1e-6

    assert measured["ttft"]["mean"]["simulated"] == pytest.approx(iteration_s(100), rel=1e-6)
    assert measured["tpot"]["mean"]["simulated"] == pytest.approx(iteration_s(1), rel=1e-6)


def test_tables_with_experts_and_a_model_without_do_not_go_together(write):
    folder = write()
    write_mixture(folder)
    with pytest.raises(
        ConfigurationError, match=r"found a moe\.csv, but model 'llama-3\.1-8b' has no experts"
    ):
        validate_serving(folder, silent)
    folder = write(model="qwen3-30b-a3b", gpu="rtx-pro-6000")
    (folder / "moe.csv").unlink()
    with pytest.raises(ConfigurationError, match=r"found no moe\.csv, but model 'qwen3-30b-a3b' has experts"):
        validate_serving(folder, silent)


@pytest.mark.parametrize(
    ("edit", "words"),
    [
        (
            lambda x: [*x, x[1]],
            r"moe\.csv:\d+: found 1 tokens with 8 experts again, expected it once: line 2",
        ),
        (lambda x: [x[0], *(line for line in x[1:] if not line.startswith("8,"))], None),
        (lambda x: x[:2], r"moe\.csv: found 1 rows, expected two numbers"),
        (lambda x: [x[0].replace("activated_experts", "experts"), *x[1:]], r"column 'activated_experts'"),
        (lambda x: [x[0], "0,8,1", *x[1:]], r"moe\.csv:2: column 'tokens': found '0'"),
    ],
)
def test_a_bad_table_of_experts_is_refused(write, edit, words):
    folder = write(model="qwen3-30b-a3b", gpu="rtx-pro-6000")
    write_mixture(folder)
    (folder / "moe.csv").write_text("\n".join(edit((folder / "moe.csv").read_text().splitlines())) + "\n")
    if words is None:  # steps of four are near enough
        assert validate_serving(folder, silent)["measured"] is not None
        return
    with pytest.raises(DataError, match=words):
        validate_serving(folder, silent)


@pytest.mark.parametrize("name", ["../elsewhere", "/etc", "*", ".."])
def test_names_of_a_simulators_folder_lead_nowhere_else(tmp_path, name):
    # A folder that would be found if the name were followed.
    found = tmp_path / "elsewhere" / "a" / "llama" / "b" / "tp1"
    found.mkdir(parents=True)
    write_tables(found)
    inside = tmp_path / "runs" / "one"
    inside.mkdir(parents=True)
    (tmp_path / "profiler" / "perf").mkdir(parents=True)
    (tmp_path / "profiler" / "elsewhere").symlink_to(tmp_path / "elsewhere")
    assert _tables(inside, name, "llama", 1) is None


@pytest.mark.parametrize("size", [10**400, [], "x", True])
def test_memory_that_no_machine_has_is_refused(tmp_path, size):
    folder = llmservingsim(tmp_path, kv_cache=None)
    memory = {"mem_size": size, "mem_util": 0.9}
    nodes = [{"instances": [{"hardware": "RTX4090", "npu_mem": memory}]}]
    (folder / "config.json").write_text(json.dumps({"nodes": nodes}))
    with pytest.raises(DataError, match="mem_size"):
        read_run(folder)


@pytest.mark.parametrize("gpus", ["x", 0, 10**30, True, None])
def test_a_number_of_gpus_that_is_none_is_refused(tmp_path, gpus):
    engine = {"tensor_parallel_size": gpus, "max_num_seqs": 8, "max_num_batched_tokens": 256}
    with pytest.raises(DataError, match=r"tensor_parallel_size: found .*, expected 1 to 4096"):
        read_run(llmservingsim(tmp_path, engine_kwargs=engine))
