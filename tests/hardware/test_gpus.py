"""The registered GPUs: what their data sheets say, what systems may do with them, how files name them."""

import tomllib

import numpy as np
import pytest

from papi_env.errors import ConfigurationError
from papi_env.hardware.costs import pu_fc_s
from papi_env.hardware.gpus import GPUS, get_gpu
from papi_env.hardware.system import System, get_system
from papi_env.kernel import Kernel, KernelClass
from papi_env.scenario import Scenario

# Dense TFLOP/s, GB/s, GB, stacks, W: data sheets, but for the stacks of A100 and H100, which are PAPI's.
SHEETS = {
    "a100": (312, 3352, 85.9, 5, 400),
    "h100": (989.4, 3352, 85.9, 5, 700),
    "h200": (989.4, 4800, 141, 6, 700),
    "b200": (2250, 8000, 180, 8, 1000),
    "mi300x": (1307.4, 5300, 192, 8, 750),
    "l40s": (362.05, 864, 48, 0, 350),
    "rtx-4090": (165.2, 1008, 24, 0, 450),
    "rtx-pro-6000": (420, 1597, 96, 0, 600),
}
ALONE = 'name = "mine"\nattention_link = "none"\nfabric = "nvlink4"\n'


def system(toml):
    return System.define(tomllib.loads(toml), "machine.toml")


def refusal(toml):
    with pytest.raises(ConfigurationError) as caught:
        system(toml)
    return str(caught.value)


def test_cards_are_as_their_data_sheets_say():
    found = {
        name: (
            round(gpu.peak_flops / 1e12, 2),
            round(gpu.memory_bandwidth / 1e9),
            round(gpu.memory_bytes / 1e9, 1),
            gpu.stacks,
            gpu.board_power_w,
        )
        for name, gpu in GPUS.items()
    }
    assert found == SHEETS


@pytest.mark.parametrize("name", GPUS)
def test_a_card_stays_below_its_peaks_and_comes_near_them_and_within_its_power(name):
    gpu = get_gpu(name)
    kernel = Kernel(KernelClass.QKV, inner=8192, outer=24576)
    rows = np.array([1, 4096])
    seconds = pu_fc_s(gpu, kernel, rows)
    bandwidth = kernel.weight_bytes / seconds[0] / gpu.memory_bandwidth
    compute = 2 * rows[1] * kernel.inner * kernel.outer / seconds[1] / gpu.peak_flops
    assert 0.7 < bandwidth < 1
    assert 0.45 < compute < 1
    machine = System(name="alone", pu=gpu, attention_link=None)
    assert gpu.idle_power_w < machine.pu_peak_power_w <= gpu.board_power_w


def test_what_an_rtx_4090_took_for_llamas_feed_forward():
    # As LLMServingSim 2.0 publishes it: gate and up of Llama-3.1 8B at 1 and 2048 tokens.
    seconds = pu_fc_s(
        get_gpu("rtx-4090"), Kernel(KernelClass.FEED_FORWARD, inner=4096, outer=28672), np.array([1, 2048])
    )
    assert seconds == pytest.approx([247.3e-6, 2896.8e-6], rel=0.1)


def test_a_file_names_a_gpu():
    assert system(ALONE + 'pu = "h200"').pu == get_gpu("h200")


def test_a_file_starts_from_a_gpu():
    found = system(ALONE + '[pu]\nbase = "h200"\ncount = 4\nmemory_bytes = 100_000_000_000')
    assert found.pu == get_gpu("h200", 4, 100 * 10**9)


@pytest.mark.parametrize("pu", ["h200", {"base": "h200", "count": 6}])
def test_a_gpu_of_another_kind_takes_nothing_from_that_of_the_base_system(pu):
    scenario = {
        "name": "s",
        "system": {"base": "a100", "pu": pu},
        "model": "opt-30b",
        "workload": {"lengths": {"input": 9, "output": 9}},
    }
    found = Scenario.define(scenario, "scenario.toml")
    assert found.system.pu == get_gpu("h200", 1 if pu == "h200" else 6)
    assert found.system.fabric == get_system("a100").fabric


@pytest.mark.parametrize("pu", ['pu = "h20"', '[pu]\nbase = "h20"'])
def test_an_unknown_gpu_is_answered_with_the_nearest(pu):
    message = refusal(ALONE + pu)
    assert "pu: " in message
    assert "Unknown GPU 'h20'. Did you mean 'h200'?" in message


def test_fc_pim_cannot_take_the_place_of_memory_that_is_no_stacks():
    message = refusal(ALONE + 'pu = "rtx-4090"\n[fc_pim]\nname = "FC"\nstacks = 5\nfpus_per_bank = 1')
    assert "5 FC-PIM stacks on RTX 4090, whose memory is no stacks" in message
