"""Units like those of other published machines, for the systems whose names end in "-like".

"Like" says that a machine is rebuilt from its published shape with the parts and formulas of this package. What its
paper adds to them, such as mappings, compilers and control, is left out; each unit says what.
"""

from __future__ import annotations

from papi_env.hardware import dram
from papi_env.hardware.gpus import get_gpu
from papi_env.hardware.links import CXL
from papi_env.hardware.technology import LPDDR5
from papi_env.hardware.units import STACKS_PER_GPU, PimUnit, ProcessingUnit

# NeuPIMs (Heo et al., ASPLOS 2024): HBM beside each accelerator, whose banks multiply too, one unit a bank (Newton),
# and have a second row buffer, so that attention in memory goes beside the accelerator's reads. Here the accelerator is
# an A100, the HBM five cubes of HBM2E as on its 80 GB card, 2039 GB/s (data sheet). Left out: the second row buffers
# but for `dual_row_buffers` of serving, and sub-batch interleaving.
_CUBES = STACKS_PER_GPU
NEUPIMS_GPUS = 6
NEUPIMS_PIM = PimUnit(
    name="NeuPIMs HBM (1P1B)",
    stacks=NEUPIMS_GPUS * _CUBES,
    fpus_per_bank=1,
    stack=dram.Stack.model_validate({"technology": "hbm2e"}),
    runs=("attention",),
)
NEUPIMS_PU = get_gpu("a100", NEUPIMS_GPUS, _CUBES * NEUPIMS_PIM.stack.capacity_bytes).model_copy(
    update={"name": "A100 80GB", "memory_bandwidth": 2039e9}
)

# SK hynix's AiM (ISSCC 2022; Hot Chips 2022), 16 chips a card as on AiMX: one unit a bank at 1 GHz. All banks of a
# channel read the same elements from one buffer of 2 KiB, which is written before they multiply; each vector reads the
# weights again. Left out: activation functions in the chips, and AiM's own mapping of attention: heads lie on channels
# as AttAcc's do.
AIM_CHIPS_PER_CARD = 16
AIM_CARDS = 16
AIM_CHIPS = PimUnit(
    name="GDDR6-AiM (1P1B)",
    stacks=AIM_CARDS * AIM_CHIPS_PER_CARD,
    fpus_per_bank=1,
    stack=dram.Stack.model_validate({"technology": "gddr6-aim"}),
    runs=("fc", "attention"),
    cadence_clocks=2.0,
    column_reads="per-slot",
    double_buffered=False,
)

# Samsung's CXL-PNM (Park et al., "An LPDDR-based CXL-PNM Platform for TCO-efficient Inference of Transformer-based
# Large Language Models", HPCA 2024): a CXL module with an accelerator in its controller, and 512 GB of LPDDR5X at
# 1.1 TB/s.
# Arithmetic is beside the controller, so that it is a processing unit here, timed by the roofline.
# chosen: 8.2 TFLOP/s, range 4-16: matrix units of some thousand FP16 multipliers at 1 GHz. chosen: 150 W a module, 40 W
# idle; range 75-200 and 20-60. Left out: starts of kernels, and the accelerator's units for vectors and softmax.
PNM_PACKAGES = 8
PNM_MODULE = ProcessingUnit(
    name="CXL-PNM",
    count=8,
    peak_flops=8.2e12,
    memory_bandwidth=PNM_PACKAGES * LPDDR5.interface_bandwidth,
    memory_bytes=PNM_PACKAGES * LPDDR5.capacity_bytes,
    stacks=0,
    memory_j_per_byte=LPDDR5.off_chip_j_per_byte,
    idle_power_w=40.0,
    board_power_w=150.0,
)

# Cards or modules on CXL sum by a reduce-scatter and an all-gather, each of which moves the message once.
CXL_FABRIC = CXL.model_copy(
    update={"name": "CXL (PCIe 5 x16), all-reduce", "exchange_bandwidth": CXL.bandwidth / 2}
)
