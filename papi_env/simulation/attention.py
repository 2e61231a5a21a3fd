"""The time of decode attention, for compiled code: the functions of `papi_env.hardware.attention`, as they are."""

from __future__ import annotations

from numba.extending import register_jitable

from papi_env.hardware import attention
from papi_env.hardware.attention import Share as Share
from papi_env.hardware.attention import Work as Work

busiest = register_jitable(attention.busiest)
busy = register_jitable(attention.busy)
attention_time = register_jitable(attention.attention_time)
