"""How rows of FC kernels are divided between PUs and FC-PIM, and what that takes, compiled."""

from __future__ import annotations

import numpy as np

from papi_env.simulation.compiled import exposed, inlined, lean
from papi_env.simulation.serving import state as at


@exposed
def shared_seconds(pu_rows, pim_rows, pu_factor, pim_factor, fc_s, bank_s, scalars):
    """Seconds of FC kernels whose rows are divided between PUs and FC-PIM, kernel by kernel.

    Without dual row buffers a stack serves one of them at a time: FC-PIM's work, the PUs' reads and the mode
    switches add up on the banks, and only the PUs' arithmetic beyond their reads is hidden.
    """
    # Unsigned: of other numbers numba asks whether they count from the end.
    on_pu, on_pim = np.uint64(pu_rows), np.uint64(pim_rows)
    pu = fc_s[at.PU, on_pu] * pu_factor
    pim = fc_s[at.FC_PIM, on_pim] * pim_factor
    if pu_rows == 0 or pim_rows == 0:
        return pu + pim
    if scalars[at.DUAL_BUFFERS] > 0.0:
        return max(pu, pim)
    switching = scalars[at.SWITCHES_PER_SPLIT] * scalars[at.SWITCH_S]
    return max(pu, pim + bank_s[on_pu] * pu_factor + switching)


@lean
def split_rows(decode_rows, prompt_rows, fc_s, bank_s, scalars):
    """How many of the decode rows the offline profile sends to FC-PIM when a kernel is split.

    More rows on FC-PIM lengthen its side and shorten the PUs', so the best is where they cross, or an end. FC-PIM
    takes rows by the slot: those that fill the slot at the crossing cost it nothing, and save the PUs a read.
    """
    switching = 0.0
    dual = scalars[at.DUAL_BUFFERS] > 0.0
    if not dual:
        switching = scalars[at.SWITCHES_PER_SPLIT] * scalars[at.SWITCH_S]
    low = 0
    high = decode_rows
    while low < high:
        middle = (low + high) // 2
        pu_rows = decode_rows - middle + prompt_rows
        pim = fc_s[at.FC_PIM, middle]
        if not dual:
            pim += bank_s[pu_rows] + switching
        if pim < fc_s[at.PU, pu_rows]:
            low = middle + 1
        else:
            high = middle
    best = 0
    least = shared_seconds(decode_rows + prompt_rows, 0, 1.0, 1.0, fc_s, bank_s, scalars)
    full = low
    while full < decode_rows and fc_s[at.FC_PIM, full + 1] == fc_s[at.FC_PIM, low]:
        full += 1
    for k in (max(low - 1, 0), low, full, decode_rows):
        seconds = shared_seconds(decode_rows - k + prompt_rows, k, 1.0, 1.0, fc_s, bank_s, scalars)
        if seconds < least:
            best = k
            least = seconds
    return best


@lean
def tabulate_splits(chunk, fc_s, bank_s, scalars, splits):
    """Write `split_rows` of 0, 1, .. decode rows alone, and beside a prompt's full chunk: int32 [2, rows]."""
    for rows in range(1, splits.shape[1]):
        splits[0, rows] = split_rows(rows, 0, fc_s, bank_s, scalars)
        splits[1, rows] = split_rows(rows, chunk, fc_s, bank_s, scalars)


@inlined
def chosen_split(decode_rows, prompt_rows, look):
    """`split_rows`, from its table where that has it: what that saves is in README.md of the folder above."""
    splits = look.splits
    if decode_rows < splits.shape[1]:
        if prompt_rows == 0:
            return np.int64(splits[0, np.uint64(decode_rows)])
        if prompt_rows == look.scalars[at.CHUNK]:
            return np.int64(splits[1, np.uint64(decode_rows)])
    return split_rows(decode_rows, prompt_rows, look.fc_s, look.bank_s, look.scalars)
