"""The numbers behind the figures of `python -m experiments.reproduce`, as plain data.

Kernels and units come straight from the hardware's functions, batches from the engine. Published values
are those of PAPI (ASPLOS 2025) unless said otherwise; a figure's data holds them under "paper", and only
there. Seconds, joules, bytes and FLOP throughout, unless a name says otherwise.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np
from gymnasium.vector import AutoresetMode

from experiments.arena.play import play
from experiments.arena.settings import PAPER_BATCH_SIZES, PAPER_SPECULATION
from experiments.common.statistics import geometric_mean
from experiments.paper.published import published_value
from papi_env.envs.decode import DecodeVectorEnv
from papi_env.envs.registration import DECODE
from papi_env.hardware import costs, dram
from papi_env.hardware.system import BANK_RATE_READINGS, GPU_BANDWIDTH_READINGS, System, get_system
from papi_env.hardware.table import CostTable
from papi_env.hardware.units import FC_PIM, PU
from papi_env.kernel import FloatArray
from papi_env.scenario import get_scenario
from papi_env.workload.transformer import FC_CLASSES, PRESET_MODELS, Transformer, get_transformer

Data: TypeAlias = dict[str, Any]

BASELINE = "a100-attacc"
# The policy that each system of the paper runs.
POLICY: Mapping[str, str] = {
    "papi": "threshold",
    "a100-attacc": "static",
    "a100-hbm-pim": "static",
    "attacc-only": "static",
    "papi-pim-only": "static",
}
RIVALS = ("a100-attacc", "a100-hbm-pim", "attacc-only")
# PAPI, section 7.1: general-qa is shown for one model.
MODELS: Mapping[str, tuple[str, ...]] = {
    "creative-writing": ("llama-65b", "gpt3-66b", "gpt3-175b"),
    "general-qa": ("gpt3-175b",),
}
INITIAL_BATCHES = (4, 8, 16, 32, 64, 128)
SPECULATION_LENGTHS = tuple(range(1, 9))
GRID = tuple((batch, tlp) for batch in PAPER_BATCH_SIZES for tlp in PAPER_SPECULATION)


class Cells:
    """Episodes of the paper's systems under one pair of readings; nothing is played twice.

    Args:
        seeds: episodes of a cell, with the seeds 0, 1, ...
        gpu_bandwidth: reading of the A100's bandwidth (`System.with_readings`); None keeps the registered.
        bank_rate: reading of a bank's rate; None keeps the registered.
        systems: gives a system by its registered name, for other constants than the registered ones.
    """

    def __init__(
        self,
        seeds: int,
        gpu_bandwidth: str | None = None,
        bank_rate: str | None = None,
        systems: Callable[[str], System] = get_system,
    ) -> None:
        self.seeds, self._systems = range(seeds), systems
        self.readings = (gpu_bandwidth, bank_rate)
        self._played: dict[tuple[str, str, int, int], dict[str, FloatArray]] = {}

    def system(self, name: str) -> System:
        """The system of that name under the readings."""
        return self._systems(name).with_readings(*self.readings)

    def metrics(self, system: str, scenario: str, batch: int, tlp: int) -> dict[str, FloatArray]:
        """The engine's METRIC_NAMES, [seeds] each, of the system under the paper's policy for it."""
        key = (system, scenario, batch, tlp)
        if key not in self._played:
            setting = get_scenario(scenario).replace(
                system=self.system(system), batch_size=batch, speculation=tlp
            )
            columns = play(DECODE, setting, POLICY[system], self.seeds)
            self._played[key] = {name: np.asarray(column) for name, column in columns.items()}
        return self._played[key]

    def gains(
        self, metric: str, system: str, over: str, scenario: str, settings: Sequence[tuple[int, int]]
    ) -> FloatArray:
        """How many times less of `metric` `system` takes than `over`, paired by seed: [settings, seeds]."""
        return np.stack(
            [
                self.metrics(over, scenario, *setting)[metric]
                / self.metrics(system, scenario, *setting)[metric]
                for setting in settings
            ]
        )


# --- kernels and units -------------------------------------------------------------------------------


def fc_seconds(system: System, model: Transformer, unit: int) -> FloatArray:
    """Seconds of a decode iteration's FC kernels on a unit for n = 0..1024 rows, all layers."""
    return np.asarray(CostTable(system, model.fc_kernels()).seconds[:, unit].sum(axis=0))


def fc_intensity(model: Transformer, n: int) -> float:
    """FLOP per byte of all FC kernels of a layer together, with n rows; weights and activations move once."""
    kernels = [kernel.with_rows(n) for kernel in model.fc_kernels()]
    size = sum(kernel.weight_bytes + kernel.activation_bytes for kernel in kernels)
    return sum(kernel.flops for kernel in kernels) / size


def square_intensity(hidden: int, n: int) -> float:
    """FLOP/B of an h x h kernel with n rows: 2 n h^2 / (2 (2 n h + h^2)) (PAPI, section 3.1)."""
    return 2 * n * hidden**2 / (2 * (2 * n * hidden + hidden**2))


def roofline(cells: Cells) -> Data:
    """Figure 2: roofs of 6 A100 under both bandwidth readings and of FC-PIM, and kernels under them.

    A kernel's rate is what the cost model gives on the A100s under the cells' reading: sustained shares of
    the peaks, so points lie below the roof. Attention counts keys, values and multiply-accumulates only.
    """
    roofs = {}
    for reading in GPU_BANDWIDTH_READINGS:
        pu = cells.system("papi").with_readings(reading).pu
        assert pu is not None
        roofs[reading] = _roof(pu.total_flops, pu.total_bandwidth)
    system = cells.system("papi")
    pu, pim = system.pu, system.fc_pim
    assert pu is not None
    assert pim is not None
    roofs["fc-pim"] = _roof(pim.peak_flops, pim.peak_bandwidth)
    kernels: dict[str, list[Data]] = {}
    attention: dict[str, list[Data]] = {}
    for name in ("opt-30b", "llama-65b"):
        model = get_transformer(name)
        seconds = fc_seconds(system, model, PU)
        flops_per_row = sum(kernel.flops * kernel.count for kernel in model.fc_kernels())
        kernels[name] = [
            {
                "batch": batch,
                "speculation": tlp,
                "n": batch * tlp,
                "intensity": fc_intensity(model, batch * tlp),
                "flops_per_s": flops_per_row * batch * tlp / float(seconds[batch * tlp]),
            }
            for batch in INITIAL_BATCHES
            for tlp in (1, 2, 4, 8)
        ]
        kernel = model.attention_kernel()
        attention[name] = []
        for tlp in (1, 2, 4, 8):
            flops = 2 * tlp * kernel.macs_per_context_token
            rate = flops / float(costs.pu_attention_s(pu, kernel, 1, tlp))
            point = {"speculation": tlp, "intensity": flops / kernel.kv_bytes_per_token, "flops_per_s": rate}
            attention[name].append(point)
    return {
        "roofs": roofs,
        "fc": kernels,
        "attention": attention,
        # OPT-30B, batch 4, speculation 8; the paper gives no formula for attention.
        "paper": {"ridge": 161, "fc_opt-30b_batch4_speculation8": 31.7, "attention": 7.0},
    }


def _roof(flops: float, bandwidth: float) -> Data:
    return {"flops_per_s": flops, "bytes_per_s": bandwidth, "ridge": flops / bandwidth}


def rlp_decay(batches: int = 256) -> Data:
    """Figure 3: requests still decoding by iteration, speculation 1, over `batches` batches drawn.

    For each dataset and batch size: iterations; the mean RLP, in which a batch that has ended counts 0;
    its 10th and 90th percentiles; and the RLP averaged over a batch's own iterations.
    """
    datasets: dict[str, dict[str, Data]] = {}
    for dataset in MODELS:
        datasets[dataset] = {}
        for batch in PAPER_BATCH_SIZES:
            scenario = get_scenario(f"{dataset}/llama-65b").replace(batch_size=batch, speculation=1)
            env = DecodeVectorEnv(scenario, num_envs=batches, autoreset_mode=AutoresetMode.DISABLED)
            env.reset(seed=list(range(batches)))
            # With one token an iteration, a request decodes as long as it has outputs.
            outputs = env.engine.remaining
            longest = outputs.max(axis=1)
            at = np.arange(1, longest.max() + 1, 8)
            rlp = (outputs[:, :, None] >= at).sum(axis=1)
            low, high = np.quantile(rlp, (0.1, 0.9), axis=0)
            datasets[dataset][str(batch)] = {
                "iteration": at.tolist(),
                "mean": rlp.mean(axis=0).tolist(),
                "low": low.tolist(),
                "high": high.tolist(),
                "mean_rlp": float((outputs.sum(axis=1) / longest).mean()),
            }
    # Measured on Dolly 15k for this project, creative writing: no figure of the paper.
    return {
        "batches": batches,
        "datasets": datasets,
        "notes_mean_rlp_creative_writing": dict(
            zip(map(str, PAPER_BATCH_SIZES), (2.2, 4.9, 11.5), strict=True)
        ),
    }


def fc_latency(cells: Cells, model: str = "llama-65b") -> Data:
    """Figure 4: seconds of an iteration's FC kernels on A100s, 30 AttAcc stacks and FC-PIM, n = 1..256.

    Under each bandwidth reading FC-PIM is there a second time: a GPU sums its stacks' outputs at its bandwidth.
    """
    n = range(1, 257)
    shape = get_transformer(model)
    seconds = {
        "attacc": fc_seconds(cells.system("attacc-only"), shape, FC_PIM),
        "fc-pim": fc_seconds(cells.system("papi"), shape, FC_PIM),
    }
    alpha = {}
    for reading in GPU_BANDWIDTH_READINGS:
        system = cells.system("papi").with_readings(reading)
        seconds[f"a100-{reading}"] = fc_seconds(system, shape, PU)
        seconds[f"fc-pim-{reading}"] = fc_seconds(system, shape, FC_PIM)
        alpha[reading] = CostTable(system, shape.fc_kernels()).calibrate_alpha()
    return {
        "model": model,
        "n": list(n),
        "seconds": {name: values[1:257].tolist() for name, values in seconds.items()},
        "alpha": alpha,
        "paper": {"attacc_ahead_at": 8, "a100_ahead_from": 16},
    }


def intensity() -> Data:
    """Figure 6: the estimate n against the intensity by the formula, and that of a layer's FC kernels."""
    n = [2**k for k in range(11)]
    return {
        "n": n,
        "formula": {name: [square_intensity(m.hidden, x) for x in n] for name, m in PRESET_MODELS.items()},
        "layer": {name: [fc_intensity(m, x) for x in n] for name, m in PRESET_MODELS.items()},
        "paper": {"model": "opt-30b", "n": 32, "intensity": 31.7},
    }


def energy_and_power() -> Data:
    """Figure 7: DRAM's share of PIM energy, and watts of a 16 GB cube's stack, by reuse of a column."""
    reuse = [2**k for k in range(7)]
    read_j = dram.COLUMN_BYTES * dram.READ_WITH_ACTIVATION_J_PER_BYTE
    mac_j = dram.LANES * dram.MAC_J
    designs = {"1P2B": 0.5, "1P1B": 1.0, "2P1B": 2.0, "4P1B": 4.0}
    power: dict[str, dict[str, list[float]]] = {}
    for reading in ("papi", "attacc-limit"):
        power[reading] = {}
        for name, fpus in designs.items():
            banks = dram.DIES * dram.max_banks_per_die(fpus)
            clocks = BANK_RATE_READINGS[reading]
            power[reading][name] = [dram.stack_power(banks, fpus, clocks, r) for r in reuse]
    return {
        "reuse": reuse,
        "dram_share": [read_j / r / (read_j / r + mac_j) for r in reuse],
        "power_w": power,
        "cadence_clocks": {name: BANK_RATE_READINGS[name] for name in power},
        "bank_gb_per_s": {
            name: dram.COLUMN_BYTES / (BANK_RATE_READINGS[name] * dram.CLOCK_S) / 1e9 for name in power
        },
        "background_w": dram.BACKGROUND_POWER_W,
        "paper": {"dram_share": {"1": 0.967, "64": 0.331}, "budget_w": dram.CUBE_POWER_W},
    }


# --- whole systems -----------------------------------------------------------------------------------

# The rows of `experiments.paper.published` for PAPI's gains over each rival.
_GAIN_ROWS: Mapping[str, Mapping[str, Mapping[str, str]]] = {
    "total_s": {
        "creative-writing": {"a100-attacc": "E1", "a100-hbm-pim": "E2", "attacc-only": "E3"},
        "general-qa": {"a100-attacc": "E4", "a100-hbm-pim": "E5", "attacc-only": "E6"},
    },
    "total_j": {
        "creative-writing": {"a100-attacc": "N1", "attacc-only": "N3"},
        "general-qa": {"a100-attacc": "N2", "attacc-only": "N4"},
    },
}


def end_to_end(cells: Cells, metric: str) -> Data:
    """Figures 8 and 9: gains over A100+AttAcc by dataset, model and setting, and PAPI's mean gains.

    Args:
        cells: what is played.
        metric: "total_s" (prefill and decoding) or "total_j" (both, static power included).

    Returns:
        `gains`, the geometric mean over seeds by scenario, system and setting; `papi_over`, PAPI's gain by
        dataset and system, geometric over models, settings and seeds.
    """
    gains: dict[str, dict[str, list[float]]] = {}
    papi_over: dict[str, dict[str, float]] = {}
    for dataset, models in MODELS.items():
        for scenario in (f"{dataset}/{model}" for model in models):
            gains[scenario] = {
                system: [geometric_mean(row) for row in cells.gains(metric, system, BASELINE, scenario, GRID)]
                for system in ("papi", *RIVALS)
            }
        papi_over[dataset] = {
            rival: geometric_mean(
                np.stack([cells.gains(metric, "papi", rival, f"{dataset}/{model}", GRID) for model in models])
            )
            for rival in RIVALS
        }
    return {
        "metric": metric,
        "settings": [list(setting) for setting in GRID],
        "gains": gains,
        "papi_over": papi_over,
        "paper": {
            dataset: {rival: published_value(row) for rival, row in rows.items()}
            for dataset, rows in _GAIN_ROWS[metric].items()
        },
    }


def sensitivity(cells: Cells, scenario: str = "creative-writing/llama-65b") -> Data:
    """Figure 10: speed-up over A100+AttAcc by initial RLP (speculation 1) and by TLP (batch 4)."""
    by_rlp = [(batch, 1) for batch in INITIAL_BATCHES]
    by_tlp = [(4, tlp) for tlp in SPECULATION_LENGTHS]

    def curves(settings: Sequence[tuple[int, int]]) -> dict[str, list[float]]:
        return {
            system: [
                geometric_mean(row) for row in cells.gains("total_s", system, BASELINE, scenario, settings)
            ]
            for system in ("papi", *RIVALS)
        }

    mean_over = {
        rival: geometric_mean(cells.gains("total_s", "papi", rival, scenario, by_tlp))
        for rival in (BASELINE, "attacc-only")
    }
    return {
        "scenario": scenario,
        "rlp": list(INITIAL_BATCHES),
        "by_rlp": curves(by_rlp),
        "tlp": list(SPECULATION_LENGTHS),
        "by_tlp": curves(by_tlp),
        "papi_over_mean_by_tlp": mean_over,
        "paper": {
            "papi_over_mean_by_tlp": {
                "a100-attacc": published_value("S1"),
                "attacc-only": published_value("S2"),
            }
        },
    }


def pim_only(cells: Cells) -> Data:
    """Figure 11: decoding of PIM-only PAPI over AttAcc-only by setting, creative writing, three models."""
    played = {
        model: cells.gains("time_s", "papi-pim-only", "attacc-only", f"creative-writing/{model}", GRID)
        for model in MODELS["creative-writing"]
    }
    return {
        "settings": [list(setting) for setting in GRID],
        "speedup": {model: [geometric_mean(row) for row in rows] for model, rows in played.items()},
        "mean": geometric_mean(np.stack(list(played.values()))),
        "paper": {
            "mean": published_value("P1"),
            "batch4_speculation1": published_value("P2"),
            "batch64_speculation4": published_value("P3"),
        },
    }


def breakdown(cells: Cells, scenario: str = "creative-writing/llama-65b") -> Data:
    """Figure 12: seconds of a mean decode iteration by cause, batch 4 and speculation 4, both PIM-only systems."""
    parts = {
        "fc": tuple(f"{kind}_s" for kind in FC_CLASSES),
        "attention": ("attention_s",),
        "communication": ("communication_s",),
        "other": ("switching_s", "other_s"),
        "total": ("time_s",),
    }
    seconds = {}
    for system in ("attacc-only", "papi-pim-only"):
        played = cells.metrics(system, scenario, 4, 4)
        seconds[system] = {
            part: float(sum(played[name].sum() for name in names) / played["iterations"].sum())
            for part, names in parts.items()
        }
    attacc, papi = seconds["attacc-only"], seconds["papi-pim-only"]
    return {
        "scenario": scenario,
        "seconds": seconds,
        "fc_speedup": attacc["fc"] / papi["fc"],
        "attention_speedup": attacc["attention"] / papi["attention"],
        "communication_share": papi["communication"] / papi["total"],
        "paper": {
            "fc_speedup": published_value("P4"),
            "attention_speedup": published_value("P5"),
            "communication_share": published_value("P6"),
        },
    }
