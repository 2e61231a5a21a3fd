"""Blocks of a page are filled from the runs of their commands; all else stays as it was written."""

from pathlib import Path

import pytest

from experiments.report import main
from experiments.reporting.content import Column, Section, Table
from experiments.reporting.filling import blocks_of, essence, filled
from papi_env.errors import ConfigurationError
from tests.experiments.reporting.folders import frozen

RESULTS = Path(__file__).resolve().parents[3] / "experiments/RESULTS.md"
BLOCK = (
    '<!-- from a run\ncommand = "experiments.compare --seeds 2"\ntables = [{}]\n-->\n'
    "as it was\n<!-- end of the run -->"
)
PAGE = f"# By hand\n\n{BLOCK}\n\nAlso by hand.\n"
ENTRIES = '{ title = "Entries", columns = ["entry", "regret"] }'
TURNED = '{ title = "Long", pivot = { rows = "preset", columns = "policy", value = "G" } }'
LONG = Table(
    "Long",
    [Column("preset"), Column("policy"), Column("G", "%", 100, 1)],
    [["calm", "one", 0.5], ["calm", "two", 0.6], ["busy", "two", 0.1]],
    "A note.",
)


def section(command="python -m experiments.compare --out there --seeds 2 --jobs=3", *tables):
    facts = [
        ("command", "another"),
        ("command", command),
        ("commit", "ab" * 20),
        ("machine", "CPU, 2 CPUs, OS"),
    ]
    return Section("compare: run", "where it is", tables or (LONG,), facts)


def test_a_run_fills_the_block_of_its_command_alone(tmp_path, capsys):
    run, page = frozen(tmp_path, "compare_decode"), tmp_path / "page.md"
    other = BLOCK.format(ENTRIES).replace("--seeds 2", "--seeds 3")
    page.write_text(PAGE.format(ENTRIES) + other)
    assert main([str(run), "--page", str(page)]) == 0
    assert "1 block filled" in capsys.readouterr().out
    text = page.read_text()
    start, _, rest = text.partition("as it was\n")  # the first one is gone, so this is the other's
    assert rest == "<!-- end of the run -->"
    assert start.startswith("# By hand\n\n<!-- from a run\n")
    assert "Also by hand." in start
    assert "| entry | regret (%) |" in start
    assert "| papi/oracle\\* | 0.00" in start
    assert "```sh\npython -m experiments.compare --seeds 2\n```" in start
    assert "commit 0123456789ab" in start
    main([str(run), "--page", str(page)])
    assert page.read_text() == text


def test_a_long_table_is_turned():
    text, count = filled(PAGE.format(TURNED), [section()], "page")
    assert count == 1
    assert (
        "| preset | one (%) | two (%) |\n|---|---:|---:|\n| calm | 50.0 | 60.0 |\n| busy | – | 10.0 |" in text
    )
    assert "Long. A note." in text
    assert "commit abababababab; CPU, 2 CPUs (" in text


def test_a_caption_stands_for_title_and_note():
    text, _ = filled(PAGE.format('{ title = "Long", caption = "In *few* words:" }'), [section()], "page")
    assert "In *few* words:" in text
    assert "A note." not in text


@pytest.mark.parametrize(
    ("command", "same"),
    [
        ("python -m experiments.sweep a.toml --out x", "experiments.sweep a.toml"),
        ("experiments.compare --jobs 2 --backend=ray --seeds 3 --watch", "experiments.compare --seeds 3"),
    ],
)
def test_what_changes_no_result_is_no_part_of_a_command(command, same):
    assert essence(command) == same


@pytest.mark.parametrize(
    ("page", "runs", "said"),
    [
        (PAGE.format('{ title = "Lnog" }'), [section()], "Unknown table 'Lnog'. Did you mean 'Long'?"),
        (
            PAGE.format('{ title = "Long", columns = ["polcy"] }'),
            [section()],
            "'polcy'. Did you mean 'policy'",
        ),
        (PAGE.format('{ titel = "Long" }'), [], "line 3.*titel.*title"),
        (PAGE.format("{"), [], "line 3: not TOML"),
        (PAGE.format("{ title = " + "7" * 5000 + " }"), [], "line 3: not TOML"),
        (PAGE.format("[" * 60 + "]" * 60), [], "line 3: not TOML: found values nested"),
        (PAGE.format(TURNED).replace("--seeds 2", "--seeds '2"), [section()], "found the command .*closing"),
        (PAGE.replace("<!-- end of the run -->", ""), [], "belongs to no block"),
        (PAGE.format(TURNED), [section("experiments.compare --seed 2")], "no block shows .* did you mean"),
        (PAGE.format(TURNED), [section(), section()], "two runs of"),
    ],
    ids=[
        "table",
        "column",
        "field",
        "toml",
        "digits",
        "deep",
        "quotation",
        "open",
        "another command",
        "twice",
    ],
)
def test_what_cannot_be_filled_is_said(page, runs, said):
    with pytest.raises(ConfigurationError, match=said):
        filled(page, runs, "page.md")


def test_a_page_that_is_no_text_is_said_in_one_line(tmp_path, capsys):
    page = tmp_path / "page.md"
    page.write_bytes(b"# \xff\xfe\n")
    assert main([str(frozen(tmp_path, "compare_decode")), "--page", str(page)]) == 2
    said = capsys.readouterr().err
    assert said.startswith(f"error: {page}: not text in UTF-8")
    assert said.count("\n") == 1
    assert page.read_bytes() == b"# \xff\xfe\n"


def test_every_block_of_the_results_was_filled_and_names_its_run():
    page = RESULTS.read_text(encoding="utf-8")
    blocks = blocks_of(page, "RESULTS.md")
    assert len(blocks) > 6
    assert len({block.asked() for block in blocks}) == len(blocks)
    shown = [text.partition("<!-- end of the run -->")[0] for text in page.split("\n-->\n")[1:]]
    for block, text in zip(blocks, shown, strict=True):
        assert f"python -m {block.asked()}\n" in text
        assert "<sub>Run 2" in text
        assert text.count("\n|---") + text.count("\n```text\n") == len(block.tables)
