"""Sections as one HTML file that needs nothing else: Plotly, styles and scripts are inside, and nothing is fetched.

What comes from run folders is escaped: in HTML by the templates, in figures by `charts.escaped`. The page's policy runs
the scripts written here alone, by their hashes, and allows no connection.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup
from plotly.offline import get_plotlyjs

from experiments.reporting.charts import escaped
from experiments.reporting.content import Lines, Part, Picture, Section

_HERE = Path(__file__).resolve().parent / "page"


def html_of(title: str, sections: Sequence[Section]) -> str:
    """The page; the same sections give the same text."""
    # Of the whole library only what would end the script early has to be written in another way.
    plotly = get_plotlyjs().replace("</script", "<\\/script")
    scripts = [plotly, (_HERE / "page.js").read_text(encoding="utf-8")]
    figures: list[Any] = []
    shown = [
        {
            "number": number,
            "title": section.title,
            "about": section.about,
            "facts": section.facts,
            "parts": [
                _part(part, f"s{number}-{k}", figures) for k, part in enumerate(section.parts, start=1)
            ],
        }
        for number, section in enumerate(sections, start=1)
    ]
    # Templates are the project's own; data is only ever inserted, and escaped.
    environment = Environment(loader=FileSystemLoader(_HERE), autoescape=True, undefined=StrictUndefined)
    return environment.get_template("page.html").render(
        title=title,
        sections=shown,
        figures=Markup(_in_script(figures)),
        style=Markup((_HERE / "page.css").read_text(encoding="utf-8")),
        scripts=[Markup(script) for script in scripts],
        policy=_policy(scripts),
    )


def _part(part: Part, name: str, figures: list[Any]) -> dict[str, Any]:
    """A part as the template takes it; a picture's figure joins `figures`."""
    about = {"id": name, "title": part.title, "note": part.note}
    if isinstance(part, Lines):
        return about | {"kind": "lines", "text": part.text}
    if isinstance(part, Picture):
        figures.append(escaped(part.figure))
        return about | {"kind": "figure", "number": len(figures) - 1, "height": part.height}
    rows = [
        [
            {"text": column.text(cell), "key": column.key(cell), "number": not isinstance(cell, str)}
            for column, cell in zip(part.columns, row, strict=True)
        ]
        for row in part.rows
    ]
    return about | {"kind": "table", "columns": part.columns, "rows": rows}


def _in_script(data: Any) -> str:
    """Plain data as JSON that no tag or comment of HTML can be read from."""
    text = json.dumps(data, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def _policy(scripts: Sequence[str]) -> str:
    """What the page may do: run its own scripts, and fetch nothing."""
    hashes = " ".join(
        f"'sha256-{base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()}'"
        for script in scripts
    )
    return f"default-src 'none'; script-src {hashes}; style-src 'unsafe-inline'; img-src data: blob:; base-uri 'none'"
