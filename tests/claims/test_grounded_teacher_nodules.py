"""The 3-D experiment runs the recipes that ship."""

from __future__ import annotations

from pathlib import Path

from medkd.claims.grounded_teacher_nodules import METHODS, adaptation, source_recipe
from medkd.config.load import load_recipe

CONFIGS = Path(__file__).parents[2] / "configs" / "detection"


def test_its_recipes_are_the_shipped_ones() -> None:
    assert source_recipe(None) == load_recipe(CONFIGS / "source_nodules_3d.yaml")
    assert adaptation(None, None, METHODS["GT"]) == load_recipe(CONFIGS / "grounded_teacher_nodules_3d.yaml")
