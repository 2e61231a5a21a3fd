"""The rooms: who may import whom, how deep imports go, how much a function takes."""

import ast
from functools import cache
from pathlib import Path

import pytest

from experiments.__main__ import commands

ROOT = Path(__file__).resolve().parents[1]
# From left to right: a room imports from itself and from those to its left.
ORDER = (
    (
        "papi_env.definition",
        "papi_env.errors",
        "papi_env.files",
        "papi_env.kernel",
        "papi_env.quantities",
        "papi_env.registry",
    ),
    ("papi_env.hardware",),
    ("papi_env.workload",),
    ("papi_env.scenario",),
    ("papi_env.simulation",),
    ("papi_env.envs",),
    ("papi_env", "papi_env.sb3", "papi_env.sb3_mixture"),
    ("agents",),
    ("papi_env.policies",),
    ("papi_env.commands", "papi_env.__main__"),
    ("experiments",),
)
MOST_FLOORS, MOST_ARGUMENTS = 10, 12


def modules():
    """Paths of all modules by dotted name."""
    found = {}
    for top in ("papi_env", "agents", "experiments"):
        for path in (ROOT / top).rglob("*.py"):
            name = ".".join(path.relative_to(ROOT).with_suffix("").parts)
            found[name.removesuffix(".__init__")] = path
    return found


@cache
def imports():
    """Modules of the project that each module imports, at its top or within."""
    known = modules()
    edges = {}
    for name, path in known.items():
        found = set()
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                found |= {alias.name for alias in node.names if alias.name in known}
            elif isinstance(node, ast.ImportFrom) and node.module:
                for alias in node.names:
                    inner = f"{node.module}.{alias.name}"
                    found |= {inner} if inner in known else {node.module} & set(known)
        edges[name] = found - {name}
    return edges


def room(name):
    """The position in ORDER of the room that a module is in: that of the longest matching name."""
    matching = [
        (len(part), position)
        for position, parts in enumerate(ORDER)
        for part in parts
        if name == part or name.startswith(f"{part}.")
    ]
    return max(matching)[1]


def test_rooms_import_only_to_their_left():
    wrong = [
        f"{name} imports {other}"
        for name, others in imports().items()
        for other in others
        if room(other) > room(name)
    ]
    assert not wrong


def test_experiments_have_no_circle_and_few_floors():
    edges = {
        name: {other for other in others if other.startswith("experiments")}
        for name, others in imports().items()
        if name.startswith("experiments")
    }

    def chain(name, above):
        assert name not in above, f"a circle: {' -> '.join([*above, name])}"
        below = [chain(other, (*above, name)) for other in edges[name]]
        return [name, *max(below, key=len, default=[])]

    longest = max((chain(name, ()) for name in edges), key=len)
    assert len(longest) <= MOST_FLOORS, " -> ".join(longest)


def test_no_command_imports_a_command():
    known = {f"experiments.{name}" for name in commands()}
    wrong = [f"{name} imports {other}" for name, others in imports().items() for other in others & known]
    assert not wrong


@pytest.mark.parametrize("top", ["papi_env", "agents", "experiments"])
def test_no_function_takes_more_than_a_reader_can_hold(top):
    wrong = []
    for name, path in modules().items():
        if not name.startswith(top):
            continue
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.FunctionDef):
                arguments = [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]
                count = len([a for a in arguments if a.arg not in ("self", "cls")])
                if count > MOST_ARGUMENTS:
                    wrong.append(f"{name}.{node.name} takes {count}")
    assert not wrong
