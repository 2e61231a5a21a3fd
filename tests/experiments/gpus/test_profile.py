"""`experiments.profile_gpu`: what is measured and how it is timed, on a made-up GPU; and where there is none."""

import contextlib
import importlib.util
import sys
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from experiments import profile_gpu
from experiments.gpus import cuda
from experiments.gpus.profile import (
    CACHE_FACTOR,
    MAX_ROUNDS,
    RESOLUTION_SHARE,
    ROWS,
    LaunchShape,
    Measurement,
    Plan,
    cold_copies,
    file_text,
    measure,
    rounds_of_span,
)
from papi_env.errors import ConfigurationError, DataError
from papi_env.hardware.measured import gap, load_measured, parse_measured
from papi_env.workload.transformer import TRANSFORMERS, get_transformer
from tests.experiments.commands import called

CACHE = 40 * 2**20


class MadeUpGpu:
    """A GPU with a clock of its own: launches of known length, slow until warm, with a hitch now and then."""

    cache_bytes = CACHE

    def __init__(self, resolution_s=0.0, cold_rounds=0, hitch_every=0):
        self.resolution_s = resolution_s
        self.cold_rounds, self.hitch_every = cold_rounds, hitch_every
        self.loaded, self.prepared, self.spans = [], [], []

    def load(self, shape, copies):
        self.shape, self.copies = shape, copies
        self.loaded.append((shape, copies))

    def prepare(self, rows):
        self.rows, self.done = rows, 0
        self.prepared.append((self.shape, rows))

    def span_s(self, rounds):
        seconds = 0.0
        self.spans.append(rounds)
        for _ in range(rounds):
            self.done += 1
            slow = 10 if self.done <= self.cold_rounds else 1
            seconds += slow * self.copies * self.launch_s(self.shape, self.rows)
        if self.hitch_every and len(self.spans) % self.hitch_every == 0:
            seconds += 1.0
        ticks = self.resolution_s and seconds // self.resolution_s
        return ticks * self.resolution_s if self.resolution_s else seconds

    @staticmethod
    def launch_s(shape, rows):
        return 4e-6 + shape.outputs * shape.inputs * 2 / 2e12 + rows * 1e-8

    def provenance(self):
        return {"gpu": "made\nup", "torch": "none"}


def plan(**changes):
    given = {"models": [get_transformer("llama-65b")], "tensor_parallel": [6], "rows": [1, 4, 16]}
    return Plan(**{**given, **changes})


def test_shapes_are_measured_once_each():
    shapes = plan(models=[TRANSFORMERS["llama-65b"]] * 2, tensor_parallel=[1, 6, 1]).shapes()
    assert len(shapes) == len(set(shapes)) == 8
    # 24576 / 6, 8192 / 6, 2 x 22016 / 6 and 22016 / 6, rounded up.
    assert shapes[4:] == ((4096, 8192), (8192, 1366), (7339, 8192), (8192, 3670))


def test_an_lm_head_is_measured_where_it_is_on():
    shapes = plan(models=[TRANSFORMERS["llama-3.1-8b"]], tensor_parallel=[2]).shapes()
    assert shapes == ((3072, 4096), (4096, 2048), (14336, 4096), (4096, 7168), (64128, 4096))


def test_a_shape_is_run_in_whole_16_bytes():
    assert LaunchShape(7339, 1366).aligned == (7344, 1368)
    assert LaunchShape(8192, 8).aligned == (8192, 8)
    assert LaunchShape(7339, 1366).weight_bytes == 7344 * 1368 * 2


@given(st.integers(128, 2**32), st.integers(1, 2**30))
def test_copies_leave_nothing_in_the_cache(weight_bytes, cache_bytes):
    copies = cold_copies(weight_bytes, cache_bytes)
    assert copies >= 2
    assert copies * weight_bytes >= CACHE_FACTOR * cache_bytes
    assert copies == 2 or (copies - 1) * weight_bytes < CACHE_FACTOR * cache_bytes


def test_the_default_rows_have_no_gap():
    assert sorted(set(ROWS)) == list(ROWS)
    assert gap(ROWS) is None
    assert (ROWS[0], ROWS[-1]) == (1, 4096)
    assert {2**k for k in range(13)} <= set(ROWS)


def test_a_kernels_time_is_the_median_of_warm_spans():
    gpu = MadeUpGpu(resolution_s=0.5e-6, cold_rounds=5, hitch_every=3)
    found = measure(gpu, plan(repeats=9, warmup=5))
    assert [one[:3] for one in found] == [(*shape, rows) for shape in plan().shapes() for rows in (1, 4, 16)]
    for one in found:
        exact = gpu.launch_s(LaunchShape(one.outputs, one.inputs), one.rows)
        assert one.seconds == pytest.approx(exact, rel=RESOLUTION_SHARE)
    # Each shape's weights are made once, each number of rows once a shape.
    assert gpu.loaded == [(shape, cold_copies(shape.weight_bytes, CACHE)) for shape in plan().shapes()]
    assert len(gpu.prepared) == len(found)


def test_without_a_warm_up_the_first_rounds_count():
    gpu = MadeUpGpu(cold_rounds=1000)
    one = measure(gpu, plan(repeats=1, warmup=0))[0]
    assert one.seconds == pytest.approx(10 * gpu.launch_s(LaunchShape(*one[:2]), one.rows))


def test_warm_up_and_repeats_are_as_many_as_asked():
    gpu = MadeUpGpu()
    measure(gpu, plan(repeats=3, warmup=7))
    # The warm-up, one to see how long a round takes, and the repeats.
    assert gpu.spans == [7, 1, 1, 1, 1] * 12


@given(st.floats(1e-9, 1e-3), st.floats(1e-9, 1e-3))
def test_a_span_is_long_for_the_clock(resolution_s, launch_s):
    gpu = MadeUpGpu(resolution_s)
    gpu.launch_s = lambda shape, rows: launch_s
    gpu.load(LaunchShape(8, 8), 2)
    gpu.prepare(1)
    if 2 * launch_s * MAX_ROUNDS * RESOLUTION_SHARE < 0.9 * resolution_s:
        with pytest.raises(ConfigurationError, match="65536 rounds of launches are too short for a clock"):
            rounds_of_span(gpu)
    elif 2 * launch_s * 1000 * RESOLUTION_SHARE > resolution_s:
        rounds = rounds_of_span(gpu)
        assert gpu.span_s(rounds) * RESOLUTION_SHARE >= resolution_s
        assert rounds == 1 or gpu.span_s(rounds // 2) * RESOLUTION_SHARE < resolution_s


def test_each_shape_is_reported():
    lines = []
    measure(MadeUpGpu(), plan(), lines.append)
    assert len(lines) == 4
    assert lines[0].startswith(
        "1 of 4: 4096 outputs x 8192 inputs, 2 copies: 37.6 us with 1 rows, 37.7 us with 16"
    )


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"models": []}, "--models names none"),
        ({"tensor_parallel": []}, "--tensor-parallel names none"),
        ({"tensor_parallel": [0]}, "--tensor-parallel has 0, expected a whole number from 1 to 4096"),
        ({"rows": [0, 1]}, "--rows has 0, expected a whole number from 1"),
        ({"rows": [1, 1]}, r"--rows: found rows \[1\] alone, expected at least two"),
        ({"rows": []}, r"--rows: found rows \[\] alone, expected at least two"),
        ({"rows": [16, 1, 4, 65]}, "--rows: found 65 rows next after 16, a gap; expected at most 4 times"),
        ({"repeats": 0}, "--repeats has 0, expected a whole number from 1"),
        ({"warmup": -1}, "--warmup has -1, expected a whole number from 0"),
    ],
)
def test_a_plan_that_cannot_be_is_refused(changes, words):
    with pytest.raises(ConfigurationError, match=words):
        plan(**changes)


def test_what_is_written_reads_back_and_says_where_it_is_from(tmp_path):
    found = measure(MadeUpGpu(), plan())
    text = file_text(found, {"gpu": "two\nlines\t x"}, tmp_path)
    measured = parse_measured(text, tmp_path)
    assert measured.comments == ("gpu: two lines x",)
    for one in found:
        assert measured.seconds(*one[:3]) == pytest.approx(one.seconds, rel=1e-8)


def test_nothing_is_written_that_would_not_be_read(tmp_path):
    with pytest.raises(DataError, match="found '0', expected seconds"):
        file_text([Measurement(8, 8, 1, 0.0), Measurement(8, 8, 2, 1.0)], {}, tmp_path)


# --- the GPU through torch, with CUDA's part made up --------------------------------------------------


class MadeUpCuda:
    """What `CudaRunner` asks of `torch.cuda`: graphs that count their replays, and a clock that they move."""

    class OutOfMemoryError(RuntimeError):
        pass

    def __init__(self):
        self.clock, self.log = 0.0, []
        self.Stream = lambda device: SimpleNamespace(wait_stream=lambda other: None)
        self.stream = self.graph = lambda of: contextlib.nullcontext()
        self.current_stream = lambda: SimpleNamespace(wait_stream=lambda other: None)
        self.empty_cache = lambda: self.log.append("empty")
        self.set_device = lambda index: None
        self.get_device_properties = lambda index: SimpleNamespace(name="Made up", L2_cache_size=CACHE)

    def CUDAGraph(self):
        return SimpleNamespace(replay=self.replay)

    def replay(self):
        self.log.append("round")
        self.clock += 2.0

    def Event(self, enable_timing):
        assert enable_timing
        event = SimpleNamespace(synchronize=lambda: None)

        def record():
            self.log.append("event")
            event.ms = self.clock

        event.record = record
        event.elapsed_time = lambda end: end.ms - event.ms
        return event


@pytest.fixture
def runner(monkeypatch):
    real = pytest.importorskip("torch")
    made_up = SimpleNamespace(
        cuda=MadeUpCuda(),
        device=lambda kind, index: "cpu",
        version=SimpleNamespace(cuda="12.8"),
        **{name: getattr(real, name) for name in ("randn", "float16", "nn", "__version__")},
    )
    monkeypatch.setitem(sys.modules, "torch", made_up)
    return cuda.CudaRunner(0)


def test_the_gpu_is_asked_for_a_round_more_than_is_timed(runner):
    assert runner.cache_bytes == CACHE
    assert runner.provenance()["gpu"] == "Made up"
    runner.load(LaunchShape(30, 17), 3)
    assert [tuple(weight.shape) for weight in runner._weights] == [(32, 24)] * 3
    assert runner._weights[0].float().std().item() == pytest.approx(24**-0.5, rel=0.3)
    runner.prepare(5)
    assert tuple(runner._inputs.shape) == (5, 24)
    runner._torch.cuda.log.clear()
    assert runner.span_s(3) == pytest.approx(6e-3)
    assert runner._torch.cuda.log == ["round", "event", "round", "round", "round", "event"]


def test_what_does_not_fit_the_gpu_is_one_message(runner, monkeypatch):
    def full(*sizes, **kinds):
        raise MadeUpCuda.OutOfMemoryError("much too long\na story")

    runner.load(LaunchShape(32, 16), 2)
    monkeypatch.setattr(runner._torch, "randn", full)
    with pytest.raises(
        ConfigurationError, match="inputs and outputs of 7 rows do not fit the memory of Made up"
    ):
        runner.prepare(7)
    with pytest.raises(
        ConfigurationError, match="2 copies of 32 x 16 weights do not fit the memory of Made up"
    ):
        runner.load(LaunchShape(32, 16), 2)


# --- the command -----------------------------------------------------------------------------------


@pytest.fixture
def made_up(monkeypatch):
    gpu = MadeUpGpu()
    monkeypatch.setattr(profile_gpu, "find_cuda", lambda device: gpu)
    return gpu


QUICK = ("--rows", 1, 4, 16, "--repeats", 3)


def test_the_command_writes_the_file(made_up, tmp_path):
    path = tmp_path / "gpu.csv"
    status, out, err = called(profile_gpu.main, *QUICK, "--tensor-parallel", 2, 6, "--out", path)
    assert (status, out) == (0, "")
    assert err.splitlines()[-1] == f"{path}: 24 kernels"
    measured = load_measured(path)
    assert len(measured.curves) == 8
    assert measured.seconds(22016, 8192, 4) == pytest.approx(made_up.launch_s(LaunchShape(22016, 8192), 4))
    said = dict(line.split(": ", 1) for line in measured.comments)
    assert said["gpu"] == "made up"
    assert said["date"].startswith("20")
    assert said["command"].startswith("python -m experiments.profile_gpu --rows 1 4 16")
    assert (said["models"], said["tensor_parallel"]) == ("llama-65b", "2, 6")
    assert [file.name for file in tmp_path.iterdir()] == ["gpu.csv"]


def test_without_out_the_file_is_printed(made_up, tmp_path):
    status, out, _ = called(profile_gpu.main, *QUICK)
    assert status == 0
    assert len(parse_measured(out, tmp_path).curves) == 4


def test_a_failure_leaves_the_file_as_it_was(made_up, monkeypatch, tmp_path):
    path = tmp_path / "gpu.csv"
    path.write_text("before", encoding="utf-8")
    monkeypatch.setattr(made_up, "launch_s", lambda shape, rows: 101.0)
    status, _, err = called(profile_gpu.main, *QUICK, "--out", path)
    assert status == 2
    assert "found '101', expected seconds" in err
    assert path.read_text(encoding="utf-8") == "before"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--models", "llama-64b"], "Unknown model 'llama-64b'. Did you mean 'llama-65b'?"),
        (["--rows", "1", "8"], "--rows: found 8 rows next after 1, a gap"),
        (["--out", "."], "--out is '.', a directory; expected a file"),
        (
            ["--out", "missing/gpu.csv"],
            "--out missing/gpu.csv: found no folder missing that can be written to",
        ),
        (["--device", "cpu"], "--device is 'cpu', expected cuda, or cuda:N"),
        (["--device", "cuda:x"], "--device is 'cuda:x', expected cuda, or cuda:N"),
    ],
)
def test_mistakes_are_one_line_and_status_2(arguments, words):
    status, out, err = called(profile_gpu.main, *arguments)
    assert (status, out) == (2, "")
    assert err.startswith(f"error: {words}")
    assert err.count("\n") == 1


def made_up_torch(monkeypatch, *, cuda_version, count):
    """A torch that has its version and finds so many GPUs."""
    found = SimpleNamespace(
        is_available=lambda: count > 0, device_count=lambda: count, current_device=lambda: 0
    )
    torch = SimpleNamespace(__version__="9.9", version=SimpleNamespace(cuda=cuda_version), cuda=found)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: torch)
    monkeypatch.setitem(sys.modules, "torch", torch)


@pytest.mark.parametrize(
    ("cuda_version", "why"),
    [(None, "torch 9.9, built for CPU"), ("12.8", "torch 9.9, built for CUDA 12.8")],
)
def test_where_there_is_no_gpu_it_says_so_and_ends_with_2(monkeypatch, tmp_path, cuda_version, why):
    made_up_torch(monkeypatch, cuda_version=cuda_version, count=0)
    path = tmp_path / "gpu.csv"
    status, out, err = called(profile_gpu.main, "--out", path)
    assert (status, out) == (2, "")
    assert err.startswith(
        f"error: profile_gpu: no CUDA GPU found ({why}); run it on a machine with one, or bring"
    )
    assert "outputs,inputs,rows,seconds" in err
    assert err.count("\n") == 1
    assert not path.exists()


def test_where_there_is_no_torch_it_says_so(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    status, _, err = called(profile_gpu.main)
    assert status == 2
    assert "no CUDA GPU found (torch is not installed: pip install torch)" in err


def test_a_gpu_that_is_not_there_is_refused(monkeypatch):
    made_up_torch(monkeypatch, cuda_version="12.8", count=2)
    with pytest.raises(
        ConfigurationError, match="--device is 'cuda:2', expected one of the 2 GPUs that torch"
    ):
        cuda.find_cuda("cuda:2")


def test_a_gpu_that_is_there_measures(tmp_path):
    torch = pytest.importorskip("torch")
    if not torch.cuda.is_available():
        pytest.skip("no CUDA GPU")
    path = tmp_path / "gpu.csv"
    status, _, err = called(profile_gpu.main, *QUICK, "--out", path)
    assert status == 0, err
    # Faster than 20 TB/s of weights is no memory's.
    for (outputs, inputs), curve in load_measured(path).curves.items():
        assert (curve.seconds > outputs * inputs * 2 / 20e12).all()
