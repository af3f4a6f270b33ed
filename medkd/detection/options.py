"""Typed options of the detection methods. No torch at import; `build` imports the class it makes."""

from __future__ import annotations

from typing import ClassVar

import medkd.engine.options as engine


class MethodOptions(engine.MethodOptions):
    """Base of the method options of this room."""

    task: ClassVar[str] = "detection"
