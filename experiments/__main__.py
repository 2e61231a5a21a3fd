"""The commands, a line each: `python -m experiments`."""

from __future__ import annotations

import ast
from pathlib import Path

HERE = Path(__file__).resolve().parent


def commands() -> dict[str, str]:
    """What each command is for, by its name: the first line of its module, without the module being loaded."""
    found = {}
    for path in sorted(HERE.glob("[!_]*.py")):
        words = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
        found[path.stem] = words.partition("\n")[0].partition(": `python -m")[0].rstrip(".")
    return found


def main() -> None:
    """Print them."""
    known = commands()
    width = max(map(len, known))
    print("python -m experiments.COMMAND --help\n")
    for name, words in known.items():
        print(f"  {name:<{width}}  {words}")


if __name__ == "__main__":
    main()
