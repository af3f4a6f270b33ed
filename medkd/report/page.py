"""One HTML file that says what happened: opens offline, prints, and keeps its pictures when it is mailed.

    page = Page("Evaluation", "test split")
    page.section("Scores")
    page.table(["class", "Dice"], [["rv", 0.873]], "Mean over patients.")
    page.picture(overlay_grid(...), "Six patients from worst to best.", alt="Overlays of six patients")
    page.write(folder / "report.html")

All text is escaped, and the page forbids scripts and outside resources to the browser.
"""

from __future__ import annotations

import base64
import re
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jinja2
import numpy as np

import medkd
from medkd.errors import InputError, raise_all

PNG = b"\x89PNG\r\n\x1a\n"
SCREEN = 100 / 150  # pictures have 150 pixels an inch; at 100 their text is as large as the page's small text
CONTENTS_FROM = 4  # sections
NUMBER = re.compile(r"[-+−]?\d[\d., ]*(e[-+]?\d+)?\s*([±(\[–/x×].*|%|[a-zµ]{1,3}(/[a-z]+)?)?", re.IGNORECASE)
NOTHING = {"", "-", "–", "—", "n/a", "nan", "none", "undefined"}


@dataclass(frozen=True)
class Block:
    kind: str  # which branch of page.html draws it
    values: dict[str, Any]


class Page:
    """A page under construction: every method appends. Raises InputError for what would be shown empty or broken."""

    def __init__(self, title: str, subtitle: str = ""):
        if not title.strip():
            raise InputError("the page has an empty title; give it one")
        self.title, self.subtitle = title, subtitle
        self._blocks: list[Block] = []

    def section(self, title: str) -> None:
        """A heading. Pages of four sections and more get a table of contents."""
        number = sum(block.kind == "section" for block in self._blocks) + 1
        self._add("section", title=title, anchor=f"section-{number}")

    def text(self, text: str) -> None:
        """Plain text; a blank line starts a new paragraph."""
        self._add("text", paragraphs=[part.strip() for part in re.split(r"\n\s*\n", text) if part.strip()])

    def warning(self, text: str) -> None:
        """What a reader must not miss."""
        self._add("warning", text=text)

    def code(self, text: str) -> None:
        """Commands and files, as they are."""
        self._add("code", text=text.strip("\n"))

    def facts(self, facts: Mapping[str, object]) -> None:
        """Names and their values."""
        if not facts:
            raise InputError("facts got nothing to show; leave them out")
        self._add("facts", facts={name: cell(value) for name, value in facts.items()})

    def table(self, headers: Sequence[str], rows: Sequence[Sequence[object]], caption: str = "") -> None:
        """Rows of any values (see `cell`). Columns of numbers are aligned at the right."""
        wrong = [i for i, row in enumerate(rows) if len(row) != len(headers)]
        raise_all([f"row {i} of the table has {len(rows[i])} cells, its header {len(headers)}" for i in wrong])
        if not headers or not rows:
            raise InputError(f"a table has {len(headers)} headers and {len(rows)} rows; say in words what is missing")
        cells = [[cell(value) for value in row] for row in rows]
        numeric = [_numeric([row[i] for row in cells]) for i in range(len(headers))]
        self._add("table", headers=list(headers), rows=cells, caption=caption, numeric=numeric)

    def picture(self, png: bytes, caption: str, alt: str) -> None:
        """A PNG, embedded. alt: what it shows, in words, for people who cannot see it."""
        problems = [] if alt.strip() else ["the picture has no alt text; say in words what it shows"]
        if not png.startswith(PNG) or len(png) < 24:
            problems.append(f"the picture is not a PNG (it starts with {png[:8]!r}); give the bytes of a PNG file")
        raise_all(problems)
        width, height = struct.unpack(">II", png[16:24])
        data = base64.b64encode(png).decode("ascii")
        size = {"width": round(width * SCREEN), "height": round(height * SCREEN)}
        self._add("picture", data=data, caption=caption, alt=alt, **size)

    def html(self) -> str:
        """The whole page."""
        sections = [block.values for block in self._blocks if block.kind == "section"]
        environment = jinja2.Environment(
            loader=jinja2.FileSystemLoader(Path(__file__).parent / "templates"),
            autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True,
        )  # fmt: skip
        return environment.get_template("page.html").render(
            title=self.title, subtitle=self.subtitle, blocks=self._blocks, version=medkd.__version__,
            contents=sections if len(sections) >= CONTENTS_FROM else [],
        )  # fmt: skip

    def write(self, path: Path) -> None:
        """Write the page, whole or not at all."""
        temporary = path.with_name(f".{path.name}.partial")
        # A file name that is not UTF-8 reaches Python as lone surrogates, which no file can hold.
        temporary.write_text(self.html(), encoding="utf-8", errors="replace")
        temporary.replace(path)

    def _add(self, kind: str, **values: Any) -> None:
        self._blocks.append(Block(kind, values))


def cell(value: object) -> str:
    """A value as a reader wants it: 4 significant digits, an en dash for None and NaN, yes or no, lists with commas."""
    match value:
        case None:
            return "–"
        case bool() | np.bool_():
            return "yes" if value else "no"
        case float() | np.floating():
            return "–" if np.isnan(value) else f"{value:.4g}"
        case list() | tuple():
            return ", ".join(map(cell, value))
        case _:
            return str(value)


def _numeric(column: Sequence[str]) -> bool:
    """Whether a column holds numbers, with units or spreads, and gaps."""
    filled = [text.strip() for text in column if text.strip().lower() not in NOTHING]
    return bool(filled) and all(NUMBER.fullmatch(text) for text in filled)
