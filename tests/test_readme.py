"""Documents tell the truth: their Python runs and prints what they show, their commands, options and links exist, and
everything that is registered is listed in one that README leads to.
"""

import dataclasses
import importlib
import re
import shlex
import subprocess
import typing
from functools import cache
from itertools import product
from pathlib import Path

import pytest

from agents.registry import POLICIES, SERVICE_POLICIES, SERVING_POLICIES, make_policy
from experiments.__main__ import commands
from papi_env.commands.catalog import KINDS, find
from papi_env.commands.main import parser
from papi_env.envs.registration import ENV_IDS
from papi_env.hardware.system import SYSTEMS
from papi_env.scenario import SCENARIOS
from papi_env.workload.transformer import TRANSFORMERS
from papi_env.workload.vision.network import REPMLPNETS

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
_LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
# Programs whose options are not ours.
_COMMAND = re.compile(r"(?:python -m )?experiments\.([a-z_]+)((?:[ \t]+[^`\n|]*)?)")


def links(path):
    """Where the links of a document lead: (path, anchor)."""
    for target in _LINK.findall(path.read_text(encoding="utf-8")):
        if not re.match(r"[a-z]+://", target):
            name, _, anchor = target.partition("#")
            yield ((path.parent / name).resolve() if name else path), anchor


def documents():
    """README and the documents that it leads to, by any number of links."""
    found, left = [], [ROOT / "README.md"]
    while left:
        path = left.pop(0)
        if path not in found:
            found.append(path)
            left += [to for to, _ in links(path) if to.suffix == ".md" and to.is_file()]
    return found


DOCUMENTS = documents()
TEXT = "\n".join(path.read_text(encoding="utf-8") for path in DOCUMENTS)


def name_of(path):
    return path.relative_to(ROOT).as_posix()


def test_readme_is_short_and_its_two_commands_are_near_its_top():
    lines = README.splitlines()
    assert len(lines) <= 90
    where = [
        k
        for k, line in enumerate(lines)
        if re.match(r"python3 -m venv .* (pytest|experiments\.compare)$", line)
    ]
    assert len(where) == 2
    assert max(where) < 35


def test_readme_leads_to_every_document():
    listed = subprocess.run(["git", "-C", str(ROOT), "ls-files", "*.md"], capture_output=True, text=True)
    if listed.returncode:
        pytest.skip("no git")
    assert set(listed.stdout.split()) == set(map(name_of, DOCUMENTS))


@pytest.mark.parametrize("path", DOCUMENTS, ids=name_of)
def test_links_lead_somewhere(path):
    for target, anchor in links(path):
        assert target.exists(), target
        if anchor and target.suffix == ".md":
            titles = re.findall(r"^#+ (.*)$", target.read_text(encoding="utf-8"), re.M)
            assert anchor in {re.sub(r"[^\w\- ]", "", t.lower()).replace(" ", "-") for t in titles}, anchor


def blocks():
    """Every block of Python, with the text that is shown right below it, if any."""
    pattern = r"```python\n(.*?)```(?:\n\n```text\n(.*?)```)?"
    for path in DOCUMENTS:
        for k, (code, shown) in enumerate(re.findall(pattern, path.read_text(encoding="utf-8"), re.S)):
            yield pytest.param(code, shown, id=f"{name_of(path)}-{k}")


@pytest.mark.parametrize(("code", "shown"), list(blocks()))
def test_its_python_runs(code, shown, capsys):
    exec(compile(code, "document", "exec"), {})
    printed = capsys.readouterr().out
    assert printed.strip()
    assert not shown or printed == shown


def test_the_loop_of_readme_has_twelve_lines_and_shows_what_it_prints():
    ((code, shown),) = re.findall(r"```python\n(.*?)```\n\n```text\n(.*?)```", README, re.S)
    assert len(code.splitlines()) <= 12
    assert shown


@cache
def options(name):
    """Every option of a command, as it is written: fields of its configuration and of its parts, and old names."""
    module = importlib.import_module(f"experiments.{name}")
    while not hasattr(module, "Config"):  # another name of a command
        (module,) = [value for value in vars(module).values() if getattr(value, "Config", None)]
    found, left = set(), [module.Config]
    while left:
        cls = left.pop()
        hints = typing.get_type_hints(cls)
        for field in dataclasses.fields(cls):
            found |= {f"--{field.name.replace('_', '-')}", f"--no-{field.name.replace('_', '-')}"}
            left += [
                part
                for part in (hints[field.name], *typing.get_args(hints[field.name]))
                if dataclasses.is_dataclass(part)
            ]
    return found | {spelling.old for spelling in getattr(module, "SPELLINGS", ())} | {"--help"}


@pytest.mark.parametrize("path", DOCUMENTS, ids=name_of)
def test_its_commands_and_options_exist(path):
    text = path.read_text(encoding="utf-8")
    code = re.findall(r"`([^`\n]+)`", re.sub(r"```.*?```", "", text, flags=re.S))
    code += [line for block in re.findall(r"```sh\n(.*?)```", text, re.S) for line in block.splitlines()]
    known = commands()
    rooms = {path.stem for path in (ROOT / "experiments").iterdir()}
    for words in code:
        for name, rest in _COMMAND.findall(words):
            assert name in known or name in rooms, f"{name}: {words}"
            if name in known:
                asked = set(re.findall(r"(?<!\S)--[a-z][a-z0-9-]*", rest.partition("#")[0]))
                assert asked <= options(name), (words, asked - options(name))


def test_commands_of_the_package_can_be_asked_for():
    found = re.findall(r"(?:^|`|bin/)papi-env ((?:list|show|play)[^`\n#]*)", TEXT, re.M)
    assert len(found) > 8
    for words in found:
        if words.split()[-1] in ("show", "NAME", "KIND"):
            continue
        asked = parser().parse_args(shlex.split(words))
        if asked.command == "show":
            assert find(asked.name)
        if asked.command == "list":
            assert asked.kind is None or asked.kind in KINDS


def listed(title):
    """The names in backticks of a bullet, with `{a,b}/{model}` and `a[-spec2|4]` written out."""
    bullets = re.findall(rf"^\* {title}: (.*?)(?=^\* |^$)", TEXT, re.M | re.S)
    assert len(bullets) == 1, f"{len(bullets)} documents list {title}"
    return [name for text in re.findall(r"`([^`]+)`", bullets[0]) for name in written_out(text)]


def written_out(text):
    """Every name that a pattern stands for."""
    choices = re.fullmatch(r"(.*)\[(-[a-z]+)([\d|]+)\]", text)
    if choices:
        stem, suffix, numbers = choices.groups()
        return [stem, *(f"{stem}{suffix}{number}" for number in numbers.split("|"))]
    parts = re.split(r"\{([^}]*)\}", text)
    choices = [part.split(",") if k % 2 else [part] for k, part in enumerate(parts)]
    return ["".join(chosen) for chosen in product(*choices)]


def test_patterns_are_written_out():
    assert written_out("{a,b}/{model}") == ["a/model", "b/model"]
    assert written_out("rule[-spec2|4]") == ["rule", "rule-spec2", "rule-spec4"]


def test_every_system_is_listed():
    assert sorted(listed("Systems")) == sorted(SYSTEMS)


def test_every_model_is_listed():
    prefix = "repmlpnet-"
    found = listed("Models")
    short = {name.removeprefix(prefix) for name in REPMLPNETS}
    assert {name for name in found if name.removeprefix(prefix) not in short} == set(TRANSFORMERS)
    assert {name.removeprefix(prefix) for name in found} & short == short


def test_every_scenario_is_listed():
    families = {name.replace("{model}", "").rstrip("/") for name in listed("Scenarios")}
    families = {family.removesuffix("/model") for family in families}
    assert families == {name.partition("/")[0] for name in SCENARIOS}


def test_every_policy_is_listed():
    found = listed("Policies")
    # Every fixed joint action goes by a name of its own.
    assert [name for name in found if name.startswith("fixed-")] == ["fixed-UNIT-TLP-ADMISSION-OVERLAP"]
    known = {*POLICIES, *SERVING_POLICIES, *SERVICE_POLICIES}
    named = {name for name in found if "+" not in name} - {"fixed-UNIT-TLP-ADMISSION-OVERLAP"}
    assert known - {"static"} <= named <= known
    # Of names with parts one is an example.
    for name in set(found) - named - {"fixed-UNIT-TLP-ADMISSION-OVERLAP"}:
        make_policy(name)


def test_every_problem_is_listed():
    assert [env_id for env_id in re.findall(r"^\| `(papi_env/[A-Z][^`]+)` \|", TEXT, re.M)] == list(ENV_IDS)


def test_every_command_is_shown():
    assert set(re.findall(r"experiments\.([a-z_]+)", (ROOT / "experiments/README.md").read_text())) >= set(
        commands()
    )


def test_readers_are_told_which_option_runs_code():
    for sentence in re.split(r"(?<=[.;|])\s", (ROOT / "experiments/README.md").read_text(encoding="utf-8")):
        if "`MODULE:CLASS`" in sentence:
            assert re.search(r"import and\s+run", sentence)
            break
    else:
        pytest.fail("`MODULE:CLASS` is not explained")


@pytest.mark.parametrize("path", DOCUMENTS, ids=name_of)
def test_what_it_names_in_the_package_is_there(path):
    for name in set(re.findall(r"`(papi_env(?:\.\w+)+)`", path.read_text(encoding="utf-8"))):
        if name == "papi_env._agents":  # where a wheel has them
            continue
        try:
            importlib.import_module(name)
        except ModuleNotFoundError:
            module, _, attribute = name.rpartition(".")
            assert hasattr(importlib.import_module(module), attribute), name


def test_the_version_is_said_once_more_and_alike():
    version = importlib.import_module("papi_env").__version__
    assert re.search(rf'^version = "{re.escape(version)}"$', (ROOT / "pyproject.toml").read_text(), re.M)
    assert f"version: {version}\n" in (ROOT / "CITATION.cff").read_text()
    assert re.search(rf"^## {re.escape(version)}$", (ROOT / "CHANGELOG.md").read_text(), re.M)
