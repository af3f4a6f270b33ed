from __future__ import annotations

import base64
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from medkd.errors import InputError
from medkd.report.page import Page, cell
from medkd.report.pictures import batch_grid

VOID = {"meta", "img", "br", "hr", "link", "input"}
EVIL = "<script>alert('x')</script> \"><img src=http://evil.example/x.png onerror=alert(1)> & {{ 7 * 7 }}"


class Reader(HTMLParser):
    """Reads a page strictly: every tag is closed, in order; keeps tags with attributes, and the text of each tag."""

    def __init__(self, html: str):
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, Any]]] = []
        self.texts: list[tuple[str, str]] = []
        self.feed(html)
        self.close()
        assert not self.open, f"never closed: {self.open}"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert len(dict(attrs)) == len(attrs), f"<{tag}> has an attribute twice"
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open, f"</{tag}> closes nothing"
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.texts.append((self.open[-1] if self.open else "", data))

    def of(self, tag: str) -> list[str]:
        return [text for where, text in self.texts if where == tag]

    def attributes(self, tag: str) -> list[dict[str, Any]]:
        return [attributes for name, attributes in self.tags if name == tag]


def picture() -> bytes:
    return batch_grid(np.eye(6)[None], None, ["a"])


def full(words: str = "words", sections: int = 5) -> Page:
    """A page with everything, `words` in every place that takes any."""
    page = Page(words, words)
    for _ in range(sections):
        page.section(words)
    page.text(words)
    page.warning(words)
    page.code(words)
    page.facts({words: words})
    page.table([words, "n"], [[words, 1], [words, 2]], words)
    page.picture(picture(), words, words)
    return page


def test_everything_is_escaped() -> None:
    html = full(EVIL).html()
    reader = Reader(html)
    assert "script" not in {tag for tag, _ in reader.tags}
    assert len(reader.attributes("img")) == 1
    assert not any(name.startswith("on") for _, attributes in reader.tags for name in attributes)
    for tag in ("title", "h1", "h2", "p", "code", "dt", "dd", "th", "td", "figcaption", "caption", "a"):
        assert EVIL in reader.of(tag), tag
    assert EVIL in "".join(reader.of("aside"))
    assert reader.attributes("img")[0]["alt"] == EVIL


@given(st.text(st.characters(exclude_categories=["Cs", "Cc"]), min_size=1).filter(str.strip))
def test_any_text_is_read_back_as_it_was(words: str) -> None:
    page = Page("t")
    page.code(words)
    page.table(["h"], [[words]])
    reader = Reader(page.html())
    assert "".join(reader.of("code")) == words
    assert "".join(reader.of("td")) == words


def test_the_page_needs_no_other_file() -> None:
    html = full().html()
    reader = Reader(html)
    names = {tag for tag, _ in reader.tags}
    assert not names & {"script", "link", "iframe", "object", "embed", "video", "audio", "base", "form"}
    for tag, attributes in reader.tags:
        for name in {"src", "href", "srcset", "poster", "action", "background"} & attributes.keys():
            assert attributes[name].startswith(("data:image/png;base64,", "#")), (tag, name)
    assert not re.search(r"https?://|@import|file:|url\(", html)
    (policy,) = [a["content"] for a in reader.attributes("meta") if a.get("http-equiv") == "Content-Security-Policy"]
    assert policy.startswith("default-src 'none'; img-src data:;")


def test_the_embedded_picture_is_the_picture() -> None:
    page = Page("t")
    png = picture()
    page.picture(png, "c", "a")
    (image,) = Reader(page.html()).attributes("img")
    assert base64.b64decode(image["src"].partition(",")[2]) == png
    height, width = (int.from_bytes(png[i : i + 4], "big") for i in (20, 16))
    assert (int(image["width"]), int(image["height"])) == (round(width / 1.5), round(height / 1.5))


def test_contents_from_four_sections_on() -> None:
    assert not Reader(full(sections=3).html()).attributes("nav")
    reader = Reader(full(sections=4).html())
    links = [a["href"] for a in reader.attributes("a")]
    assert links == [f"#{a['id']}" for a in reader.attributes("h2") if a["id"] != "contents"]
    assert len(set(links)) == 4
    ids = [a["id"] for _, a in reader.tags if "id" in a]
    assert len(set(ids)) == len(ids)


def test_numbers_are_aligned_at_the_right() -> None:
    columns = {
        "case": (["p1", "p2"], False),
        "dice": ([0.912, None], True),
        "spread": (["0.871 ± 0.034", "undefined"], True),
        "interval": (["0.87 (0.81–0.90)", "–"], True),
        "count": ([3, 12], True),
        "unit": (["3.5 mm", "12 %"], True),
        "size": (["64x64", "256 x 256"], True),
        "date": (["2024 in the spring", "1"], False),
        "flag": ([True, False], False),
        "empty": ([None, ""], False),
        "negative": ([-1, "−2.5e-3"], True),
        "hash": (["3f2a9c11", "12345678"], False),
    }
    page = Page("t")
    page.table(list(columns), list(zip(*(values for values, _ in columns.values()))))
    reader = Reader(page.html())
    aligned = {name: a.get("class") == "number" for name, a in zip(columns, reader.attributes("th"))}
    assert aligned == {name: numeric for name, (_, numeric) in columns.items()}
    first_row = reader.attributes("td")[: len(columns)]
    assert [a.get("class") == "number" for a in first_row] == [numeric for _, numeric in columns.values()]


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (0.87312345, "0.8731"), (float("nan"), "–"), (None, "–"), (True, "yes"), (0, "0"), ("", ""), (1e-5, "1e-05"),
        (("a", 1.0), "a, 1"), (np.float64(0.5), "0.5"), (np.float32(1 / 3), "0.3333"), (np.int64(7), "7"),
        (np.bool_(True), "yes"),
    ],
)  # fmt: skip
def test_cells(value: object, shown: str) -> None:
    assert cell(value) == shown


def test_paragraphs() -> None:
    page = Page("t")
    page.text("one\ntwo\n\n  \nthree\n")
    assert [t for t in Reader(page.html()).of("p") if t.strip()] == ["one\ntwo", "three"]


def test_code_keeps_its_lines() -> None:
    page = Page("t")
    page.code("\n  a: 1\n    b: <2>\n")
    assert Reader(page.html()).of("code") == ["  a: 1\n    b: <2>"]


def test_what_would_be_empty_or_broken_is_an_input_error() -> None:
    page = Page("t")
    with pytest.raises(InputError, match="empty title"):
        Page("  ")
    with pytest.raises(InputError) as error:
        page.picture(b"<svg>", "c", "")
    assert len(error.value.problems) == 2
    with pytest.raises(InputError, match="0 rows"):
        page.table(["a"], [])
    with pytest.raises(InputError) as error:
        page.table(["a", "b"], [[1, 2], [1], [1, 2, 3]])
    assert error.value.problems == [
        "row 1 of the table has 1 cells, its header 2",
        "row 2 of the table has 3 cells, its header 2",
    ]
    with pytest.raises(InputError):
        page.facts({})


def test_a_page_is_written_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "report.html"
    page = full("Größe 患者")
    page.write(path)
    assert path.read_text(encoding="utf-8") == page.html()
    assert [p.name for p in tmp_path.iterdir()] == ["report.html"]

    def stop(*_: object, **__: object) -> None:
        raise OSError("disk full")

    monkeypatch.setattr(Path, "write_text", stop)
    with pytest.raises(OSError, match="disk full"):
        full("new").write(path)
    assert "Größe 患者" in path.read_text(encoding="utf-8")


def test_a_file_name_that_is_not_utf8_can_be_shown(tmp_path: Path) -> None:
    full(b"scan_\xff.nii".decode("utf-8", "surrogateescape")).write(tmp_path / "report.html")
    assert "scan_?.nii" in (tmp_path / "report.html").read_text(encoding="utf-8")


def test_a_page_does_not_say_where_it_was_made(tmp_path: Path) -> None:
    full().write(tmp_path / "report.html")
    html = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert str(tmp_path) not in html
    assert str(Path(__file__).parents[2]) not in html


def test_reports_need_neither_torch_nor_a_window() -> None:
    modules = "pictures", "curves", "page"
    code = f"import sys, {', '.join(f'medkd.report.{m}' for m in modules)}; "
    code += "sys.exit(' '.join({'torch', 'tkinter', 'matplotlib.pyplot'} & sys.modules.keys()) or 0)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
