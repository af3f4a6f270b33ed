"""Many cases at a glance: a small picture of each with its label, several in a row."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from medkd.errors import InputError
from medkd.report.colours import grey, grey_limits
from medkd.report.figures import SMALL, png, sheet, shorten
from medkd.report.panels import show
from medkd.report.pictures import class_entries, display_convention
from medkd.report.slices import Slice

COLUMNS = 6
PANEL = 1.25  # inches


def contact_sheet(cases: Sequence[Slice], classes: Sequence[str]) -> bytes:
    """One panel a case, under its name; its truth, if it has one, drawn in. Raises InputError without cases."""
    if not cases:
        raise InputError("no case to draw; give contact_sheet at least one")
    labels = [case.truth for case in cases if case.truth is not None]
    legends = [("classes", class_entries(labels, classes))] if any(np.any(label) for label in labels) else []
    lines = math.ceil(len(cases) / COLUMNS)
    figure, axes = sheet(
        [1.0] * lines, [(" ", "")] * lines, [""] * COLUMNS, legends, display_convention({c.plane for c in cases}), PANEL
    )
    for case, ax in zip(cases, (ax for row in axes for ax in row)):
        show(ax, grey(case.image, grey_limits(case.image)), case.size, case.truth)
        ax.set_title(shorten(case.case, PANEL, SMALL), size=SMALL, pad=3, parse_math=False)
    return png(figure)
