"""Detections and true boxes drawn on their images."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw

COLOURS = ("#ff3b30", "#2f7bff", "#ffcc00", "#34c759", "#af52de", "#ff9500", "#5ac8fa", "#ff2d92")
TRUTH = "#ffffff"


@dataclass(frozen=True)
class Drawn:
    """pixels: (H, W) or (H, W, 3) of any type. boxes: (N, 4) x, y; scores: (N,) or None. truth: (M, 4), white."""

    title: str
    pixels: np.ndarray
    boxes: np.ndarray
    labels: np.ndarray
    scores: np.ndarray | None = None
    truth: np.ndarray | None = None


def draw(item: Drawn, classes: Sequence[str], side: int = 512) -> Image.Image:
    """One picture, its longer side `side` pixels: true boxes thin and white, others in the colour of their class."""
    low, high = float(item.pixels.min()), float(item.pixels.max())
    grey = item.pixels if item.pixels.dtype == np.uint8 else (item.pixels - low) / max(high - low, 1e-6) * 255
    picture = Image.fromarray(np.asarray(grey, np.uint8)).convert("RGB")
    factor = side / max(picture.size)
    picture = picture.resize((max(1, round(picture.width * factor)), max(1, round(picture.height * factor))))
    pen = ImageDraw.Draw(picture)
    for box in () if item.truth is None else item.truth:
        pen.rectangle([float(v) * factor for v in box], outline=TRUTH, width=1)
    for number, (box, label) in enumerate(zip(item.boxes, item.labels)):
        colour = COLOURS[int(label) % len(COLOURS)]
        x, y, *_ = corners = [float(v) * factor for v in box]
        pen.rectangle(corners, outline=colour, width=2)
        score = "" if item.scores is None else f" {item.scores[number]:.2f}"
        pen.text((x + 3, y + 2), f"{classes[int(label)]}{score}", fill=colour, stroke_width=2, stroke_fill="#000000")
    pen.text((4, picture.height - 14), item.title, fill=TRUTH, stroke_width=2, stroke_fill="#000000")
    return picture


def detection_grid(items: Sequence[Drawn], classes: Sequence[str], columns: int = 2) -> bytes:
    """A PNG of several pictures side by side."""
    pictures = [draw(item, classes) for item in items]
    width, height = max(p.width for p in pictures), max(p.height for p in pictures)
    rows = -(-len(pictures) // columns)
    sheet = Image.new("RGB", (width * min(columns, len(pictures)), height * rows))
    for number, picture in enumerate(pictures):
        sheet.paste(picture, (number % columns * width, number // columns * height))
    return png(sheet)


def png(picture: Image.Image) -> bytes:
    data = io.BytesIO()
    picture.save(data, format="PNG")
    return data.getvalue()
