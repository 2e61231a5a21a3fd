"""Where constants come from: the comments that stand beside them in the code, which say it once."""

from __future__ import annotations

import ast
import inspect
import sys
from collections.abc import Iterator
from functools import cache
from types import ModuleType

from pydantic import BaseModel


@cache
def _parsed(module: ModuleType) -> tuple[ast.Module, list[str]]:
    text = inspect.getsource(module)
    return ast.parse(text), text.splitlines()


def _comment_above(lines: list[str], line: int) -> str:
    """The lines of comment right above a line (from 1), joined."""
    found: list[str] = []
    for text in reversed(lines[: line - 1]):
        stripped = text.strip()
        if not stripped.startswith("#"):
            break
        found.insert(0, stripped.lstrip("# "))
    return " ".join(found)


def _first_of_block(lines: list[str], line: int) -> int:
    """The first line of code of the block, without an empty line, that a line is in."""
    while line > 1 and lines[line - 2].strip() and not lines[line - 2].lstrip().startswith("#"):
        line -= 1
    return line


def field_sources(cls: type[BaseModel]) -> dict[str, str]:
    """What is said of each field: its description, and the comment above it."""
    found: dict[str, str] = {}
    for base in reversed(cls.__mro__):
        if not (isinstance(base, type) and issubclass(base, BaseModel)) or base is BaseModel:
            continue
        tree, lines = _parsed(sys.modules[base.__module__])
        body = next(
            (n.body for n in ast.walk(tree) if isinstance(n, ast.ClassDef) and n.name == base.__name__), []
        )
        for node in body:
            if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
                comment = _comment_above(lines, node.lineno)
                # A word alone heads a group of fields.
                found[node.target.id] = comment if " " in comment else ""
    for name, field in cls.model_fields.items():
        if field.description:
            found[name] = " ".join(part for part in (field.description, found.get(name)) if part)
    return {name: words for name, words in found.items() if words}


def entry_source(module: ModuleType, name: str) -> str:
    """The comment above the definition that has `name = "..."` in a module, else those inside it; empty without any."""
    tree, lines = _parsed(module)
    for statement in tree.body:
        for parents, call in _calls(statement, ()):
            if any(
                word.arg == "name" and isinstance(word.value, ast.Constant) and word.value.value == name
                for word in call.keywords
            ):
                for line in (call.lineno, *(parent.lineno for parent in reversed(parents))):
                    comment = _comment_above(lines, line)
                    if comment:
                        return comment
                comment = _comment_above(lines, _first_of_block(lines, parents[0].lineno))
                if comment:
                    return comment
                inside = [text.strip() for text in lines[call.lineno : call.end_lineno or call.lineno]]
                return " ".join(text.lstrip("# ") for text in inside if text.startswith("#"))
    return ""


def _calls(node: ast.AST, parents: tuple[ast.stmt, ...]) -> Iterator[tuple[tuple[ast.stmt, ...], ast.Call]]:
    """The calls inside a statement, each with the statements that it is in, the outermost first."""
    if isinstance(node, ast.stmt):
        parents = (*parents, node)
    if isinstance(node, ast.Call):
        yield parents, node
    for child in ast.iter_child_nodes(node):
        yield from _calls(child, parents)
