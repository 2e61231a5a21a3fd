"""Every command: one line says what it is for, its help shows every option, and nothing is built on it."""

import ast
import importlib
from pathlib import Path

import pytest

from experiments.__main__ import HERE, commands, main

# Another name of a command, which it calls.
ALIASES = {"tune_heuristic"}
# Read once: to name them, every command is parsed.
NAMES = sorted(commands())
# Comparing is not in its room yet: modules that import commands, and commands whose help is wide.
JOINED: set[str] = set()


def imported(path):
    """The commands that a module imports, wherever in it."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module == "experiments":
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith("experiments."):
            found.add(node.module.split(".")[1])
        elif isinstance(node, ast.Import):
            found |= {
                alias.name.split(".")[1] for alias in node.names if alias.name.startswith("experiments.")
            }
    return found & set(NAMES)


def test_every_command_says_in_a_line_what_it_is_for(capsys):
    main()
    lines = capsys.readouterr().out.splitlines()
    for name, words in commands().items():
        assert 0 < len(words) <= 80, name
        assert any(line.split()[:1] == [name] for line in lines)


@pytest.mark.parametrize("name", NAMES)
def test_its_help_shows_every_option(name, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "100")
    with pytest.raises(SystemExit) as left:
        importlib.import_module(f"experiments.{name}").main(["--help"])
    assert left.value.code == 0
    shown = capsys.readouterr().out
    # The line of usage is as long as it is.
    wide = [line for line in shown.splitlines() if len(line) > 100 and not line.startswith("usage:")]
    assert not wide or f"{name}.py" in JOINED
    assert "-h, --help" in shown


@pytest.mark.parametrize(
    "path", sorted(HERE.rglob("*.py")), ids=lambda path: str(Path(path).relative_to(HERE))
)
def test_nothing_is_built_on_a_command(path):
    assert path.stem in ALIASES or not imported(path) or path.relative_to(HERE).as_posix() in JOINED
