"""The page of run folders: every row is in it, nothing comes from elsewhere, names stay names, damage is named."""

import csv
import gzip
import json
import re
import sys
import zlib
from html import unescape
from html.parser import HTMLParser
from itertools import product
from pathlib import Path

import pytest

from experiments import presets
from experiments.common.runner import checked as checked_job
from experiments.common.runner import signed
from experiments.common.statistics import Estimate
from experiments.report import main
from experiments.reporting import charts
from experiments.reporting.content import Column, Lines, Section, Table
from experiments.reporting.markdown import MOST_ROWS, markdown_of
from experiments.reporting.registry import sections_of
from experiments.reporting.sections.validate import NAMES
from experiments.validate import FILES
from papi_env.errors import DataError
from papi_env.workload.presets import MEASUREMENTS
from papi_env.workload.service_presets import CAPACITIES
from tests.experiments.commands import called
from tests.experiments.reporting.folders import (
    FROZEN,
    checked,
    drawn,
    explored,
    frozen,
    fuzzed,
    killed,
    merged,
    recorded,
    replayed,
    timed,
    trained,
    tuned,
)

RUNS = ("compare_decode", "compare_images", "compare_serving", "headroom", "leaderboard_decode", "serve")
NASTY = "<script>alert(1)</script>&amp;\"'</table>"


class Page(HTMLParser):
    """Tables as lists of rows of texts, scripts, links and ids of a page."""

    def __init__(self, text):
        super().__init__()
        self.tables, self.scripts, self.addresses, self.ids, self.tags = [], [], [], [], []
        self._into = None
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attrs):
        attributes = dict(attrs)
        self.tags.append(tag)
        self.addresses += [value for name, value in attrs if name in ("href", "src", "action")]
        self.ids += [attributes["id"]] if "id" in attributes else []
        if tag == "table":
            self.tables.append([])
        elif tag == "tr":
            self.tables[-1].append([])
        elif tag in ("td", "th"):
            self._into = self.tables[-1][-1]
            self._into.append("")
        elif tag == "script":
            self._into = self.scripts
            self._into.append("")

    def handle_endtag(self, tag):
        if tag in ("td", "th", "script"):
            self._into = None

    def handle_data(self, data):
        if self._into is not None:
            self._into[-1] += data


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    return [*(frozen(folder, name) for name in RUNS), *(trained(folder, name) for name in ("ppo-0", "ppo-1"))]


@pytest.fixture(scope="module")
def page(runs):
    """Path and text of a report of all of them."""
    path = runs[0].parent / "all.html"
    status, out, err = called(main, *runs, "--out", path)
    assert (status, err) == (0, ""), err
    assert "8 runs" in out
    return path, path.read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def parsed(page):
    return Page(page[1])


def test_every_row_of_every_run_is_in_a_table(parsed):
    texts = [{tuple(row) for row in table} for table in parsed.tables]
    names = [table[0] for table in parsed.tables]
    for name in RUNS:
        with (FROZEN / name / "results.csv").open() as file:
            head, *rows = csv.reader(file)
        found = [
            k
            for k, heads in enumerate(names)
            if heads[0].startswith(head[0]) and len(parsed.tables[k]) == len(rows) + 1
        ]
        assert found, f"no table of {name} has its {len(rows)} rows"
    # Of a training as it stands there.
    assert any(row[:2] == ("200", "4") for rows in texts for row in rows)


def test_trainings_stand_together_with_means_over_seeds(tmp_path):
    """Seconds of the processor are those of all sessions, and of no run where one session does not say them."""
    runs = []
    for seed, spent in enumerate(([1.5], [2.5, 4.0], [3.0, None])):
        run = trained(
            tmp_path, f"run-{seed}", seed=seed, split=True, hyper=["a=1", "b=2"] if seed < 2 else []
        )
        record = json.loads((run / "run.json").read_text())
        record["sessions"] = [record["sessions"][0] | {"processor_s": seconds} for seconds in spent]
        (run / "run.json").write_text(json.dumps(record))
        text = (run / "evaluations.csv").read_text()
        (run / "evaluations.csv").write_text(text.replace("200,4.0,1.0,-3.0", f"200,4.0,{1 + seed}.0,-7.0"))
        runs.append(run)
    (runs[2] / "rounds.csv").write_text("round,looks,explained,moved\n0,96,0.25,stay\n")
    assert called(main, *runs, "--out", tmp_path / "page.html")[0] == 0
    tables = Page((tmp_path / "page.html").read_text(encoding="utf-8")).tables
    both = {tuple(row) for table in tables[:2] for row in table}
    split = "the training split"
    assert {
        ("ppo", split, "a=1 b=2", "0", "200", "-5", "-4", "100", "-7", "10.000", "1", "2"),
        ("ppo", split, "a=1 b=2", "1", "200", "-5", "-4", "100", "-7", "10.000", "2", "6"),
        ("ppo", split, "", "2", "200", "-5", "-4", "100", "-7", "10.000", "3", "–"),
    } <= both
    (mean,) = [row for row in both if row[2:4] == ("a=1 b=2", "2")]
    assert mean[4] == "0, 1"
    assert mean[-2:] == ("2 [1, 2]", "4 [2, 6]")
    assert ["0", "96", "25.0", "stay"] in [row for table in tables for row in table]


def test_claims_are_tables_with_their_intervals_and_worst_cases(tmp_path):
    path = tmp_path / "claims.md"
    assert called(main, frozen(tmp_path, "leaderboard_serving"), "--out", path)[0] == 0
    claims = json.loads((FROZEN / "leaderboard_serving" / "summary.json").read_text())["claims"]
    lines = path.read_text(encoding="utf-8").replace("\N{NO-BREAK SPACE}", " ").splitlines()
    for row in claims["challengers"]:
        at = lines.index(f"### Claims: {row['entry']}{row['marks']}")
        assert lines[at + 2].startswith(f"{row['training_runs']} training run")
        table = [line for line in lines[at:] if line.startswith("|")][: 3 + len(claims["groups"])]
        cells = [one.strip() for one in table[-1].strip("|").split("|")]
        assert cells[0] == f"all settings ({sum(map(len, claims['groups'].values()))})"
        figures = [other["all"] for other in row["against"]]
        for cell, figure in zip(cells[1:], figures, strict=True):
            known = [
                f"{100 * figure[end]:.1f}" for end in ("value", "low", "high") if figure[end] is not None
            ]
            assert cell == ("–", "{}", "", "{} [{}, {}]")[len(known)].format(*known)
        at = lines.index(f"### Worst cases: {row['entry']}{row['marks']}")
        worst = [line for line in lines[at:] if line.startswith("|")][2 : 2 + len(row["against"])]
        for line, other in zip(worst, row["against"], strict=True):
            cells = [one.strip() for one in line.strip("|").split("|")]
            pair = other["worst_of_one_run"]
            if pair is not None:
                assert cells[1] == other["worst"]["setting"]
                assert cells[7:10] == [str(pair["pairs"]), str(pair["behind"]), f"{100 * pair['value']:.1f}"]


@pytest.mark.parametrize(
    ("name", "figures"), [("compare_decode", ("speedup",)), ("compare_serving", ("goodput", "ratio"))]
)
def test_entries_are_shown_by_scenario(tmp_path, name, figures):
    path = tmp_path / "page.html"
    assert called(main, frozen(tmp_path, name), "--out", path)[0] == 0
    entries = json.loads((FROZEN / name / "summary.json").read_text())["entries"]
    rows = {tuple(row) for table in Page(path.read_text(encoding="utf-8")).tables for row in table}
    entry = next(one for one in entries if not one["reference"])
    for scenario, found in entry["by_scenario"].items():
        (row,) = [one for one in rows if one[:2] == (scenario, entry["entry"]) and len(one) == 4]
        for cell, key in zip(row[2:], figures, strict=False):
            assert float(cell.partition(" ")[0]) == pytest.approx(found[key]["value"], rel=0.05, abs=0.05)


def test_nothing_comes_from_elsewhere(parsed, page):
    assert all(address.startswith(("#", "data:")) for address in parsed.addresses)
    assert not {"iframe", "img", "object", "embed", "form"} & set(parsed.tags)
    assert parsed.tags.count("link") == 1  # an empty icon, or browsers ask for one
    policy = re.search(r'Content-Security-Policy" content="([^"]*)"', page[1])[1]
    assert "default-src &#39;none&#39;" in policy
    assert "http" not in policy
    assert "unsafe-eval" not in policy
    # Plotly's button that uploads a figure is switched off.
    assert "showSendToCloud: false" in parsed.scripts[-1]


def test_links_within_the_page_lead_somewhere(parsed):
    assert {address[1:] for address in parsed.addresses if address.startswith("#")} <= set(parsed.ids)
    assert len(set(parsed.ids)) == len(parsed.ids)


def test_the_same_runs_give_the_same_page(runs, page, tmp_path):
    assert called(main, *runs, "--out", tmp_path / "again.html")[0] == 0
    assert (tmp_path / "again.html").read_text(encoding="utf-8") == page[1]


def test_it_says_where_a_run_comes_from(page):
    for text in (
        "experiments.compare --seeds 2",
        "0123456789abcdef, with changes",
        "numpy 2.4.6",
        "A processor, 2 CPUs, Linux-6.1",
        "x86_64 avx2",
    ):
        assert text in page[1]


def test_names_stay_names(tmp_path):
    path = frozen(tmp_path, "compare_decode")
    summary = json.loads((path / "summary.json").read_text())
    old = summary["entries"][0]["entry"]
    scenario = summary["scenarios"][0]
    for file in ("summary.json", "results.csv"):
        text = (path / file).read_text()
        quoted = json.dumps(NASTY)[1:-1] if file.endswith("json") else NASTY.replace('"', "")
        (path / file).write_text(text.replace(old, quoted).replace(scenario, "s" + quoted))
    assert called(main, path, "--out", tmp_path / "n.html", "--title", NASTY)[0] == 0
    text = (tmp_path / "n.html").read_text(encoding="utf-8")
    found = Page(text)
    assert len(found.scripts) == 3  # data, Plotly and the page's own
    assert "<script>alert" not in text
    assert any(row and row[0].startswith(NASTY) for table in found.tables for row in table)
    figures = json.loads(found.scripts[0])
    names = [trace["name"] for figure in figures for trace in figure["data"]]
    assert any("&lt;script&gt;" in name for name in names)
    assert not any("<" in name for name in names)


def test_figures_have_a_colour_and_marker_for_each_entry():
    looks = [(look["color"], look["symbol"]) for look in map(charts.look, range(84))]
    assert len(set(looks)) == 84


def test_figures_are_plain_json():
    found = charts.escaped({"x": [float("nan"), 1.0], "name": "<b>", "hovertemplate": "%{x}<extra></extra>"})
    assert found == {"x": [None, 1.0], "name": "&lt;b&gt;", "hovertemplate": "%{x}<extra></extra>"}


@pytest.mark.parametrize(
    ("goals", "expected"),
    [(("max", "min"), [(3, 2), (1, 1)]), (("min", "max"), [(1, 3)]), (("max", "max"), [(3, 2), (1, 3)])],
)
def test_a_front_is_what_nothing_dominates(goals, expected):
    points = [(1, 1), (1, 3), (3, 2), (2, 2)]
    line = charts.front([x for x, _ in points], [y for _, y in points], goals)
    assert list(zip(line["x"], line["y"], strict=True)) == expected
    better = [max if goal == "max" else min for goal in goals]
    for point, other in product(expected, points):
        assert point == other or any(
            best(a, b) == a != b for best, a, b in zip(better, point, other, strict=True)
        )


@pytest.mark.parametrize(
    ("column", "cell", "text", "key"),
    [
        (Column("a"), None, "–", ""),
        (Column("a"), float("nan"), "–", ""),
        (Column("a"), 12345.6, "12346", "12345.6"),
        (Column("a", "%", 100, 1), -0.0001, "0.0", "-0.0001"),
        (Column("a", "", 1, 2), Estimate(1.0, 0.5, 1.25), "1.00 [0.50, 1.25]", "1.0"),
        (Column("a", "", 1, 2), Estimate(1.0, float("nan"), float("nan")), "1.00", "1.0"),
        (Column("a"), 7, "7", "7"),
        (Column("a"), "words", "words", "words"),
    ],
)
def test_cells(column, cell, text, key):
    assert (column.text(cell), column.key(cell)) == (text, key)


@pytest.fixture(scope="module")
def others(tmp_path_factory):
    """Runs of the other commands, by name."""
    folder = tmp_path_factory.mktemp("others")
    made = {
        one.__name__: one(folder)
        for one in (tuned, timed, drawn, merged, explored, killed, fuzzed, replayed, checked)
    }
    return made | {"distilled": frozen(folder, "distill_decode")}


def test_a_table_of_millions_of_columns_is_refused_at_once(tmp_path):
    folder = recorded(tmp_path / "run", "compare", {})
    (folder / "summary.json").write_text("{}")
    (folder / "results.csv").write_text("1," * 40_000)
    with pytest.raises(
        DataError, match=r"results\.csv: not a table, or cut off: its first line has more than"
    ):
        sections_of([folder])


PACKED = {
    "gzip": gzip.compress(b"a,b\n1,2\n", mtime=0),
    **{f"zlib-{level}": zlib.compress(b"a,b\n1,2\n", level) for level in (1, 6, 9)},
}


@pytest.mark.parametrize("packed", PACKED.values(), ids=PACKED)
def test_packed_tables_are_refused_before_anything_is_unpacked(packed, tmp_path):
    """Polars unpacks what it finds packed: a megabyte of zeros took 1.4 GB (found by fuzzing)."""
    folder = recorded(tmp_path / "run", "compare", {})
    (folder / "summary.json").write_text("{}")
    (folder / "results.csv").write_bytes(packed)
    with pytest.raises(DataError, match=r"results\.csv: found packed data, expected a table as text"):
        sections_of([folder])
    with pytest.raises(DataError, match=r"job\.csv: found packed data, expected a table as text"):
        checked_job(tmp_path / "job.csv", signed(packed))


def test_every_comparison_has_a_section():
    assert set(NAMES) == {*FILES, "published"}


def test_runs_of_every_command_that_measures_are_shown(others, tmp_path):
    page = tmp_path / "others.html"
    assert called(main, *others.values(), "--out", page)[0] == 0
    found = Page(page.read_text(encoding="utf-8"))
    rows = {tuple(row) for table in found.tables for row in table}
    for row in (
        ("default", "0.51", "hasty", "0.48", "3", "1234", "1"),
        ("bursty", "2.5", "oldest"),
        ("compare", "ray", "one worker", "3", "2", "5", "1", "1"),
        ("all", "", "", "9", "4", "10", "2", "1"),
        ("a: differs",),
        ("tree", "50", "28", "20", "2", "0.25", "12", "3"),
        ("all", "100", "58", "40", "2", "–", "–", "–"),
        ("tree", "KeyError", "a.py:1", "2", "'a'"),
        ("its measured kernels", "1.020", "1.020", "1.020", "1.020", "3"),
        ("TPOT p90", "its measured kernels", "2", "2.04", "1.020"),
        ("errors.mean", "0.0125"),
        ("errors.worst[0]", "0.5"),
        ("revision", "shipped"),
        ("ratio_fork", "Decode-v0 / CartPole's", "–", "0.7", "2", "", "not run"),
        ("net", "edge", "equal", "4", "1.4", "1"),
        ("threshold", "0.125"),
    ):
        assert row in rows
    assert any(row[0] == "tree" and "[100.0, 100.1]" in row[3] for row in rows if len(row) == 5)
    (group,) = [row for row in rows if row[:4] == ("PPO", "2", "0, 4", "200")]
    ends = ("7.000 [7.000, 7.000]", "1.500 [1.000, 2.000]", "2.500 [2.000, 3.000]", "4")
    assert group[4:8] == ends
    assert "interrupted" in group[8]
    assert any(row[0] == "papi-1gpu-near/oracle*" for row in rows)  # of the stream beside the networks
    figures = json.loads(found.scripts[0])
    assert all(trace["x"] for figure in figures for trace in figure["data"])
    titles = [figure["layout"]["yaxis"]["title"]["text"] for figure in figures]
    assert {"best return per request so far", "time before / after"} <= set(titles)
    course = figures[titles.index("best return per request so far")]["data"]
    assert [trace["y"] for trace in course] == [[0.2, 0.5, 0.5]] * 2
    rule = (others["distilled"] / "rule.txt").read_text().splitlines()
    assert found.tags.count("pre") == 2
    assert all(line.strip() in unescape(page.read_text(encoding="utf-8")) for line in rule)


def test_capacities_are_shown_with_the_loads_that_were_tried(tmp_path):
    """Of both problems, as they are stored with the package."""
    for env, folder in (("papi_env/Serving-v0", "v0"), ("papi_env/Serving-v1", "v1")):
        assert called(presets.main, "--env", env, "--stored", "--out", tmp_path / folder)[0] == 0
    assert called(main, tmp_path / "v0", tmp_path / "v1", "--out", tmp_path / "page.html")[0] == 0
    rows = {tuple(row) for table in Page((tmp_path / "page.html").read_text()).tables for row in table}
    stored = json.loads(CAPACITIES.read_text())
    for name, capacity in stored["measured"].items():
        how = stored["found"][name]
        (shown,) = [row for row in rows if row[:2] == tuple(name.split("/")) and len(row) == 12]
        assert float(shown[2]) == pytest.approx(capacity["sessions_per_s"], rel=1e-3)
        assert [float(shown[3]), float(shown[5])] == [
            round(100 * g, 3) for g in (how["g"], how["beyond"]["g"])
        ]
        assert shown[-1] == how["rule"]
        tried = [row for row in rows if row[:2] == tuple(name.split("/")) and len(row) == 4]
        assert {float(row[3]) for row in tried} == {round(100 * g, 2) for _, g in how["rates"]}
    (short,) = [row for row in rows if row[:2] == ("short", "llama-65b")]
    measured = json.loads(MEASUREMENTS.read_text())["measured"]["short/llama-65b"]
    assert float(short[2]) == pytest.approx(measured["capacity_rps"], rel=1e-3)
    assert float(short[-1]) == pytest.approx(1e3 * measured["tpot_s"], rel=1e-3)


def test_a_page_of_results_has_commands_processors_versions_tables_and_pictures(
    others, tmp_path, monkeypatch
):
    monkeypatch.setitem(sys.modules, "plotly.offline", None)
    folder = others["merged"].parent
    page = folder / "results.md"
    assert called(main, *others.values(), "--out", page, "--title", "Results")[0] == 0
    text = page.read_text(encoding="utf-8")
    assert text.startswith("# Results\n\n## tune: tuned\n")
    assert text.count("```sh\npython -m experiments.compare --seeds 2\n```") == len(others)
    assert text.count("* machine: A processor, 2 CPUs") == len(others)
    assert text.count("* versions: python 3.11.2, numpy 2.4.6") == len(others)
    assert "| default | 0.51 | hasty | 0.48 | 3 | 1234 | 1 |" in text
    pictures = re.findall(r"!\[units\]\((.*)\)", text)
    assert [(folder / one).is_file() for one in pictures] == [True]
    rule = (others["distilled"] / "rule.txt").read_text().rstrip()
    assert f"```text\n{rule}\n```" in text
    tables = re.findall(r"(?:^\|.*\n)+", text, re.M)
    assert len(tables) > 12
    for table in tables:
        assert len({len(re.findall(r"(?<!\\)\|", row)) for row in table.splitlines()}) == 1
        assert len(table.splitlines()) <= MOST_ROWS + 2
    again = folder / "again.md"
    assert called(main, *others.values(), "--out", again, "--title", "Results")[0] == 0
    assert again.read_text(encoding="utf-8") == text


def test_names_stay_names_in_markdown_too():
    nasty = "a|b <script>`x` [y](javascript:z)\n# t *u* _v_ w_x \\"
    text = markdown_of(nasty, [Section(nasty, "", [Table(nasty, [Column(nasty)], [[nasty]])])], Path())
    plain = r"a\|b \<script\>\`x\` [y\](javascript:z) # t \*u\* \_v\_ w_x " + "\\\\"
    assert text.splitlines()[0] == f"# {plain}"
    assert f"\n| {plain} |\n|---|\n| {plain} |\n" in text
    assert markdown_of("t", [Section("s", "", [Lines("l", "a\n```\nb")])], Path()).endswith(
        "````text\na\n```\nb\n````\n"
    )


def refused(*arguments):
    status, out, err = called(main, *arguments)
    assert (status, out) == (2, "")
    assert err.startswith("error: ")
    assert err.count("\n") == 1
    return err


def test_what_is_no_run_folder_is_refused(tmp_path, runs):
    page = tmp_path / "page.html"
    assert "name at least one" in refused("--out", page)
    assert "found nothing, expected a run folder" in refused(tmp_path / "none", "--out", page)
    assert f"did you mean {runs[0].parent}/compare_decode" in refused(runs[0].parent, "--out", page)
    assert "named twice" in refused(runs[0], runs[0], "--out", page)
    assert "ends with .html or .md" in refused(runs[0], "--out", tmp_path / "page.png")
    unknown = recorded(tmp_path / "u", "comparee", {})
    assert "Did you mean 'compare'" in refused(unknown, "--out", page)
    assert not page.exists()


@pytest.mark.parametrize(
    ("file", "content", "said"),
    [
        ("summary.json", "{", "summary.json: not JSON, or cut off"),
        ("summary.json", '{"entries": []}', "not as experiments.compare of this version writes them"),
        ("summary.json", None, "summary.json: not there; the run is 'finished'"),
        ("results.csv", "a,b\n1,2,3\n", "results.csv: not a table, or cut off"),
        ("run.json", "[]", "run.json"),
    ],
)
def test_damage_is_named(tmp_path, file, content, said):
    path = frozen(tmp_path, "compare_decode")
    (path / file).unlink() if content is None else (path / file).write_text(content)
    kept = tmp_path / "page.html"
    kept.write_text("as before")
    err = refused(path, "--out", kept)
    assert said in err
    assert str(path) in err
    assert kept.read_text() == "as before"


@pytest.mark.parametrize("ending", ["html", "md"])
@pytest.mark.parametrize(
    ("name", "change", "said"),
    [
        ("compare_decode", lambda d: d["entries"][0].update(tokens_per_s=float("nan")), "not JSON compliant"),
        ("compare_decode", lambda d: d["entries"][0].update(invalid_actions=[1]), "TypeError"),
        ("compare_decode", lambda d: d["entries"][0].update(invalid_actions=10**400), "OverflowError"),
        ("leaderboard_serving", lambda d: d["claims"].update(grouped_by=1.5), "found a title that is float"),
    ],
    ids=["NaN", "a list", "a huge number", "a title"],
)
def test_what_no_page_can_show_is_a_damaged_file(tmp_path, name, change, said, ending):
    path = frozen(tmp_path, name)
    summary = json.loads((path / "summary.json").read_text())
    change(summary)
    (path / "summary.json").write_text(json.dumps(summary))
    status, _, err = called(main, path, "--out", tmp_path / f"page.{ending}")
    assert status == 2
    assert err.startswith(f"error: {path}: its files are not as")
    assert said in err


def test_a_table_of_requests_that_is_none_is_named(tmp_path):
    path = frozen(tmp_path, "serve")
    (path / "requests.parquet").write_bytes(b"PAR1" + bytes(100) + b"PAR1")
    status, _, err = called(main, path, "--out", tmp_path / "page.md")
    assert status == 2
    assert err.startswith(f"error: {path / 'requests.parquet'}: not a table, or cut off")


@pytest.mark.parametrize("name", ["plotly.offline", "jinja2"])
def test_without_the_extra_it_says_what_to_install(tmp_path, runs, monkeypatch, name):
    monkeypatch.setitem(sys.modules, name, None)
    monkeypatch.delitem(sys.modules, "experiments.reporting.page")
    err = refused(runs[0], "--out", tmp_path / "page.html")
    assert (
        f"A report needs {name.partition('.')[0]}, which is not installed: pip install 'papi-env[report]'"
        in err
    )


def test_labels_of_logarithmic_axes_are_whole_numbers_not_digits():
    assert charts.axis("x", type="log")["minorloglabels"] == "complete"
    assert "minorloglabels" not in charts.axis("x")
