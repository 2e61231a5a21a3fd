"""Files that are wrong in kind, size or depth are refused at once, in a message that names them."""

import os
import tracemalloc

import pytest

from papi_env.errors import ConfigurationError, DataError, unknown_name
from papi_env.files import TOML_BYTES, parse_toml, read_bounded, read_json
from papi_env.scenario import get_scenario, load_scenario

VALID = 'system = "papi"\nmodel = "llama-65b"\n[workload]\nlengths = {table = "dolly-general-qa"}\n'
# Texts that ended in a traceback or took minutes.
HOSTILE = {
    "brackets": "a = " + "[" * 100_000,
    "lists": "a = " + "[" * 400 + "]" * 400,
    "tables": "a = " + "{a = " * 3000 + "1" + "}" * 3000,
    "parts": ".".join("a" * 100_000) + " = 1",
    "quoted parts": '"a" . "a".' * 100 + "a = 1",
    "header": "[" + ".".join("a" * 100_000) + "]",
    "digits": "energy_weight = " + "9" * 5000 + "\n" + VALID,
    "hexadecimal": VALID + "batch_size = 0x" + "F" * 5000,
    "keys": "".join(f"k{i} = 1\n" for i in range(2000)),
    "text": 'energy_weight = "' + "x" * 500_000 + '"\n' + VALID,
    "name": VALID.replace("papi", "papi" * 100_000),
}


@pytest.mark.parametrize("text", HOSTILE.values(), ids=HOSTILE.keys())
def test_hostile_scenarios_are_refused_in_a_short_message_that_names_the_file(tmp_path, text):
    path = tmp_path / "hostile.toml"
    path.write_text(text)
    with pytest.raises((ConfigurationError, DataError)) as found:
        load_scenario(path)
    assert str(path) in str(found.value) or "Unknown system" in str(found.value)
    assert len(str(found.value)) < 10_000


def test_ordinary_depth_and_a_dotted_text_are_no_fault(tmp_path):
    assert parse_toml("a.b.c = [[[1]]]\n") == {"a": {"b": {"c": [[[1]]]}}}
    path = tmp_path / "plain.toml"
    path.write_text('description = "' + "w." * 40 + '"\n' + VALID)
    assert load_scenario(path).name == "plain"


def test_a_file_that_is_too_large_is_refused_before_it_is_read(tmp_path):
    path = tmp_path / "large.toml"
    with path.open("wb") as file:
        file.truncate(1 << 40)  # a hole, which takes no disk
    with pytest.raises(
        DataError, match=rf"large\.toml: found {1 << 40} bytes, expected at most {TOML_BYTES}"
    ):
        load_scenario(path)


def test_what_never_ends_is_not_waited_for(tmp_path):
    pipe = tmp_path / "pipe.toml"
    os.mkfifo(pipe)
    for path in (pipe, "/dev/zero"):
        with pytest.raises(DataError, match="found a device or pipe, expected a regular file"):
            load_scenario(path) if path is pipe else read_bounded(path, 100)
    with pytest.raises(DataError, match="found a directory, expected a regular file"):
        read_bounded(tmp_path, 100)


@pytest.mark.parametrize("name", ["a\0b.toml", "x" * 5000 + ".toml", "absent.toml"])
def test_names_that_no_file_can_have_are_an_error_that_says_so(name):
    with pytest.raises(DataError, match="cannot be read"):
        get_scenario(name)


def test_the_content_of_a_file_is_read_whole(tmp_path):
    path = tmp_path / "data"
    path.write_bytes(bytes(range(256)))
    assert read_bounded(path, 256) == bytes(range(256))
    with pytest.raises(DataError, match="found 256 bytes, expected at most 255"):
        read_bounded(path, 255)


@pytest.mark.parametrize("text", ["[" * 100_000, "{", "[1]", "9" * 5000, "\xff"])
def test_json_that_holds_no_fields_is_refused(tmp_path, text):
    path = tmp_path / "data.json"
    path.write_bytes(text.encode("latin-1"))
    with pytest.raises(DataError, match=r"data\.json: (not JSON|holds)"):
        read_json(path)


def test_messages_stay_readable_whatever_they_quote():
    for error in (
        ConfigurationError("x" * 5_000_000),
        DataError("y" * 5_000_000),
        unknown_name("k", "z" * 10**6, "a"),
    ):
        assert len(str(error)) <= 8000
    assert str(DataError("as it is")) == "as it is"


def test_a_large_limit_takes_no_memory(tmp_path):
    path = tmp_path / "small"
    path.write_bytes(b"x" * 3_000_000)
    tracemalloc.start()
    try:
        assert len(read_bounded(path, 1 << 33)) == 3_000_000
        assert tracemalloc.get_traced_memory()[1] < 20_000_000
    finally:
        tracemalloc.stop()
