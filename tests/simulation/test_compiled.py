"""What was compiled from other sources is never found, and no place for it is not an error."""

import ast
import os
import subprocess
import sys
import time
from pathlib import Path

import gymnasium as gym
import pytest
from numba.core.compiler import Flags
from numba.core.runtime import _nrt_python, rtsys

from papi_env.simulation import compiled
from papi_env.simulation.compiled import cache_folder, digest_of
from papi_env.simulation.draws import mix
from papi_env.simulation.shortcuts import SetFlags

_nrt_python.memsys_enable_stats()
PACKAGE = Path(compiled.__file__).resolve().parents[1]


def test_the_digest_changes_with_content_and_name(tmp_path):
    first, second = tmp_path / "a.py", tmp_path / "b.py"
    first.write_text("x = 1\n")
    second.write_text("y = 2\n")
    before = digest_of([first, second])
    assert digest_of([first, second]) == before
    first.write_text("x = 3\n")
    assert digest_of([first, second]) != before
    first.write_text("x = 1\n")
    assert digest_of([first, second]) == before
    second.rename(tmp_path / "c.py")
    assert digest_of([first, tmp_path / "c.py"]) != before
    # Content that moves from one file to the next is a change too.
    first.write_text("x = 1\ny")
    (tmp_path / "c.py").write_text(" = 2\n")
    assert digest_of([first, tmp_path / "c.py"]) != before


def test_every_module_that_compiled_code_imports_from_is_a_source():
    sources = {path.resolve() for path in compiled.sources()}
    compiling = [path for path in sources if "simulation.compiled import" in path.read_text()]
    assert len(compiling) >= 5
    for path in [*compiling, PACKAGE / "simulation/batch/state.py", PACKAGE / "simulation/serving/state.py"]:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("papi_env."):
                base = PACKAGE.joinpath(*node.module.split(".")[1:])
                modules = [base.with_suffix(".py")] if base.with_suffix(".py").exists() else []
                modules += [base / f"{alias.name}.py" for alias in node.names if base.is_dir()]
                assert modules, f"{path.name} imports from {node.module}"
                for module in modules:
                    assert module in sources, f"{path.name} imports from {module.relative_to(PACKAGE)}"


def test_another_digest_is_another_folder(tmp_path):
    one, other = cache_folder([tmp_path], "0" * 16), cache_folder([tmp_path], "1" * 16)
    assert one.is_dir()
    assert other.is_dir()
    assert one != other
    assert cache_folder([tmp_path], "0" * 16) == one


def test_code_of_another_room_is_kept_under_a_digest_that_has_its_files(tmp_path, monkeypatch):
    monkeypatch.setattr(compiled, "cache_homes", lambda: [tmp_path / "cache"])
    rule = tmp_path / "rule.py"
    for content in ("x = 1\n", "x = 2\n", "x = 1\n"):
        rule.write_text(content)

        @compiled.compiler([rule])()
        def doubled(x):
            return 2 * x

        assert Path(doubled.stats.cache_path).is_relative_to(tmp_path / "cache")
    assert len(list((tmp_path / "cache").iterdir())) == 2


def test_only_folders_that_were_long_unused_are_forgotten(tmp_path):
    old, recent = cache_folder([tmp_path], "0" * 16), cache_folder([tmp_path], "1" * 16)
    (old / "part.nbc").write_text("x")
    foreign = tmp_path / "somebody-else"
    foreign.mkdir()
    month_ago = time.time() - 30 * 24 * 3600
    for folder in (old, foreign):
        os.utime(folder, (month_ago, month_ago))
    cache_folder([tmp_path], "2" * 16)
    assert not old.exists()
    assert recent.exists()
    assert foreign.exists()


def test_a_place_that_cannot_be_written_is_passed_over(tmp_path):
    # A file where a folder is needed stops everybody, also those who may write everywhere.
    blocked = tmp_path / "file"
    blocked.write_text("")
    assert cache_folder([blocked, tmp_path / "user"], "0" * 16).parent == tmp_path / "user"
    assert cache_folder([blocked], "0" * 16) is None
    assert cache_folder([], "0" * 16) is None


def ran(folder, script):
    """What a script in a folder gives in a process of its own; what it compiles is kept in the folder, too."""
    environment = os.environ | {"NUMBA_CACHE_DIR": str(folder / "cache"), "PYTHONPATH": str(PACKAGE.parent)}
    return subprocess.run(
        [sys.executable, script], cwd=folder, env=environment, capture_output=True, text=True, check=True
    )


def test_python_is_refused_where_a_function_has_no_entrance_for_it(tmp_path):
    """Also of what another process compiled, and with types that no compiled code has asked for."""
    (tmp_path / "halves.py").write_text(
        "from papi_env.simulation.compiled import inlined, inner, lean\n"
        "@inlined\ndef half(x):\n    return x / 2\n"
        "@inner\ndef quarter(x):\n    return half(half(x))\n"
        "@lean\ndef eighth(x):\n    return half(quarter(x))\n"
        "print(eighth(4.0))\n"
        "for closed in (half, quarter):\n"
        "    for x in (4.0, 4):\n"
        "        try:\n            print(closed(x))\n"
        "        except TypeError as error:\n            print(error)\n"
    )
    for _ in range(2):
        result = ran(tmp_path, "halves.py")
        first, *refused = result.stdout.splitlines()
        assert first == "0.5"
        assert [line.split(" is for")[0] for line in refused] == ["half", "half", "quarter", "quarter"]
        assert all("decorate it with `lean` or `exposed`" in line for line in refused)


def test_parts_from_the_cache_become_parts_of_what_is_compiled_later(tmp_path):
    """Of a part no machine code is kept, only what its callers are made with."""
    (tmp_path / "parts.py").write_text(
        "from papi_env.simulation.compiled import inlined, inner\n"
        "@inlined\ndef half(x):\n    return x / 2\n"
        "@inner\ndef quarter(x):\n    if x < 0.0:\n        raise ValueError('below 0')\n    return half(half(x))\n"
    )
    found = []
    for name in ("first", "second"):
        (tmp_path / f"{name}.py").write_text(
            "from papi_env.simulation.compiled import lean\n"
            "from parts import half, quarter\n"
            "@lean\ndef eighth(x):\n    return half(quarter(x))\n"
            "print(eighth(4.0), sum(quarter.stats.cache_hits.values()), sum(quarter.stats.cache_misses.values()))\n"
            "try:\n    eighth(-4.0)\nexcept ValueError as error:\n    print(error)\n"
        )
        result = ran(tmp_path, f"{name}.py")
        found.append(result.stdout.splitlines())
    assert found == [["0.5 0 1", "below 0"], ["0.5 1 0", "below 0"]]


def test_what_is_seldom_called_stays_a_call(tmp_path):
    """Also where a helper that is forced into its callers calls it, and of what another process compiled."""
    (tmp_path / "parts.py").write_text(
        "from papi_env.simulation.compiled import inlined, inner, seldom\n"
        "@seldom\ndef quarter(x):\n    return x / 4\n"
        "@inner\ndef third(x):\n    return x / 3\n"
        "@inlined\ndef part(x):\n    return quarter(x) if x > 8.0 else third(x)\n"
    )
    for name in ("first", "second"):
        (tmp_path / f"{name}.py").write_text(
            "from papi_env.simulation.compiled import lean\n"
            "from parts import part\n"
            "@lean\ndef half(x):\n    return 2.0 * part(x)\n"
            "print(half(9.0), half(6.0), sum(part.stats.cache_hits.values()))\n"
            "calls = [line for line in half.inspect_llvm(half.signatures[0]).splitlines() if ' call ' in line]\n"
            "print(any('7quarter' in line for line in calls), any('5third' in line for line in calls))\n"
            "print('{ cold noinline' in half.inspect_llvm(half.signatures[0]))\n"
        )
        result = ran(tmp_path, f"{name}.py")
        hits = int(name == "second")
        assert result.stdout.split() == ["4.5", "4.0", str(hits), "True", "False", "True"]


def test_flags_are_those_that_are_set():
    """As numba compares them, where both leave the same ones alone."""
    flags, plain = SetFlags(), Flags()
    for found in (flags, plain):
        found.nrt, found.forceinline = False, True
    copied = flags.copy()
    assert isinstance(copied, SetFlags)
    assert copied == flags
    assert hash(copied) == hash(flags)
    assert flags == plain
    copied.nrt = True
    assert copied != flags
    assert mix._compiler._customize_flags is SetFlags


def test_without_a_place_code_is_compiled_all_the_same(tmp_path, monkeypatch):
    monkeypatch.setattr(compiled, "_FOLDER", None)

    @compiled._compile()
    def doubled(x):
        return 2 * x

    assert doubled(21) == 42
    assert doubled.stats.cache_path is None


def test_the_setting_of_numba_is_respected_and_left_alone(tmp_path):
    program = (
        "import numba, papi_env.simulation.compiled as c, papi_env.simulation.draws as d\n"
        "d.mix(d.np.uint64(1))\n"
        "print(c._FOLDER); print(numba.config.CACHE_DIR)"
    )
    run = subprocess.run(
        [sys.executable, "-c", program],
        env={**os.environ, "NUMBA_CACHE_DIR": str(tmp_path)},
        cwd=PACKAGE.parent,
        capture_output=True,
        text=True,
        check=True,
    )
    folder, setting = run.stdout.split()
    assert Path(folder).parent == tmp_path
    assert setting == str(tmp_path)
    assert list(Path(folder).rglob("draws.mix-*.nbi"))


@pytest.mark.parametrize("env_id", ["papi_env/Decode-v0", "papi_env/Kernels-v0", "papi_env/Serving-v0"])
@pytest.mark.parametrize("threads", [1, 2])
def test_stepping_keeps_no_memory(env_id, threads):
    # `lean` code would neither free what it created nor complain.
    arguments = {} if threads == 1 else {"threads": threads}
    if env_id == "papi_env/Serving-v0":
        if threads > 1:
            pytest.skip("takes no threads")
    else:
        arguments |= {"batch_size": 3, "speculation": 4, "acceptance_rate": 0.5}
    env = gym.make_vec(env_id, num_envs=4, autoreset_mode="SameStep", **arguments)
    env.reset(seed=0)
    actions = env.action_space.sample()

    def kept():
        stats = rtsys.get_allocation_stats()
        return stats.alloc - stats.free, stats.mi_alloc - stats.mi_free

    env.step(actions)
    before = kept()
    for _ in range(200):
        env.unwrapped.engine.step()
    env.unwrapped.engine.reset()
    assert kept() == before


def function_of(x):
    return x + 1


@pytest.fixture
def cached(tmp_path, monkeypatch):
    """Compiles `function_of` with a cache of its own, as a new process would."""
    monkeypatch.setattr(compiled, "_FOLDER", tmp_path)

    def call():
        made = compiled._compile()(function_of)
        return made(1), sum(made.stats.cache_hits.values())

    return tmp_path, call


@pytest.mark.skipif(os.environ.get("NUMBA_DISABLE_JIT") == "1", reason="nothing is compiled")
@pytest.mark.parametrize("content", [b"", b"\x80", b"\x80\x05garbage", bytes(100)], ids=repr)
@pytest.mark.parametrize("ending", ["nbi", "nbc"])
def test_a_damaged_file_of_the_cache_is_made_anew(cached, content, ending):
    folder, call = cached
    assert call() == (2, 0)
    assert call() == (2, 1)
    (damaged,) = folder.rglob(f"*.{ending}")
    damaged.write_bytes(content)
    assert call() == (2, 0)
    assert call() == (2, 1)


def test_a_cache_on_a_full_disk_stops_nobody(cached, monkeypatch):
    _, call = cached

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("numba.core.caching.IndexDataCacheFile._save_index", full)
    assert call() == (2, 0)
    assert call() == (2, 0)


def test_caches_stand_at_absolute_places_alone(monkeypatch):
    monkeypatch.setattr(compiled._config, "CACHE_DIR", "")
    monkeypatch.setenv("XDG_CACHE_HOME", "here")
    monkeypatch.setenv("HOME", "/home/someone")
    assert compiled.cache_homes()[1:] == [Path("/home/someone/.cache/papi_env")]
    monkeypatch.setenv("XDG_CACHE_HOME", "/var/cache")
    assert compiled.cache_homes()[1:] == [Path("/var/cache/papi_env")]
    # A user whom the machine does not know.
    monkeypatch.setenv("XDG_CACHE_HOME", "here")
    monkeypatch.setattr(os.path, "expanduser", lambda path: path)
    assert compiled.cache_homes()[1:] == []


def test_without_compilation_hashes_wrap_around_in_silence():
    code = (
        "import numpy as np, gymnasium as gym, papi_env\n"
        "env = gym.make('papi_env/Decode-v0', batch_size=2)\n"
        "env.reset(seed=2**63 - 1)\n"
        "env.step(0)\n"
        "print(env.unwrapped.engine.state.keys[0, 0])\n"
    )
    found = [
        subprocess.run(
            [sys.executable, "-W", "error", "-c", code],
            env=os.environ | {"NUMBA_DISABLE_JIT": disabled, "PYTHONPATH": str(PACKAGE.parent)},
            capture_output=True,
            text=True,
            timeout=120,
        )
        for disabled in ("0", "1")
    ]
    assert [one.stderr for one in found] == ["", ""]
    assert found[0].stdout == found[1].stdout
