"""Builds as setuptools does, with the policies of `agents` in the wheel as `papi_env._agents`.

`agents` is the one source, and runs from the checkout under that name, which is too common a one to install. A build
copies it beside the package and names its imports accordingly; nothing else of it changes. Policies that were trained
and their settings stay in the checkout. `pyproject.toml` names this module as what builds the project, and its class as
the command of setuptools that it replaces.
"""

import re
from pathlib import Path

from setuptools.build_meta import *  # noqa: F403  the hooks that whoever builds calls
from setuptools.command.build_py import build_py

ROOT = Path(__file__).resolve().parents[1]
SOURCE, SHIPPED = "agents", "papi_env/_agents"
# What the code itself reads; `pretrained` and `hyperparameters` are data of training.
SUFFIXES = (".py", ".json")
LEFT_OUT = ("pretrained", "hyperparameters", "__pycache__")
_IMPORT = re.compile(rf"^(\s*)(from|import) {SOURCE}(?=[. ])", re.MULTILINE)
_ANY = re.compile(rf"^\s*(from|import) {SOURCE}\b", re.MULTILINE)


def shipped(text: str) -> str:
    """The text of a module, with the imports of `agents` named as in the wheel."""
    named = SHIPPED.replace("/", ".")
    changed = _IMPORT.sub(rf"\1\2 {named}", text)
    assert not _ANY.search(changed), "an import of agents is left"
    return changed


def policies() -> list[Path]:
    """Files of `agents` that go into the wheel."""
    return [
        path
        for path in sorted((ROOT / SOURCE).rglob("*"))
        if path.suffix in SUFFIXES and not set(path.relative_to(ROOT / SOURCE).parts) & set(LEFT_OUT)
    ]


class BuildPy(build_py):
    """Builds the package, then puts the policies into it."""

    def run(self) -> None:
        """Build; nothing is copied where the package is used from the checkout (an editable installation)."""
        super().run()
        if getattr(self, "editable_mode", False):
            return
        for source, target in self.copies():
            target.parent.mkdir(parents=True, exist_ok=True)
            text = source.read_text(encoding="utf-8")
            target.write_text(shipped(text) if source.suffix == ".py" else text, encoding="utf-8")

    def copies(self) -> list[tuple[Path, Path]]:
        """The policies' files, and where in the build they go."""
        into = Path(self.build_lib) / SHIPPED
        return [(path, into / path.relative_to(ROOT / SOURCE)) for path in policies()]

    def get_outputs(self, include_bytecode: bool = True) -> list[str]:
        """All files that a build leaves."""
        return [*super().get_outputs(include_bytecode), *(str(target) for _, target in self.copies())]

    def get_source_files(self) -> list[str]:
        """All files that a build needs, which a source distribution holds."""
        more = (str(path.relative_to(ROOT)) for path in (Path(__file__).resolve(), *policies()))
        return [*super().get_source_files(), *more]
