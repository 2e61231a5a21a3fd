"""How stacks with units beside their banks are cooled, and what they do when they get too hot."""

from __future__ import annotations

from itertools import pairwise

from pydantic import Field, model_validator

from papi_env.definition import Definition
from papi_env.quantities import Celsius, HeatCapacity, Slowdown, ThermalResistance


class Heat(Definition):
    """Stacks that warm up: one thermal node for each, with a resistance to what cools it and a heat capacity.

    A stack at temperature T with P watts follows T' = (P - (T - ambient) / resistance) / capacity. What it draws is
    its idle power and the joules that the energy accounts enter for its banks; what more frequent refreshes draw is
    left out. GPUs beside it are not modelled: what they do to a stack is in `ambient_c`.

    Above `refresh_at_c` a stack is refreshed twice as often, so that the share of time which its PIM commands lose to
    refreshes doubles. Once above `throttle_at_c` it issues PIM commands at a fraction of its rate, `throttle` times as
    slow, until it has cooled to `release_at_c`. Reads through the pins go on at their rate: they draw a fraction of
    the power, and a bank is read while another is refreshed (single-bank refresh, JESD238).
    """

    # chosen: a cooler made for HBM, at which a stack whose pins read all the time (666 GB/s at 26.3 pJ/B and 4 W idle,
    # 21.5 W) comes to 92 C, just below its throttle; range 0.2 to 2. CoolPIM (Nai et al., IPDPS 2018; its
    # numbers are not checked) has 0.2 K/W for the best heat sink of a memory cube with PIM, 0.5 for a server's, 2 for a
    # small one and 4 for one without a fan.
    resistance_k_per_w: ThermalResistance = Field(1.5, gt=0)
    # chosen: a stack of 121 mm2 (PAPI, section 5.2) and 0.72 mm (JESD238) of silicon at 1.63 J/(cm3 K) has 0.14 J/K,
    # 3 mm of copper on it at 3.45 J/(cm3 K) 1.25; range 0.14 (the stack alone) to 30 (its part of a heat sink).
    capacity_j_per_k: HeatCapacity = Field(1.4, gt=0)
    # chosen: the lid beside a GPU at work, which nvidia-smi shows at 60-75 C; range 30 (cold plate) to 70.
    ambient_c: Celsius = Field(60.0)
    # Up to 85 C DRAM keeps its data at the usual rate of refreshes, and beyond it twice as often for each 10 K (Eckert,
    # Jayasena and Loh, WoNDP 2014, after JEDEC): HBM2 is refreshed twice as often from 85 C and four times from 95 C,
    # where the throttle is here (Intel, "How does temperature affect the Stratix 10 HBM2 interface efficiency and
    # bandwidth?", whose controller also throttles from a temperature that users set). All checked.
    refresh_at_c: Celsius = Field(85.0)
    # The end of the range up to 95 C, and the "Memory Max Operating Temp" that nvidia-smi shows of an A100, from which
    # NVML's slow-down begins (that it is 95 C there is not checked).
    throttle_at_c: Celsius = Field(95.0)
    # chosen: 5 K, so that it does not change at every iteration; no data sheet says; range 0.5-10.
    release_at_c: Celsius = Field(90.0)
    # NVML: a hardware slow-down divides clocks "by a factor of 2 or more" (checked); range 1.25 (CoolPIM: a fifth of
    # the clock for each step of 10 K; not checked) to 4.
    throttle: Slowdown = Field(2.0, ge=1, le=10)

    @model_validator(mode="after")
    def _in_order(self) -> Heat:
        names = ("ambient_c", "refresh_at_c", "release_at_c", "throttle_at_c")
        for low, high in pairwise(names):
            below, above = getattr(self, low), getattr(self, high)
            if below >= above:
                raise ValueError(f"{low} is {below:g} and {high} {above:g}: expected {' < '.join(names)}")
        return self

    @property
    def time_constant_s(self) -> float:
        """Seconds in which a stack comes 63 % closer to the temperature that its power leads to."""
        return self.resistance_k_per_w * self.capacity_j_per_k
