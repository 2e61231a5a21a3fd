"""The list of faults that were mended names tests that exist."""

import re
from pathlib import Path

TESTS = Path(__file__).parent


def test_every_fault_has_tests_that_exist():
    _, _, *rows = [line for line in (TESTS / "FAULTS.md").read_text().splitlines() if line.startswith("|")]
    assert len(rows) > 20
    for row in rows:
        *_, named, _ = re.split(r"(?<!\\)\|", row)
        found = re.findall(r"`([\w/]+\.py)::(\w+)`", named)
        assert len(found) == named.count("`") // 2
        assert found or ".ci/versions" in row, row
        for file, test in found:
            assert re.search(rf"^def {test}\(", (TESTS / file).read_text(), re.M), f"{file}::{test}"
