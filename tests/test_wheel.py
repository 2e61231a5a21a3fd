"""What is installed: a wheel with the package, its command and the policies, that needs nothing of the checkout."""

import os
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

import papi_env
from tests.test_code import tracked

ROOT = Path(__file__).resolve().parents[1]
BACKEND = ".build/"
# As whatever builds a project does: the hooks of the module that pyproject.toml names.
BUILD = """
import importlib, sys, tomllib
with open("pyproject.toml", "rb") as file:
    system = tomllib.load(file)["build-system"]
sys.path[:0] = system["backend-path"]
hooks = importlib.import_module(system["build-backend"])
getattr(hooks, sys.argv[1])("dist")
"""


def files():
    """What a build reads."""
    listed = subprocess.run(["git", "-C", str(ROOT), "ls-files", "-z"], capture_output=True, text=True)
    names = listed.stdout.split("\0") if listed.returncode == 0 else []
    names = names or [str(path.relative_to(ROOT)) for path in ROOT.rglob("*") if path.is_file()]
    return [
        name
        for name in names
        if name and (name.startswith(BACKEND) or not name.startswith(("tests/", "experiments/", ".")))
        if (ROOT / name).is_file()
    ]


def built(what, folder, pattern):
    """A file that a hook leaves in `dist`."""
    done = subprocess.run([sys.executable, "-c", BUILD, what], cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    (found,) = (folder / "dist").glob(pattern)
    return found


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """The folder of an unpacked wheel, built from the source distribution of a copy, as builders do."""
    copy = tmp_path_factory.mktemp("checkout")
    for name in files():
        (copy / name).parent.mkdir(parents=True, exist_ok=True)
        (copy / name).write_bytes((ROOT / name).read_bytes())
    sources = tmp_path_factory.mktemp("sources")
    with tarfile.open(built("build_sdist", copy, "papi_env-*.tar.gz")) as archive:
        archive.extractall(sources, filter="data")
    (unpacked,) = sources.iterdir()
    folder = tmp_path_factory.mktemp("site")
    with zipfile.ZipFile(built("build_wheel", unpacked, "papi_env-*.whl")) as archive:
        archive.extractall(folder)
    return folder


def run(folder, *arguments):
    """What a command of the unpacked wheel prints, far from the checkout. Not compiled, which would take longer."""
    environment = {**os.environ, "PYTHONPATH": str(folder), "NUMBA_DISABLE_JIT": "1"}
    done = subprocess.run(
        [sys.executable, *arguments], cwd=folder.parent, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


def test_it_holds_the_package_alone(installed):
    tops = {path.name for path in installed.iterdir() if not path.name.endswith(".dist-info")}
    assert tops == {"papi_env"}
    assert not (installed / "papi_env/_agents/pretrained").exists()
    (info,) = installed.glob("*.dist-info")
    assert info.name == f"papi_env-{papi_env.__version__}.dist-info"
    assert "papi-env = papi_env.commands.main:main" in (info / "entry_points.txt").read_text()


def test_it_holds_every_module_of_the_policies(installed):
    shipped = {
        str(p.relative_to(installed / "papi_env/_agents")) for p in installed.glob("papi_env/_agents/**/*.py")
    }
    assert shipped == {name.removeprefix("agents/") for name in tracked() if name.startswith("agents/")}


def test_its_command_lists_and_plays(installed):
    assert "6 A100 whose 30 stacks are FC-PIM" in run(installed, "-m", "papi_env", "list", "systems")
    names = run(installed, "-m", "papi_env", "list", "policies", "--names").split()
    assert {"threshold", "static-pu", "static-fc-pim", "heuristic"} <= set(names)
    assert "learned" not in names
    text = run(installed, "-m", "papi_env", "play", "--policy", "threshold", "--batch-size", "1")
    assert "FC kernels on fc-pim" in text


def test_its_policies_are_those_of_the_checkout(installed):
    code = (
        "import sys, papi_env.policies as p; policy = p.make_policy('static-pu'); "
        "print(type(policy).__module__, 'agents' in sys.modules)\n"
        "try: p.make_policy('learned')\n"
        "except p.ConfigurationError as error: print(error)\n"
        "import gymnasium, papi_env\n"
        "envs = gymnasium.make_vec(papi_env.DECODE, 1, batch_size=1, autoreset_mode='Disabled')\n"
        "print(p.evaluate(policy, envs, [0])['iterations'][0] > 0)"
    )
    first, second, third = run(installed, "-c", code).splitlines()
    assert first == "papi_env._agents.batch.rules False"
    assert "comes with the checkout alone" in second
    assert third == "True"
