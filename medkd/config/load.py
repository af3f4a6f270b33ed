"""From a YAML file and key=value overrides to a Recipe, or one message that lists everything that is wrong with it."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, get_args

import yaml
from pydantic import BaseModel, ValidationError

from medkd.config.classification import ClassificationRecipe
from medkd.config.detection import DetectionRecipe
from medkd.config.recipe import Recipe
from medkd.config.segmentation import SegmentationRecipe
from medkd.errors import InputError

RECIPES: dict[str, type[Recipe]] = {
    "segmentation": SegmentationRecipe,
    "detection": DetectionRecipe,
    "classification": ClassificationRecipe,
}
"""Task -> its recipe: a new task is one more line."""


def load_recipe(path: Path, overrides: list[str] | None = None) -> Recipe:
    """Read a recipe. Raises InputError: no such file, YAML that does not parse, unknown keys, values not allowed."""
    if not path.is_file():
        raise InputError(f"no recipe at {path}; give a YAML file, such as one from configs/ of medkd's repository")
    try:
        tree = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise InputError(f"{path} is not YAML: {' '.join(str(error).split())}") from None
    if not isinstance(tree, dict):
        raise InputError(f"{path} holds {type(tree).__name__}; a recipe is a mapping of keys to values")
    return parse_recipe(tree, overrides)


def parse_recipe(tree: dict[str, Any], overrides: list[str] | None = None) -> Recipe:
    """A recipe from a tree of plain values; its key `task`, segmentation if there is none, says of which kind."""
    for text in overrides or []:
        _override(tree, text)
    kind = recipe_kind(tree.get("task", "segmentation"))
    try:
        return kind.model_validate(tree)
    except ValidationError as error:
        found = error.errors()
        raise InputError([_explain(item, kind) for item in found if not _follows(item, found)]) from None


def recipe_kind(task: object) -> type[Recipe]:
    """The recipe of a task. Raises InputError for a task that there is not."""
    if not isinstance(task, str) or task not in RECIPES:
        near = difflib.get_close_matches(str(task), RECIPES, n=1)
        hint = f"did you mean {near[0]!r}? " if near else ""
        raise InputError(f"task is {task!r}: {hint}allowed: {', '.join(RECIPES)}")
    return RECIPES[task]


def _override(tree: dict[str, Any], text: str) -> None:
    """Apply `key.sub=value`; a phase is named by its number or by its name: phases.selftrain.steps=100."""
    key, equals, value = text.partition("=")
    if not equals or not key:
        raise InputError(f"override {text!r} is not key=value; write for example phases.selftrain.steps=100")
    try:
        parsed = yaml.safe_load(value)
    except yaml.YAMLError:
        raise InputError(f"override {text!r}: the value does not parse as YAML") from None
    *parents, last = key.split(".")
    node: Any = tree
    for part in parents:
        node = _child(node, part, key)
    if isinstance(node, list):
        node[_position(node, last, key)] = parsed
    else:
        node[last] = parsed


def _child(node: Any, part: str, key: str) -> Any:
    if isinstance(node, list):
        return node[_position(node, part, key)]
    child = node.setdefault(part, {})
    if not isinstance(child, (dict, list)):
        raise InputError(f"override {key}: {part} is {child!r}, which has no parts; set {part} as a whole")
    return child


def _position(items: list[Any], part: str, key: str) -> int:
    names = [str(item.get("name")) if isinstance(item, dict) else str(item) for item in items]
    if part in names:
        return names.index(part)
    if part.isdigit() and int(part) < len(items):
        return int(part)
    raise InputError(f"override {key}: no {part!r} in the list; allowed: {', '.join(names)}")


def _follows(error: Any, found: Sequence[Any]) -> bool:
    """Whether a list is only called too short because an item in it is wrong, which has a message of its own."""
    inside = (other["loc"][: len(error["loc"])] == error["loc"] for other in found if other is not error)
    return error["type"] == "too_short" and any(inside)


def _explain(error: Any, kind: type[Recipe]) -> str:
    where = ".".join(str(part) for part in error["loc"]) or "recipe"
    if error["type"] == "extra_forbidden":
        known = _fields(error["loc"][:-1], kind)
        near = difflib.get_close_matches(str(error["loc"][-1]), known, n=1, cutoff=0.5)
        hint = f"did you mean {near[0]!r}? " if near else ""
        return f"unknown key {where}: {hint}allowed here: {', '.join(known)}"
    message = error["msg"].removeprefix("Value error, ")
    if error["type"] == "missing":
        return f"{where} is missing; it must be given"
    if error["type"] == "value_error":
        return f"{where}: {message}"
    if error["type"] == "union_tag_invalid":
        context = error["ctx"]
        near = difflib.get_close_matches(context["tag"], context["expected_tags"].replace("'", "").split(", "), n=1)
        hint = f"did you mean {near[0]!r}? " if near else ""
        return f"{where}.kind is {context['tag']!r}: {hint}allowed: {context['expected_tags']}"
    return f"{where} is {error['input']!r}: {message}"


def _fields(loc: tuple[Any, ...], kind: type[Recipe]) -> list[str]:
    """The keys allowed at a place in the recipe."""
    models: list[type[BaseModel]] = [kind]
    for part in loc:
        if isinstance(part, int):
            continue
        tagged = [m for m in models if "kind" in m.model_fields and m.model_fields["kind"].default == part]
        if tagged:
            models = tagged
            continue
        models = [
            m for model in models if part in model.model_fields for m in _models(model.model_fields[part].annotation)
        ]
    return sorted({name for model in models for name in model.model_fields})


def _models(annotation: Any) -> list[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [model for part in get_args(annotation) for model in _models(part)]
