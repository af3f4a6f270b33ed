"""medkd config: show, check or describe a recipe."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

config = typer.Typer(no_args_is_help=True, help="Show, check or describe a recipe.")
RecipeFile = Annotated[Path, typer.Argument(help="a recipe")]
Overrides = Annotated[list[str] | None, typer.Argument(help="key.sub=value ...")]


@config.command()
def show(recipe: RecipeFile, overrides: Overrides = None) -> None:
    """Print a recipe with every default filled in."""
    import yaml

    from medkd.config.load import load_recipe

    print(yaml.safe_dump(load_recipe(recipe, overrides).model_dump(mode="json"), sort_keys=False), end="")


@config.command()
def check(recipe: RecipeFile, overrides: Overrides = None) -> None:
    """Say whether a recipe is right; exit code 2 and all its problems if not."""
    from medkd.config.load import load_recipe

    phases = ", ".join(f"{p.name} ({p.method.kind}, {p.steps} steps)" for p in load_recipe(recipe, overrides).phases)
    print(f"{recipe}: right; phases: {phases}")


@config.command()
def schema(task: Annotated[str, typer.Argument(help="the task of the recipes")] = "segmentation") -> None:
    """Print the JSON schema of a task's recipes."""
    from medkd.config.load import recipe_kind

    print(json.dumps(recipe_kind(task).model_json_schema(), indent=1))
