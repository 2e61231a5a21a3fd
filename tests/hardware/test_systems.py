"""Registered systems are the paper's, and a system that could not work is refused with the reason."""

import json
import math
import re

import numpy as np
import pytest
from pydantic import ValidationError

from papi_env.errors import ConfigurationError
from papi_env.hardware.collectives import all_reduce_s, attacc_all_reduce_s, gather_and_broadcast_s
from papi_env.hardware.links import CXL, LINKS, NVLINK3, PCIE5
from papi_env.hardware.system import SYSTEMS, System, get_system
from papi_env.kernel import blocks
from papi_env.workload.transformer import TRANSFORMERS

GIB = 2**30
NAMES = pytest.mark.parametrize("name", SYSTEMS)
PAPI = SYSTEMS["papi"]
GPT3 = TRANSFORMERS["gpt3-175b"]


def altered(name, **changes):
    """A registered system with fields replaced; a dictionary replaces fields of a unit."""
    data = SYSTEMS[name].model_dump()
    for field, value in changes.items():
        nested = isinstance(value, dict) and isinstance(data[field], dict)
        data[field] = {**data[field], **value} if nested else value
    return System.model_validate(data)


def refusal(name, **changes):
    with pytest.raises(ValidationError) as caught:
        altered(name, **changes)
    return str(caught.value)


def test_the_registry_holds_the_named_systems():
    assert set(SYSTEMS) == {
        "papi",
        "a100-attacc",
        "a100-hbm-pim",
        "attacc-only",
        "papi-pim-only",
        "a100",
        "papi-1gpu",
        "papi-edge",
        "papi-h100",
        "h100-attacc",
        "h100",
        "neupims-like",
        "aim-like",
        "cxl-pnm-like",
        "rtx-4090",
        "rtx-pro-6000-x2",
    }
    assert all(system.name == name for name, system in SYSTEMS.items())


@NAMES
def test_a_registered_system_validates_and_survives_being_written_down(name):
    system = get_system(name)
    assert System.model_validate(system.model_dump()) == system
    assert System.model_validate(json.loads(json.dumps(system.model_dump(mode="json")))) == system
    assert System.model_validate_json(system.model_dump_json()) == system


@pytest.mark.parametrize("name", ["pappi", "PAPI", "", None, 3, ["papi"]])
def test_an_unknown_system_is_answered_with_the_known_ones(name):
    with pytest.raises(ConfigurationError, match="Unknown system") as caught:
        get_system(name)
    assert all(known in str(caught.value) for known in SYSTEMS)


def test_the_nearest_system_is_offered():
    with pytest.raises(ConfigurationError, match="Did you mean 'papi-pim-only'"):
        get_system("papi-pimonly")


# --- what the systems are --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "weights", "kv"),
    [
        ("papi", 30 * 12 * GIB, 60 * 16 * GIB),
        ("papi-h100", 30 * 12 * GIB, 60 * 16 * GIB),
        ("papi-pim-only", 30 * 12 * GIB, 60 * 16 * GIB),
        ("attacc-only", 30 * 16 * GIB, 60 * 16 * GIB),
        ("a100-attacc", 6 * 80 * GIB, 60 * 16 * GIB),
        ("a100-hbm-pim", 6 * 80 * GIB, 60 * 16 * GIB),
        ("h100-attacc", 6 * 80 * GIB, 60 * 16 * GIB),
        ("a100", 6 * 80 * GIB, None),
        ("h100", 6 * 80 * GIB, None),
        ("papi-1gpu", 5 * 12 * GIB, None),
        ("papi-edge", 12 * GIB, None),
    ],
)
def test_capacities_are_those_of_30_weight_and_60_kv_stacks(name, weights, kv):
    assert SYSTEMS[name].weight_capacity_bytes == weights
    assert SYSTEMS[name].kv_capacity_bytes == kv


def test_fc_pim_is_the_gpus_own_memory():
    for name in ("papi", "papi-h100", "papi-1gpu", "papi-edge"):
        assert SYSTEMS[name].pu.capacity_bytes == SYSTEMS[name].fc_pim.capacity_bytes


@pytest.mark.parametrize(
    ("name", "fc", "attention"),
    [
        ("papi", "pu", "attn-pim"),
        ("a100-attacc", "pu", "attn-pim"),
        ("attacc-only", "fc-pim", "attn-pim"),
        ("papi-pim-only", "fc-pim", "attn-pim"),
        ("a100", "pu", "pu"),
        ("papi-1gpu", "pu", "pu"),
    ],
)
def test_default_units_are_the_pus_for_fc_and_the_kv_stacks_for_attention(name, fc, attention):
    assert SYSTEMS[name].unit_of("fc") == fc
    assert SYSTEMS[name].unit_of("attention") == attention


@NAMES
def test_a_default_unit_exists_and_can_run_its_kernels(name):
    system = SYSTEMS[name]
    for kind in ("fc", "attention"):
        assert system.unit(system.unit_of(kind)) is not None
        assert system.can_run(system.unit_of(kind), kind)


def test_fc_pim_runs_no_attention_and_attn_pim_no_fc_kernels():
    assert [PAPI.can_run(unit, "fc") for unit in ("pu", "fc-pim", "attn-pim")] == [True, True, False]
    assert [PAPI.can_run(unit, "attention") for unit in ("pu", "fc-pim", "attn-pim")] == [True, False, True]
    assert not SYSTEMS["a100"].can_run("fc-pim", "fc")


def test_prefill_runs_on_the_gpus_where_there_are_any():
    for system in SYSTEMS.values():
        assert system.prefill_unit == ("pu" if system.pu else "fc-pim")


@pytest.mark.parametrize(
    ("name", "watts"),
    # 80 W a GPU, 4 W a stack, whoever's it is.
    [
        ("a100", 6 * 80 + 30 * 4),
        ("papi-1gpu", 80 + 5 * 4),
        ("papi-edge", 8 + 4),
        ("papi", 6 * 80 + 90 * 4),
        ("a100-attacc", 6 * 80 + 90 * 4),
        ("attacc-only", 90 * 4),
    ],
)
def test_static_power_counts_every_gpu_and_every_stack_once(name, watts):
    assert SYSTEMS[name].static_power_w == watts


def test_fc_pim_stacks_beside_gpus_pay_their_own_idle_power():
    assert altered("papi", fc_pim={"idle_power_w": 10}).static_power_w == 6 * 80 + 30 * 10 + 60 * 4


def test_static_power_can_be_left_out():
    quiet = {"idle_power_w": 0}
    bare = altered("papi", pu={"idle_power_w": 0}, fc_pim=quiet, attn_pim=quiet)
    assert bare.static_power_w == 0


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        (
            {"fc_pim": {"stacks": 60}},
            r"60 FC-PIM stacks on 6 GPUs of 5 .* fc_pim.stacks = 30, or pu.count = 12",
        ),
        ({"pu": {"count": 8}}, r"30 FC-PIM stacks on 8 GPUs of 5 .* fc_pim.stacks = 40, or pu.count = 6"),
        ({"pu": {"stacks": 8}}, r"30 FC-PIM stacks on 6 GPUs of 8 .* fc_pim.stacks = 48(?!, or)"),
        ({"pu": {"stacks": 6}}, r"30 FC-PIM stacks on 6 GPUs of 6 .* fc_pim.stacks = 36, or pu.count = 5"),
    ],
)
def test_stacks_and_gpus_follow_each_other(changes, words):
    message = refusal("papi", **changes)
    assert re.search(words, message), message
    assert altered("papi", pu={"count": 12}, fc_pim={"stacks": 60}).nodes == 12


@NAMES
def test_a_gpu_at_its_sustained_rates_is_inside_its_board_power(name):
    system = SYSTEMS[name]
    if system.pu is not None:
        assert system.pu.idle_power_w < system.pu_peak_power_w <= system.pu.board_power_w


# --- combining outputs -----------------------------------------------------------------------------

ROWS = np.array([0, 1, 2**5, 2**14])
ATTENTION_BLOCK, FEED_FORWARD_BLOCK = blocks(TRANSFORMERS["llama-65b"].fc_kernels())
HIDDEN_BYTES = 2 * 8192 * ROWS.astype(float)
JOINED = pytest.mark.parametrize("name", ["papi", "a100", "h100-attacc", "papi-pim-only"])


def test_a_layers_outputs_are_combined_after_projection_and_feed_forward():
    assert [kernel.kernel_class for kernel in ATTENTION_BLOCK] == ["qkv", "projection"]
    assert [kernel.outer for kernel in FEED_FORWARD_BLOCK] == [2 * 22016, 8192]


@JOINED
def test_nodes_of_a_fabric_combine_outputs_by_an_all_reduce(name):
    # Six GPUs, or six groups of five stacks.
    system = SYSTEMS[name]
    for block in (ATTENTION_BLOCK, FEED_FORWARD_BLOCK):
        assert (system.combine_s(block, ROWS) == all_reduce_s(HIDDEN_BYTES, 6, system.fabric)).all()
        assert system.combine_j(block, ROWS) == pytest.approx(2 * 5 * HIDDEN_BYTES * 10.4e-12)


def test_a_host_sums_the_partial_outputs_of_all_stacks():
    # 30 blocks of a matrix, 6 x 5: five partial sums of every output cross the link, and every input is multicast.
    system = SYSTEMS["attacc-only"]
    assert system.partial_sums == 5
    widths = (5 * (3 * 8192 + 8192) + 2 * 8192, 5 * (2 * 22016 + 8192) + 8192 + 22016)
    for block, width in zip((ATTENTION_BLOCK, FEED_FORWARD_BLOCK), widths, strict=True):
        size = 2.0 * width * ROWS
        assert system.combine_s(block, ROWS) == pytest.approx(np.where(ROWS > 0, 5.1e-6 + size / 64e9, 0))
        assert system.combine_j(block, ROWS) == pytest.approx(size * 40e-12)


def test_one_token_takes_no_system_twice_as_long_as_another():
    # What AttAcc's ring made 45 to 1.
    seconds = [
        sum(SYSTEMS[name].combine_s(block, 1) for block in (ATTENTION_BLOCK, FEED_FORWARD_BLOCK))
        for name in ("papi", "a100-attacc", "papi-pim-only", "attacc-only")
    ]
    assert max(seconds) < 2 * min(seconds)


def test_fabric_links_in_parallel_combine_faster():
    double = altered("papi", fabric={"count": 2})
    assert double.combine_s(ATTENTION_BLOCK, 10_000) < SYSTEMS["papi"].combine_s(ATTENTION_BLOCK, 10_000)


def test_one_gpu_has_nothing_to_combine():
    alone = altered("a100", fabric=None, pu={"count": 1})
    assert not alone.combine_s(ATTENTION_BLOCK, ROWS).any()
    assert not alone.combine_j(ATTENTION_BLOCK, ROWS).any()


def test_a_node_sums_the_partial_outputs_of_its_stacks():
    system = SYSTEMS["papi"]
    qkv, projection = ATTENTION_BLOCK
    # Of projection a GPU has partial sums of all outputs; of QKV a sixth of them, whole.
    assert system.stack_sum_s(projection, ROWS) == pytest.approx(HIDDEN_BYTES * 6 / 3352e9)
    assert system.stack_sum_s(qkv, ROWS) == pytest.approx(3 * HIDDEN_BYTES / 6 * 6 / 3352e9)
    assert system.stack_sum_j(qkv, ROWS) == pytest.approx(3 * HIDDEN_BYTES * 6 * 28.72e-12)
    # Without GPUs at the rate of the stacks; a host does it all at once.
    assert SYSTEMS["papi-pim-only"].stack_sum_s(projection, ROWS) == pytest.approx(HIDDEN_BYTES * 6 / 3328e9)
    assert not SYSTEMS["attacc-only"].stack_sum_s(projection, ROWS).any()


def test_attaccs_way_of_combining_can_be_had():
    ring = altered("papi", combining="attacc")
    assert (ring.combine_s(ATTENTION_BLOCK, ROWS) == attacc_all_reduce_s(HIDDEN_BYTES, 6, NVLINK3)).all()
    assert ring.combine_j(ATTENTION_BLOCK, ROWS) == pytest.approx(5 * HIDDEN_BYTES * 10.4e-12)
    assert not ring.stack_sum_s(ATTENTION_BLOCK[1], ROWS).any()
    alone = altered("attacc-only", combining="attacc")
    assert (alone.combine_s(ATTENTION_BLOCK, ROWS) == gather_and_broadcast_s(HIDDEN_BYTES, CXL)).all()
    assert alone.combine_j(ATTENTION_BLOCK, ROWS) == pytest.approx(2 * HIDDEN_BYTES * 40e-12)


def test_weight_stacks_need_something_to_combine_over():
    message = refusal(
        "papi-pim-only", fabric=None, attn_pim=None, attention_link=None, fc_pim={"runs": ("fc", "attention")}
    )
    assert "30 weight stacks have nothing to combine their outputs over" in message


# --- readings --------------------------------------------------------------------------------------


def test_readings_change_the_gpus_bandwidth_and_the_banks_rate_and_nothing_else():
    read = PAPI.with_readings(gpu_bandwidth="roofline", bank_rate="papi")
    assert read.pu.memory_bandwidth == 1935e9
    assert (read.fc_pim.cadence_clocks, read.attn_pim.cadence_clocks) == (2, 2)
    assert read.with_readings(gpu_bandwidth="hbm3", bank_rate="attacc") == PAPI


@NAMES
@pytest.mark.parametrize("bandwidth", ["roofline", "hbm3"])
@pytest.mark.parametrize("rate", ["attacc-limit", "attacc", "papi"])
def test_every_system_is_possible_under_every_reading(name, bandwidth, rate):
    read = SYSTEMS[name].with_readings(gpu_bandwidth=bandwidth, bank_rate=rate)
    assert System.model_validate(read.model_dump()) == read


def test_no_reading_leaves_a_system_as_it_is():
    assert PAPI.with_readings() == PAPI


@pytest.mark.parametrize(
    "reading", [{"gpu_bandwidth": "hbm2"}, {"bank_rate": "fast"}, {"gpu_bandwidth": 3352e9}, {"bank_rate": 2}]
)
def test_an_unknown_reading_is_answered_with_the_known_ones(reading):
    with pytest.raises(ConfigurationError, match=r"Unknown .* reading .* Known: "):
        PAPI.with_readings(**reading)


# --- what is refused -------------------------------------------------------------------------------


def test_a_system_needs_a_unit_for_fc_kernels():
    assert "no unit can run FC kernels" in refusal("papi-pim-only", fc_pim=None)


def test_a_system_whose_weight_stacks_run_attention_only_is_told_that_fc_is_missing():
    message = refusal("papi-pim-only", fc_pim={"runs": ("attention",)})
    assert "FC kernels" in message
    assert "no unit can run attention" not in message


def test_a_system_needs_a_unit_for_attention():
    assert "no unit can run attention" in refusal("papi-pim-only", attn_pim=None)
    assert altered("papi-pim-only", attn_pim=None, fc_pim={"runs": ("fc", "attention")}).unit_of(
        "attention"
    ) == ("fc-pim")


def test_attn_pim_needs_a_link():
    assert "attention_link" in refusal("papi", attention_link=None)


def test_60_stacks_are_more_than_pcie_addresses():
    assert "60 stacks on PCIe 5 x16, which takes 32 devices" in refusal(
        "papi", attention_link=PCIE5.model_dump()
    )
    fewer = altered("papi", attention_link=PCIE5.model_dump(), attn_pim={"stacks": 32})
    assert fewer.kv_capacity_bytes == 32 * 16 * GIB


def test_4096_devices_are_what_cxl_addresses():
    assert altered("papi", attn_pim={"stacks": 4096}).attn_pim.stacks == 4096
    assert "4097 stacks" in refusal("papi", attn_pim={"stacks": 4097})


def test_several_gpus_need_a_fabric_and_one_does_not():
    assert "6 GPUs need a fabric" in refusal("a100", fabric=None)
    assert altered("a100", fabric=None, pu={"count": 1}).pu.count == 1


def test_prefill_needs_the_unit_it_names():
    assert "prefill_unit is 'pu'" in refusal("attacc-only", prefill_unit="pu")
    assert "prefill_unit is 'fc-pim'" in refusal("a100", prefill_unit="fc-pim")
    assert "prefill_unit" in refusal("papi", prefill_unit="attn-pim")


def test_prefill_needs_a_unit_that_runs_fc_kernels():
    # Its time would be infinite.
    assert "prefill_unit" in refusal("papi", fc_pim={"runs": ("attention",)}, prefill_unit="fc-pim")


def test_a_gpu_that_would_exceed_its_board_power_is_refused_with_both_figures():
    assert "of 300 W" in refusal("papi-h100", pu={"board_power_w": 300})
    assert "would draw" in refusal("a100", pu={"memory_bandwidth": 20e12})


def test_too_many_banks_for_the_fpus_are_refused():
    assert "hold 96" in refusal("papi", fc_pim={"stack": {"banks_per_die": 100}})


@pytest.mark.parametrize("value", [math.nan, math.inf, -1e-9, 1.5, "soon"])
def test_a_mode_switch_takes_up_to_a_second(value):
    assert "mode_switch_s" in refusal("papi", mode_switch_s=value)


def test_an_unknown_field_is_refused():
    assert "extra_unit" in refusal("papi", extra_unit=1)


# --- capacity --------------------------------------------------------------------------------------


def test_gpt3_with_128_full_contexts_exceeds_the_kv_stacks():
    kv = 128 * 2048 * GPT3.kv_bytes_per_token  # 1237 GB; 60 stacks of 16 GiB are 1030.8 GB
    with pytest.raises(ConfigurationError, match=r"'papi'.* 1237\.0 GB.* 1030\.8 GB"):
        PAPI.check_capacity(GPT3.weight_bytes, kv)


def test_gpt3_with_64_full_contexts_exceeds_six_gpus_but_not_papi():
    kv = 64 * 2048 * GPT3.kv_bytes_per_token
    PAPI.check_capacity(GPT3.weight_bytes, kv)
    with pytest.raises(ConfigurationError, match=r"966\.4 GB \(weights 347\.9, KV 618\.5\).* hold 515\.4 GB"):
        SYSTEMS["a100"].check_capacity(GPT3.weight_bytes, kv)


def test_weights_that_exceed_their_stacks_are_refused_with_the_sizes():
    with pytest.raises(ConfigurationError, match=r"weights need 400\.0 GB.* hold 386\.5 GB"):
        PAPI.check_capacity(400 * 10**9, 0)


@pytest.mark.parametrize("name", ["papi", "a100", "attacc-only"])
def test_a_memory_filled_to_the_last_byte_is_accepted_and_one_byte_more_is_not(name):
    system = SYSTEMS[name]
    limit, kv = system.weight_capacity_bytes, system.kv_capacity_bytes
    system.check_capacity(limit, kv or 0)
    with pytest.raises(ConfigurationError, match="GB"):
        system.check_capacity(limit + 1, 0)
    with pytest.raises(ConfigurationError, match="GB"):
        system.check_capacity(0 if kv else limit, (kv or 0) + 1)


def test_links_go_by_their_names_and_parts_can_be_taken_away():
    assert altered("papi", attention_link="nvlink4").attention_link.bandwidth == 450e9
    assert "Unknown link 'nvlink'" in refusal("papi", attention_link="nvlink")
    assert altered("papi", fc_pim="none").fc_pim is None


def test_stacks_without_weights_run_no_fc_kernels():
    assert "hold no weights" in refusal("papi", attn_pim={"runs": ("fc", "attention")})


def test_weight_stacks_on_the_attention_link_count_as_its_devices():
    assert "2100 stacks" in refusal(
        "attacc-only", fc_pim={"stacks": 60}, attn_pim={"stacks": 2040}, attention_link={"max_devices": 2099}
    )


def test_a_cluster_follows_its_gpus():
    block = [kernel for kernel in GPT3.fc_kernels() if kernel.kernel_class == "feed_forward"]
    node = altered("h100", pu={"count": 8}, fabric="dgx-h100")
    cluster = altered(
        "h100", pu={"count": 32}, fabric={"base": "nvlink4", "per_node": 8, "between": "infiniband-ndr"}
    )
    assert node.combine_s(block, 7) == altered("h100", pu={"count": 8}).combine_s(block, 7)
    assert cluster.combine_s(block, 7) == all_reduce_s(7 * 2 * GPT3.hidden, 32, LINKS["dgx-h100"])
    assert cluster.weight_capacity_bytes == 4 * node.weight_capacity_bytes
    assert cluster.static_power_w == 4 * node.static_power_w


def test_a_cluster_that_cannot_be_is_refused():
    cluster = {"base": "dgx-h100"}
    assert "12 ranks on nodes of 8" in refusal("h100", pu={"count": 12}, fabric=cluster)
    assert "expected one level" in refusal("h100", pu={"count": 16}, fabric=cluster, combining="attacc")
    assert "attention_link 'DGX H100 cluster' has nodes" in refusal("papi", attention_link="dgx-h100")


def test_attention_runs_where_the_system_says():
    assert SYSTEMS["neupims-like"].unit_of("attention") == "fc-pim"
    assert altered("neupims-like", attention_unit=None).unit_of("attention") == "pu"
    message = refusal("papi", attention_unit="fc-pim")
    assert "attention_unit is 'fc-pim', which is not there or does not run attention" in message
    assert "expected 'pu' or 'attn-pim'" in message
    assert "attention_unit" not in SYSTEMS["papi"].model_dump()


def test_a_gpu_reads_no_more_than_its_stacks_of_another_technology_deliver():
    stack = {"technology": "hbm2e", "banks_per_die": 48}
    assert "A100 reads 3352 GB/s from 5 FC-PIM stacks of hbm2e, whose pins give 2304 GB/s" in refusal(
        "papi", fc_pim={"stack": stack}
    )
    slower = altered("papi", fc_pim={"stack": stack}, pu={"memory_bandwidth": 2.3e12})
    assert slower.weight_capacity_bytes == 30 * 8 * 48 * 32 * 2**20


def test_readings_of_papis_figures_are_of_its_hbm3_alone():
    for name in ("neupims-like", "aim-like", "cxl-pnm-like"):
        assert SYSTEMS[name].with_readings("roofline", "papi") == SYSTEMS[name]
