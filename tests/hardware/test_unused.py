"""What PIM units declare to run and never do."""

import pytest

from papi_env.hardware.system import SYSTEMS, System
from papi_env.hardware.unused import NeverChosenWarning, kept_quiet, never_chosen, warn_once


def altered(base, **changes):
    return System.model_validate({**SYSTEMS[base].model_dump(), **changes})


def inside(base="papi-1gpu", runs=("fc", "attention")):
    """A system whose FC-PIM, the GPUs' own memory, also runs attention."""
    return altered(base, fc_pim={**SYSTEMS[base].fc_pim.model_dump(), "runs": runs})


@pytest.mark.parametrize("system", SYSTEMS.values(), ids=lambda system: system.name)
@pytest.mark.parametrize("chosen", [("fc",), ("fc", "attention")])
def test_registered_systems_use_all_that_they_declare(system, chosen):
    assert never_chosen(system, chosen) == ()


@pytest.mark.parametrize(("base", "default"), [("papi-1gpu", "pu"), ("papi", "attn-pim")])
def test_attention_inside_the_gpus_stacks_is_never_chosen_where_only_fc_is(base, default):
    (found,) = never_chosen(inside(base), ("fc",))
    assert found == ("fc-pim", "attention", default, False)
    assert never_chosen(inside(base), ("fc", "attention")) == ()
    assert never_chosen(inside(base), ("fc",), run=("fc",)) == ()


def test_attention_without_gpus_and_attn_pim_is_the_default():
    fc_pim = {**SYSTEMS["papi-pim-only"].fc_pim.model_dump(), "runs": ("fc", "attention")}
    assert never_chosen(altered("papi-pim-only", fc_pim=fc_pim, attn_pim=None), ("fc",)) == ()


def test_a_unit_that_never_runs_anything_is_told_from_one_that_does():
    system = inside(runs=("attention",))
    (found,) = never_chosen(system, ("fc",))
    assert found.idle
    message = found.describe(system, "Decode-v0")
    assert "fc_pim.runs names 'attention'" in message
    assert "default is 'pu', and the unit never runs anything" in message


def test_what_was_kept_quiet_is_said_later_and_once():
    for _ in range(2):
        with kept_quiet() as found:
            warn_once("said here alone")
            warn_once("said here alone")
        assert found == ["said here alone"]
    with pytest.warns(NeverChosenWarning, match="said here alone"):
        warn_once("said here alone")
    warn_once("said here alone")  # a second warning would be an error
    with kept_quiet() as found:
        warn_once("said here alone")
    assert not found
