"""AttAcc's equations against rows of its output and against slow readings of themselves; bad files."""

import csv
import dataclasses
import io
import itertools
import json
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from experiments.attacc import counterpart, gpu, simulate
from experiments.attacc.grid import REQUIRED, read_grid
from experiments.attacc.machines import GPUS, MODELS, Pim, Run
from experiments.attacc.validate_grid import validate_grid
from papi_env.errors import DataError
from papi_env.hardware.system import System

A100, H100 = GPUS["A100a"], GPUS["H100"]

# Rows of AttAcc's output: 8 x A100 with 3352 GB/s, bank-level PIM within its power limit, Lout 128.
ROWS = """\
system,ffopt,pipeopt,model,Lin,bs,s_time,g_time (ms),g_energy (nJ),fits_cap,g_matmul,g_attn_mem_energy
dgx,False,False,GPT-175B,128,1,42.46569346001013,27.401229241796685,11489381828.531235,True,0.362377829566194,26561520.599039987
dgx,False,False,LLAMA-65B,2048,16,3284.7527195430393,22.263215810212102,8093335013.194383,True,6.612541457251158,2585080417.4848013
dgx-attacc,False,False,OPT-66B,512,128,5955.274298971266,19.98749591581557,13235538803.74256,True,0.8911134216062985,781575479.2855772
dgx-attacc,False,True,GPT-175B,128,128,3757.5765441066133,41.56214104407119,32832807554.13081,True,0.5656342563779528,546929712.7021247
dgx-attacc,True,False,GPT-175B,2048,128,61024.49768212817,46.33189161993986,38156045344.05609,False,6.252824207622047,5775584269.705889
dgx-attacc,True,True,LLAMA-65B,512,16,806.6533944946091,13.987899918693095,5281620750.794286,True,0.1374487590551179,123018718.59805545
"""
CONSTANT = {"dtype": "W16A16", "xpu": "GPU", "sys_opb": "93.07875894988067", "cores": "8", "Lout": "128"}


def attacc_rows():
    """The rows with all columns that a file must have."""
    rows = []
    for row in csv.DictReader(io.StringIO(ROWS)):
        pim = row["system"] == "dgx-attacc"
        more = {"hw": "BA", "bw": "9.0", "cap": "1280"} if pim else {"hw": "NONE", "bw": "1.0", "cap": "640"}
        rows.append(CONSTANT | more | {"power constraint": str(pim)} | row)
    return rows


def write(path, rows, columns=None):
    """Write rows as CSV; returns the path."""
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, columns or list(rows[0]), extrasaction="ignore")
        writer.writeheader()
        writer.writerows(rows)
    return path


@pytest.fixture
def grid(tmp_path):
    return write(tmp_path / "grid.csv", attacc_rows())


def run(**changes):
    """A run of GPT-175B on 8 A100 with AttAcc stacks."""
    case = {
        "gpu": A100,
        "gpus": 8,
        "pim": Pim("BA", 8, True, 9.0),
        "model": MODELS["GPT-175B"],
        "element_bytes": 2,
        "batch": 16,
        "input_tokens": 512,
        "output_tokens": 33,
    }
    return Run(**(case | changes))


# --- rows --------------------------------------------------------------------------------------------


def test_compatible_mode_meets_the_rows(grid):
    result = validate_grid(grid, compatible=True)
    assert result["mode"] == "attacc-compatible"
    assert result["rows"] == 6
    assert result["prefill"]["max"] < 1e-9
    assert result["energy"]["max"] < 1e-5
    assert result["iteration"]["max"] < 0.01
    assert result["components"]["g_attn_mem_energy"]["max"] < 1e-4
    # Of the components only attention on PIM is a model of cycles instead of an equation.
    assert result["components"]["g_matmul"]["max"] < 0.2


def test_own_model_says_what_it_leaves_out(grid):
    result = validate_grid(grid, compatible=False)
    assert result["mode"] == "papi_env"
    assert result["left_out"] == {}
    assert "norms" in result["not_modelled"]
    assert result["iteration"]["max"] < 0.4
    # Static power is what AttAcc leaves out.
    assert result["dynamic_energy"]["mape"] < result["energy"]["mape"]


@pytest.mark.parametrize("compatible", [True, False])
def test_groups_hold_all_rows_and_the_result_is_plain_data(grid, compatible):
    result = validate_grid(grid, compatible)
    assert json.loads(json.dumps(result, allow_nan=False)) == result
    assert result["fits"]["rows"] == 5
    assert result["does_not_fit"]["rows"] == 1
    for groups in result["by"].values():
        assert sum(group["rows"] for group in groups.values()) == 6
    assert set(result["by"]["model"]) == {"GPT-175B", "LLAMA-65B", "OPT-66B"}
    for name in ("iteration", "prefill", "energy"):
        errors = result[name]
        assert 0 <= errors["mape"] <= errors["max"]
        assert 0 <= errors["p95"] <= errors["max"]


def test_errors_are_relative_to_the_reference(tmp_path):
    row = attacc_rows()[0]
    row["s_time"] = str(2 * float(row["s_time"]))
    result = validate_grid(write(tmp_path / "grid.csv", [row]), compatible=True)
    assert result["prefill"] == pytest.approx({"mape": 0.5, "p95": 0.5, "max": 0.5})
    assert result["does_not_fit"] == {"rows": 0}


def test_rows_that_papi_env_does_not_model_are_counted(tmp_path):
    rows = attacc_rows()
    rows[0] |= {"dtype": "W8A8"}
    rows[2] |= {"hw": "BG", "bw": "3.0"}
    rows[3] |= {"model": "MT-146B"}
    path = write(tmp_path / "grid.csv", rows)
    result = validate_grid(path, compatible=False)
    assert result["left_out"] == {"dtype W8A8": 1, "hw BG": 1, "model MT-146B": 1}
    assert result["rows"] == 3
    assert validate_grid(path, compatible=True)["rows"] == 6


# --- equations ---------------------------------------------------------------------------------------


def test_all_reduce_by_hand():
    # 12288 x 16 FP16 elements over 8 GPUs: 7 hops of 6.06 us and 0.009 ns for each of 49152 bytes.
    cost = gpu.all_reduce(A100, 8, 393216.0)
    assert cost.seconds == pytest.approx(7 * (6.06e-6 + 0.009e-9 * 49152))
    assert cost.link == pytest.approx(8 * 393216 * 10.4e-12)
    # Bandwidth never bounds a hop: its slope of 0.009 ns/B is more than the 0.0033 of 300 GB/s.
    assert gpu.all_reduce(A100, 8, 8e9).seconds == pytest.approx(7 * (6.06e-6 + 9e-3))
    assert gpu.all_reduce(A100, 1, 1e6).seconds == 0


@pytest.mark.parametrize(("blocks", "expected"), [(1, 1 / 108), (108, 1), (109, 109 / 216), (216, 1)])
def test_waves_of_thread_blocks(blocks, expected):
    assert gpu.utilisation(blocks, 108) == pytest.approx(expected)


def slow_tiles(device, m, n, k, count, size, batched):
    """The choice of tiles as nested loops: L1 tile, and least traffic to memory."""
    tiles = [8, 16, 32, 64, 128, 192, 256, 320, 384, 448, 512]
    best, chosen = math.inf, None
    for tile_m, tile_n in itertools.product(tiles, tiles):
        a, b = min(tile_m, m), min(tile_n, n)
        if (a + b) * 32 * size + a * b * size > device.l1_bytes:
            continue
        blocks = count if batched else math.ceil(m / a) * math.ceil(n / b) * count
        busy = blocks / (math.ceil(blocks / device.multiprocessors) * device.multiprocessors)
        cost = size * count * (math.ceil(n / b) * m * k + math.ceil(m / a) * n * k + m * n) / busy**2
        if cost < best:
            best, chosen = cost, (a, b)
    a, b = chosen
    least = math.inf
    for high in [*range(a, m + 1, a), m]:
        for wide in [*range(b, n + 1, b), n]:
            fits = (high + wide) * k / 64 * size + high * wide * size <= device.l2_bytes
            if fits or (high, wide) == (a, b):
                moved = math.ceil(m / high) * n * k + math.ceil(n / wide) * m * k + m * n
                least = min(least, moved * size)
    return chosen, least


@settings(max_examples=40, deadline=None)
@given(
    m=st.integers(1, 3000),
    n=st.integers(1, 3000),
    k=st.sampled_from([1, 128, 160, 4096, 200000]),
    count=st.sampled_from([1, 12, 1536]),
    size=st.sampled_from([1, 2]),
    batched=st.booleans(),
    device=st.sampled_from([A100, H100, dataclasses.replace(A100, l2_bytes=2**19)]),
)
def test_tiles_are_those_of_the_slow_search(m, n, k, count, size, batched, device):
    tile, moved = slow_tiles(device, m, n, k, count, size, batched)
    sizes = [np.array([float(value)]) for value in (m, n, k)]
    found = gpu.l1_tile(device, *sizes, count, size, batched)
    assert (found[0][0], found[1][0]) == tile
    assert gpu.off_chip_bytes(device, *sizes, found, size)[0] == pytest.approx(moved, rel=1e-12)


@given(m=st.integers(1, 4096), n=st.integers(1, 4096), k=st.integers(1, 4096))
def test_a_product_is_no_faster_than_the_machine(m, n, k):
    cost = gpu.gemm(A100, 1, m, n, k, 2)
    least = 2 * (m * k + n * k + m * n)
    assert cost.seconds[0] >= 0.999 * max(2 * m * n * k / (0.8 * A100.flops), least / (0.85 * A100.bandwidth))
    assert cost.dram[0] >= 0.999 * gpu.DRAM_J * least


def test_steps_are_independent():
    # Many contexts at once are the same as each alone.
    context = np.array([1.0, 129, 2048])
    together = gpu.gemm(A100, 8, 1, 128, context, 2, count=12, batched=True)
    alone = [gpu.gemm(A100, 8, 1, 128, each, 2, count=12, batched=True) for each in context]
    for name in ("seconds", "dram", "l2", "l1", "register", "alu"):
        expected = [getattr(cost, name)[0] for cost in alone]
        assert getattr(together, name) == pytest.approx(expected, rel=1e-12)


times = st.floats(0, 1e-3)


@given(
    qkv=times,
    projection=times,
    attention=times,
    transfer=times,
    exposed=st.floats(1 / 160, 1),
    pipeline=st.booleans(),
)
def test_overlap_hides_no_more_than_there_is(qkv, projection, attention, transfer, exposed, pipeline):
    found = simulate.overlap(qkv, projection, attention, transfer, exposed, pipeline)
    before, after = (qkv + projection, transfer), (found[0] + found[1], found[2])
    for was, now in zip(before, after, strict=True):
        assert now <= was * (1 + 1e-12) + 1e-18
        assert now >= was * exposed * (1 - 1e-12) - 1e-15 or now >= was - attention - 1e-15
    if not pipeline:
        assert after[0] == before[0]
        shorter, longer = sorted((attention, transfer))
        assert attention + after[1] == pytest.approx(longer + exposed * shorter)


def test_overlap_of_all_heads_hides_nothing():
    assert [float(x) for x in simulate.overlap(3.0, 1.0, 2.0, 0.5, 1.0, True)] == [3.0, 1.0, 0.5]


def test_commands_of_one_stack_by_hand():
    # 2050 pairs at 128 tokens: 32 multiplications, 8 writes, 24 + 8 moves each; 16 warm-ups; the last of
    # 129 rounds is odd, so nothing is traced twice.
    mac, write, move = simulate.commands("BA", 128.0, 2050, 128, 2)
    assert (mac, write, move) == (2050 * 32 + 16, 2050 * 8, 2050 * 32)
    # 26 pairs: two rounds, so 6 idle channels repeat the weighted values of the first.
    assert simulate.commands("BA", 128.0, 26, 128, 2).mac == 26 * 32 + 6 * 16 + 16
    assert simulate.commands("BG", 2049.0, 3, 128, 2).mac == 6192
    assert simulate.commands("BUFFER", 2049.0, 3, 128, 2).mac == 49200


@pytest.mark.parametrize(
    ("context", "pairs", "limit", "level", "size", "cycles"),
    [
        (2048, 51, True, "BA", 2, 16383),
        (2048, 130, False, "BA", 2, 28176),
        (2225, 300, True, "BA", 1, 44354),
        (2048, 130, True, "BG", 2, 123251),
        (2048, 130, False, "BG", 2, 82515),
        (2048, 130, True, "BUFFER", 2, 344577),
    ],
)
def test_cycles_are_near_those_of_the_cycle_level_model(context, pairs, limit, level, size, cycles):
    found = simulate.pim_cycles(context, pairs, limit, level=level, element_bytes=size)
    assert found == pytest.approx(cycles, rel=0.08)


@given(context=st.integers(1, 4096), pairs=st.integers(1, 600))
def test_cycles_grow_with_work_and_shrink_without_the_power_limit(context, pairs):
    here = simulate.pim_cycles(float(context), pairs, True)
    assert simulate.pim_cycles(float(context), pairs, False) < here
    assert simulate.pim_cycles(context + 16.0, pairs, True) > here
    assert simulate.pim_cycles(float(context), pairs + 16, True) > here


def test_sharing_and_pipelining_only_help():
    plain = simulate.simulate(run())
    for options in ({"share_feed_forward": True}, {"pipeline": True}):
        faster = simulate.simulate(run(**options))
        assert faster["g_time (ms)"] < plain["g_time (ms)"]
        assert faster["g_energy (nJ)"] == plain["g_energy (nJ)"]
        assert faster["s_time"] == plain["s_time"]
    # At batch 1 a memory-bound kernel runs on all bandwidth: that of the GPU and nine times as much.
    alone, shared = (
        simulate.simulate(run(batch=1, share_feed_forward=x))["g_ff_time"] for x in (False, True)
    )
    assert shared == pytest.approx(alone / 10)


@pytest.mark.parametrize("pim", [None, Pim("BA", 8, True, 9.0), Pim("BG", 8, False, 8.0)])
@pytest.mark.parametrize("model", MODELS.values(), ids=lambda model: model.name)
def test_columns_add_up_for_every_model(model, pim):
    columns = simulate.simulate(run(model=model, pim=pim, gpu=H100, element_bytes=1, output_tokens=3))
    assert all(math.isfinite(value) and value >= 0 for value in columns.values())

    def total(*names):
        return pytest.approx(sum(columns[name] for name in names), rel=1e-9)

    assert columns["g_time (ms)"] == total("g_matmul", "g_fc", "g_comm", "g_etc", "g_softmax")
    assert columns["g_fc"] == total("g_qkv_time", "g_prj_time", "g_ff_time")
    parts = ("fc_mem", "fc_comp", "attn_mem", "attn_comp", "etc_mem", "etc_comp", "comm")
    assert columns["g_energy (nJ)"] == total(*(f"g_{part}_energy" for part in parts))


def test_own_model_is_papi_envs(grid):
    rows = read_grid(grid)
    machine = counterpart.system_of(rows[2].run.gpu, 8, rows[2].run.pim)
    assert isinstance(machine, System)
    assert machine.attn_pim is not None
    assert (machine.attn_pim.stacks, machine.attn_pim.cadence_clocks) == (40, 6.0)
    model = counterpart.transformer_of(MODELS["LLAMA-65B"])
    assert (model.feed_forward, model.gated) == (22016, True)


# --- files -------------------------------------------------------------------------------------------


def test_a_row_becomes_a_run(grid):
    row = read_grid(grid)[5]
    assert row.line == 7
    assert row.run == run(
        model=MODELS["LLAMA-65B"], output_tokens=128, share_feed_forward=True, pipeline=True
    )
    assert row.fits
    assert row.reference["g_time (ms)"] == pytest.approx(13.9879)
    assert row.run.contexts[[0, -1]].tolist() == [513, 639]


def test_devices_by_their_columns(tmp_path):
    rows = attacc_rows()[2:3] * 3
    rows[0] = rows[0] | {"sys_opb": str(989.4 / 3.352), "cores": "16", "cap": "1920"}
    rows[1] = rows[1] | {"xpu": "H100", "cores": "4", "cap": "640"}
    rows[2] = rows[2] | {"hw": "BUFFER", "bw": "1.0", "power constraint": "False"}
    first, second, third = (row.run for row in read_grid(write(tmp_path / "grid.csv", rows)))
    assert (first.gpu, first.gpus, first.pim.devices) == (H100, 16, 8)
    assert (second.gpu, second.gpus, second.pim.devices) == (H100, 4, 4)
    assert third.pim == Pim("BUFFER", 8, False, 1.0)


@pytest.mark.parametrize(
    ("column", "text", "expected"),
    [
        ("s_time", "abc", "a number > 0"),
        ("s_time", "-1", "a number > 0"),
        ("g_time (ms)", "nan", "a number > 0"),
        ("g_energy (nJ)", "inf", "a number > 0"),
        ("g_energy (nJ)", "0", "a number > 0"),
        ("g_matmul", "-0.1", "a number >= 0"),
        ("g_matmul", "", "a number >= 0"),
        ("model", "GTP-175B", "did you mean 'GPT-175B'"),
        ("system", "dgx-cpu", "one of dgx, dgx-attacc"),
        ("hw", "BA", "one of NONE"),
        ("dtype", "W4A16", "one of W16A16, W8A8"),
        ("xpu", "A100", "GPU, A100a or H100 (did you mean 'A100a'?)"),
        ("sys_opb", "161.2", "93.079 (A100a) or 295.167 (H100): FLOP per byte of a GPU"),
        ("ffopt", "yes", "True or False"),
        ("fits_cap", "", "True or False"),
        ("Lin", "1_000", "a whole number from 1 to"),
        ("Lin", "0", "a whole number from 1 to"),
        ("Lout", "1", "a whole number from 2 to"),
        ("bs", "1.5", "a whole number from 1 to"),
        ("cores", "97", "at most 96 GPUs, the heads of GPT-175B"),
    ],
)
def test_a_bad_field_is_named(tmp_path, column, text, expected):
    rows = attacc_rows()[:2]
    rows.insert(1, rows[0] | {column: text})
    path = write(tmp_path / "grid.csv", rows)
    with pytest.raises(DataError) as caught:
        validate_grid(path, compatible=True)
    message = str(caught.value)
    assert message.startswith(f"{path}:3: field {column!r}: found {text!r}, expected ")
    assert expected in message


@pytest.mark.parametrize("column", REQUIRED)
def test_a_missing_column_is_named(tmp_path, column):
    rows = attacc_rows()
    path = write(tmp_path / "grid.csv", rows, [name for name in rows[0] if name != column])
    with pytest.raises(DataError) as caught:
        read_grid(path)
    assert str(caught.value).startswith(f"{path}:1: field {column!r}: found no such column, expected one")


def test_bad_files(tmp_path, grid):
    empty, headless, short = (tmp_path / name for name in ("empty.csv", "header.csv", "short.csv"))
    empty.write_text("")
    headless.write_text(",".join(REQUIRED) + "\n")
    short.write_text(grid.read_text().rsplit(",", 1)[0] + "\n")
    misspelt = tmp_path / "misspelt.csv"
    misspelt.write_text(grid.read_text().replace("s_time", "s_tine", 1))
    for path, expected in [
        (empty, ":1: found an empty file, expected"),
        (headless, ":1: found a header and no rows, expected"),
        (short, ":7: field 'g_attn_mem_energy': found 20 fields, expected 21"),
        (misspelt, ":1: field 's_time': found no such column, expected one (did you mean 's_tine'?)"),
        (tmp_path / "none.csv", ": cannot be read: No such file or directory"),
        (tmp_path, ": cannot be read: found a directory, expected"),
    ]:
        with pytest.raises(DataError) as caught:
            validate_grid(path, compatible=True)
        assert f"{path}{expected}" in str(caught.value)
