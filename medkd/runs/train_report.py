"""The page of a training run."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from medkd.report.curves import training_curves
from medkd.report.page import Page
from medkd.runs.tasks.protocol import Setup, in_words


def write_train_report(
    out: Path, setup: Setup, rows: list[dict[str, Any]], trained: dict[str, Any], score: float, seconds: float
) -> None:
    """Write OUT/curves.png, the task's own pictures and OUT/report.html."""
    manifest = json.loads((out / "manifest.json").read_text())
    recipe, dataset, name = setup.recipe, setup.dataset, setup.recipe.score
    curves = training_curves(rows, setup.task.primary)
    (out / "curves.png").write_bytes(curves)
    speed = [r["iterations_per_second"] for r in rows if r["kind"] == "train"]
    waits = [r["data_share"] for r in rows if r["kind"] == "train"]
    skipped = sum(
        max((r["skipped"] for r in rows if r["kind"] == "train" and r["phase"] == p.name), default=0)
        for p in recipe.phases
    )
    page = Page("Training", " then ".join(f"{p.name} ({p.method.kind}, {p.steps} updates)" for p in recipe.phases))
    page.facts(
        {
            f"validation {name}": f"{in_words(score)} ({trained['candidate']}, "
            f"{trained['weights']} weights, of update {trained['selected_at_step']} of the last phase)",
            "labelled training cases": trained["labelled_cases"],
            "unlabelled training cases": trained["unlabelled_cases"],
            "validation cases": len(dataset.select("val")),
            "split": trained["split"],
            "seed": recipe.seed,
            "time of this session": f"{seconds:.0f} s",
            "updates a second (median)": f"{sorted(speed)[len(speed) // 2]:.1f}",
            "share of time waiting for data (median)": f"{100 * sorted(waits)[len(waits) // 2]:.1f} %",
            "skipped updates (loss or gradient not finite)": skipped,
            "hardware": ", ".join(f"{k} {v}" for k, v in manifest["hardware"].items()),
            "software": ", ".join(f"{k} {v}" for k, v in manifest["packages"].items()),
        }
    )
    if dataset.select("val") and (recipe.ship == "best" or any(p.hand_over == "best" for p in recipe.phases[:-1])):
        page.warning(
            f"Validation {name} is computed on the preprocessed grid and has chosen the checkpoint: it is optimistic. "
            "Judge the model by medkd evaluate on test patients."
        )
    for note in setup.notes():
        page.warning(note)
    page.section("Curves")
    page.picture(curves, f"Training loss and validation {name} over all phases.", "loss and validation curves")
    for file, (picture, caption) in setup.pictures(rows).items():
        (out / file).write_bytes(picture)
        page.picture(picture, caption, Path(file).stem)
    first = out / "first_batch.png"
    if first.exists():
        page.section("First batch")
        page.picture(first.read_bytes(), "Samples as the network got them.", "first batch")
    page.section("Recipe")
    page.code((out / "recipe.yaml").read_text())
    page.write(out / "report.html")
