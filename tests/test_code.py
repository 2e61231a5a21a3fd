"""The code itself: style and types, as the project's own settings ask.

Only files that git tracks are looked at, so that what users keep in their checkout is their own affair.
"""

import ast
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
# What mypy's settings name as packages.
TYPED = ("papi_env/", "agents/", "experiments/")
# What decides beside the code: types are those of numpy's stubs, too.
JUDGES = {"ruff": ["ruff"], "mypy": ["mypy", "numpy"]}


def tracked(folder=ROOT):
    """Python files that git tracks, or all of them where there is no git."""
    command = ["git", "-C", str(folder), "ls-files", "-z", "*.py"]
    try:
        listed = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError):
        return sorted(
            str(path.relative_to(folder)) for path in folder.rglob("*.py") if ".venv" not in path.parts
        )
    return sorted(name for name in listed.split("\0") if name and (folder / name).exists())


@pytest.mark.parametrize(
    "command",
    [["ruff", "check"], ["ruff", "format", "--check"], ["mypy"]],
    ids=" ".join,
)
def test_the_code_passes(command):
    pins = (ROOT / "experiments/constraints.txt").read_text(encoding="utf-8").splitlines()
    for package in JUDGES[command[0]]:
        if f"{package}=={version(package)}" not in pins:
            pytest.skip(f"{package} {version(package)}: what judges is in experiments/constraints.txt")
    files = [name for name in tracked() if command != ["mypy"] or name.startswith(TYPED)]
    result = subprocess.run(
        [sys.executable, "-m", *command, *files], cwd=ROOT, capture_output=True, text=True, timeout=600
    )
    assert result.returncode == 0, result.stdout + result.stderr


def test_a_users_own_file_is_not_looked_at(tmp_path):
    subprocess.run(["git", "init", "-q", str(tmp_path)], check=True)
    (tmp_path / "ours.py").write_text("x = 1\n")
    (tmp_path / "my_module.py").write_text("import os, sys\n")
    subprocess.run(["git", "-C", str(tmp_path), "add", "ours.py"], check=True)
    assert tracked(tmp_path) == ["ours.py"]


@pytest.mark.parametrize("name", [name for name in tracked() if name.startswith(TYPED)])
def test_no_constant_is_given_two_values(name):
    """Neither ruff nor mypy minds a second value of a module's constant, which the first name's users then get."""
    found = []
    for node in ast.parse((ROOT / name).read_text(encoding="utf-8")).body:
        targets = node.targets if isinstance(node, ast.Assign) else []
        for target in targets:
            for one in target.elts if isinstance(target, ast.Tuple) else [target]:
                if isinstance(one, ast.Name) and one.id.isupper():
                    found.append(one.id)
    assert len(found) == len(set(found)), sorted(one for one in set(found) if found.count(one) > 1)
