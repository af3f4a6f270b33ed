"""A report as one HTML file that needs nothing else: pictures inside, no scripts, no addresses, everything escaped."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from pathlib import Path

from jinja2 import Environment, PackageLoader, select_autoescape


class Page:
    """Add parts in reading order, then `write`."""

    def __init__(self, title: str, subtitle: str = ""):
        self.title, self.subtitle = title, subtitle
        self.parts: list[dict[str, object]] = []

    def section(self, title: str) -> Page:
        return self._add("section", title=title, anchor=f"part-{len(self.parts)}")

    def text(self, *paragraphs: str) -> Page:
        return self._add("text", paragraphs=paragraphs)

    def warning(self, text: str) -> Page:
        return self._add("warning", text=text)

    def code(self, text: str) -> Page:
        return self._add("code", text=text)

    def facts(self, values: Mapping[str, object]) -> Page:
        return self._add("facts", rows=[(k, str(v)) for k, v in values.items()])

    def table(self, headers: Sequence[str], rows: Sequence[Sequence[str]], caption: str = "") -> Page:
        return self._add("table", headers=headers, rows=rows, caption=caption)

    def picture(self, png: bytes, caption: str, alt: str) -> Page:
        return self._add("picture", data=base64.b64encode(png).decode(), caption=caption, alt=alt)

    def write(self, path: Path) -> None:
        """Write the page; whole or not at all."""
        environment = Environment(
            loader=PackageLoader("medkd.report"), autoescape=select_autoescape(default=True), trim_blocks=True,
            lstrip_blocks=True,
        )  # fmt: skip
        sections = [part for part in self.parts if part["kind"] == "section"]
        text = environment.get_template("page.html").render(
            title=self.title, subtitle=self.subtitle, parts=self.parts, sections=sections if len(sections) > 3 else []
        )
        temporary = path.with_name(path.name + ".partial")
        temporary.write_text(text, encoding="utf-8")
        temporary.replace(path)

    def _add(self, kind: str, **values: object) -> Page:
        self.parts.append({"kind": kind, **values})
        return self
