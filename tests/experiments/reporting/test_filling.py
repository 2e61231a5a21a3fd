"""Blocks of a page are filled from the runs of their commands; all else stays as it was written."""

import json
from pathlib import Path

import pytest

from experiments.report import main
from experiments.reporting.content import Column, Lines, Section, Table
from experiments.reporting.filling import blocks_of, essence, filled
from papi_env.errors import ConfigurationError
from tests.experiments.reporting.folders import frozen, trained

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

LOOP = """<!-- from a run
command = "experiments.train --algorithm $a --seed $s --out runs/$a-$s"
each = { a = "ppo  a2c", s = "0 1" }
tables = [
  { title = "Trainings", columns = ["algorithm", "seed", "best"] },
  { title = "Trainings", caption = "Means:", group = ["algorithm"], columns = ["algorithm", "runs", "seed", "best"] },
  { title = "Trainings", caption = "By seed:", pivot = { rows = "algorithm", columns = "seed", value = "best" } },
]
-->
<!-- end of the run -->
"""


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


def test_rows_of_which_something_is_not_known_are_left_out():
    holes = Table("Long", LONG.columns, [*LONG.rows, ["calm", "", 0.7], ["busy", "three", None]], "")
    asked = '{ title = "Long", known = ["policy", "G"] }'
    found, count = filled(
        PAGE.format(asked), [section("python -m experiments.compare --seeds 2", holes)], "page"
    )
    assert count == 1
    assert "two" in found
    assert "three" not in found
    assert "70.0" not in found
    with pytest.raises(ConfigurationError, match="Unknown column 'polic'"):
        filled(PAGE.format('{ title = "Long", known = ["polic"] }'), [section()], "page")


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


def loop_of(folder, *commands, started="2026-01-02T03:04:05+00:00"):
    """Training runs of PPO and A2C with two seeds each, whose records name the commands of one after the other."""
    runs = []
    for name, worth in (("ppo-0", 0.25), ("ppo-1", 0.75), ("a2c-0", 0.5), ("a2c-1", 0.5)):
        algorithm, _, seed = name.partition("-")
        run = trained(folder, name, algorithm=algorithm, seed=int(seed))
        (run / "evaluations.csv").write_text(f"steps,wall_s,score\n0,0.0,0.1\n100,2.5,{worth}\n200,4.5,0.2\n")
        record = json.loads((run / "run.json").read_text())
        (session,) = record["sessions"]
        words = f"python -m experiments.train --algorithm {algorithm} --seed {seed} --out {run}"
        record["sessions"] = [{**session, "command": word} for word in (words, *commands)]
        (run / "run.json").write_text(json.dumps(record))
        runs.append(run)
    return runs


def test_a_block_of_several_runs_is_filled_from_all_of_them(tmp_path, capsys):
    page = tmp_path / "page.md"
    page.write_text(LOOP)
    runs = loop_of(tmp_path)
    assert main([*map(str, reversed(runs)), "--page", str(page)]) == 0
    assert "1 block filled" in capsys.readouterr().out
    text = page.read_text().replace("\N{NO-BREAK SPACE}", " ")
    assert (
        "```sh\nfor a in ppo a2c; do\n  for s in 0 1; do\n"
        "    python -m experiments.train --algorithm $a --seed $s --out runs/$a-$s\n  done\ndone\n```\n"
    ) in text
    rows = [
        [cell.strip() for cell in line.strip("|").split("|")]
        for line in text.splitlines()
        if line[0:2] == "| "
    ]
    assert rows == [
        ["algorithm", "seed", "best"],
        *(["ppo", "0", "0.25"], ["ppo", "1", "0.75"], ["a2c", "0", "0.5"], ["a2c", "1", "0.5"]),
        ["algorithm", "runs", "seed", "best"],
        ["ppo", "2", "0, 1", "0.5 [0.25, 0.75]"],
        ["a2c", "2", "0, 1", "0.5 [0.5, 0.5]"],
        ["algorithm", "0", "1"],
        ["ppo", "0.25", "0.75"],
        ["a2c", "0.5", "0.5"],
    ]
    # What all runs have in common is said once.
    assert "<sub>4 runs, the first 2026-01-02T03:04:05+00:00, finished after 1.5 s, the last 2026-" in text
    assert text.count("commit 0123456789ab") == text.count("A processor") == 1


def test_a_training_that_went_on_is_known_by_the_command_that_it_began_with(tmp_path):
    page = tmp_path / "page.md"
    page.write_text(LOOP)
    runs = loop_of(tmp_path, "python -m experiments.train --resume there")
    assert main([*map(str, runs), "--page", str(page)]) == 0
    assert "| a2c | 1 |" in page.read_text()


def test_a_block_of_several_runs_takes_all_of_them_finished(tmp_path, capsys):
    page = tmp_path / "page.md"
    page.write_text(LOOP)
    runs = loop_of(tmp_path)
    assert main([*map(str, runs[:3]), "--page", str(page)]) == 2
    said = capsys.readouterr().err
    assert "3 of 4 runs of a block are there, expected all" in said
    assert "'experiments.train --algorithm a2c --seed 1' is not" in said
    record = json.loads((runs[2] / "run.json").read_text())
    record["sessions"][0] |= {"status": "interrupted"}
    (runs[2] / "run.json").write_text(json.dumps(record))
    assert main([*map(str, runs), "--page", str(page)]) == 2
    assert f"found a run that did not finish (experiments.train, interrupted; run folder {runs[2]})" in (
        capsys.readouterr().err
    )
    assert page.read_text() == LOOP


def test_a_text_and_other_columns_do_not_stand_below_each_other():
    page = PAGE.format('{ title = "Long" }').replace('--seeds 2"', '--seeds $s"\neach = { s = "2 3" }')
    other = Table("Long", LONG.columns[:2], [])
    commands = [f"experiments.compare --seeds {seeds}" for seeds in (2, 3)]
    for tables, said in (
        (
            (LONG, other),
            "found the columns preset, policy, expected those of the first run, preset, policy, G",
        ),
        ((Lines("Long", "a"),) * 2, "'Long': found a text, expected a table, for there are 2 runs"),
    ):
        with pytest.raises(ConfigurationError, match=said):
            filled(page, [section(*pair) for pair in zip(commands, tables, strict=True)], "page")


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("$a --seed", "$b --seed", "line 1: Unknown name in the command of 'each' 'b'.*Known: a, s"),
        ("$s --out", "$ --out", "line 1: found the command .*Invalid placeholder"),
        ("--seed $s", "--seed 1", "found 4 runs of 2 commands, expected another command for each"),
        ('"0 1"', '"0 0"', "found 4 runs of 2 commands"),
        ('"0 1"', '" "', "each: found 0 runs, expected from 1 to 100"),
        ('"0 1"', '"' + "1 " * 10**5 + '"', "each: found 200000 runs, expected from 1 to 100"),
        ('"0 1"', '"' + "1" * 5000 + '"', "each: found a text of 5000 signs, expected at most 4096"),
        ('"0 1"', "[0, 1]", "line 1: each.s"),
    ],
    ids=["unknown", "placeholder", "unused", "twice", "none", "many", "long", "list"],
)
def test_a_loop_that_cannot_be_run_is_said(old, new, said):
    with pytest.raises(ConfigurationError, match=said):
        filled(LOOP.replace(old, new), [], "page.md")


def test_a_page_has_so_many_runs_at_most():
    block = LOOP.replace('"0 1"', f'"{" ".join(map(str, range(50)))}"')
    assert len(blocks_of(block * 100, "page.md")) == 100
    with pytest.raises(ConfigurationError, match="found more than 10000 runs on one page"):
        blocks_of(block * 101, "page.md")


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
    asked = [command for block in blocks for command in block.asked()]
    assert len(set(asked)) == len(asked)
    shown = [text.partition("<!-- end of the run -->")[0] for text in page.split("\n-->\n")[1:]]
    for block, text in zip(blocks, shown, strict=True):
        assert f"```sh\n{block.shell()}\n```\n" in text
        assert (
            f"<sub>{'Run 2' if len(block.asked()) == 1 else f'{len(block.asked())} runs, the first 2'}"
            in text
        )
        assert text.count("\n|---") + text.count("\n```text\n") == len(block.tables)
