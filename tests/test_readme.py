"""README tells the truth: its Python runs, and the names that it lists are those that are registered."""

import importlib
import re
from itertools import product
from pathlib import Path

import pytest

from agents.registry import POLICIES, SERVICE_POLICIES, SERVING_POLICIES, make_policy
from experiments.__main__ import commands
from papi_env.envs.registration import ENV_IDS
from papi_env.hardware.system import SYSTEMS
from papi_env.scenario import SCENARIOS
from papi_env.workload.transformer import TRANSFORMERS
from papi_env.workload.vision.network import REPMLPNETS

README = (Path(__file__).resolve().parents[1] / "README.md").read_text(encoding="utf-8")


def listed(title):
    """The names in backticks of a bullet, with `{a,b}/{model}` and `a[-spec2|4]` written out."""
    bullet = re.search(rf"^\* {title}: (.*?)(?=^\* |^$)", README, re.M | re.S)
    assert bullet, f"README lists no {title}"
    return [name for text in re.findall(r"`([^`]+)`", bullet[1]) for name in written_out(text)]


def written_out(text):
    """Every name that a pattern stands for."""
    options = re.fullmatch(r"(.*)\[(-[a-z]+)([\d|]+)\]", text)
    if options:
        stem, suffix, numbers = options.groups()
        return [stem, *(f"{stem}{suffix}{number}" for number in numbers.split("|"))]
    parts = re.split(r"\{([^}]*)\}", text)
    choices = [part.split(",") if k % 2 else [part] for k, part in enumerate(parts)]
    return ["".join(chosen) for chosen in product(*choices)]


def test_patterns_are_written_out():
    assert written_out("{a,b}/{model}") == ["a/model", "b/model"]
    assert written_out("rule[-spec2|4]") == ["rule", "rule-spec2", "rule-spec4"]


@pytest.mark.parametrize("block", re.findall(r"```python\n(.*?)```", README, re.S))
def test_its_python_runs(block, capsys):
    exec(compile(block, "README.md", "exec"), {})
    assert capsys.readouterr().out.strip()


def test_it_lists_every_system():
    assert sorted(listed("Systems")) == sorted(SYSTEMS)


def test_it_lists_every_model():
    prefix = "repmlpnet-"
    found = listed("Models")
    short = {name.removeprefix(prefix) for name in REPMLPNETS}
    assert {name for name in found if name.removeprefix(prefix) not in short} == set(TRANSFORMERS)
    assert {name.removeprefix(prefix) for name in found} & short == short


def test_it_lists_every_scenario():
    families = {name.replace("{model}", "").rstrip("/") for name in listed("Scenarios")}
    families = {family.removesuffix("/model") for family in families}
    assert families == {name.partition("/")[0] for name in SCENARIOS}


def test_it_lists_every_policy():
    found = listed("Policies")
    # Every fixed joint action goes by a name of its own.
    assert [name for name in found if name.startswith("fixed-")] == ["fixed-UNIT-TLP-ADMISSION-OVERLAP"]
    known = {*POLICIES, *SERVING_POLICIES, *SERVICE_POLICIES}
    named = {name for name in found if "+" not in name} - {"fixed-UNIT-TLP-ADMISSION-OVERLAP"}
    assert known - {"static"} <= named <= known
    # Of names with parts one is an example.
    for name in set(found) - named - {"fixed-UNIT-TLP-ADMISSION-OVERLAP"}:
        make_policy(name)


def test_it_lists_every_problem():
    assert [env_id for env_id in re.findall(r"^\| `(papi_env/[A-Z][^`]+)` \|", README, re.M)] == list(ENV_IDS)


def test_it_shows_every_command():
    assert set(re.findall(r"experiments\.([a-z_]+)", README)) >= set(commands())


def test_what_it_names_in_the_package_is_there():
    for name in set(re.findall(r"`(papi_env(?:\.\w+)+)`", README)):
        try:
            importlib.import_module(name)
        except ModuleNotFoundError:
            module, _, attribute = name.rpartition(".")
            assert hasattr(importlib.import_module(module), attribute), name
