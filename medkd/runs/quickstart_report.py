"""The page of the quickstart."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from medkd.config.models import load_model
from medkd.data.dataset import Dataset
from medkd.engine.tracking import read_log
from medkd.imaging.nifti import read_nifti
from medkd.report.curves import compare_curves
from medkd.report.page import Page
from medkd.report.pictures import composites
from medkd.runs.composites import bcp_composites
from medkd.runs.phantom import phantom_recipe
from medkd.runs.tasks.protocol import Evaluation
from medkd.runs.tasks.segmentation import build, plane_of
from medkd.runs.tasks.segmentation_report import interval


def write_quickstart_report(
    out: Path,
    dataset: Dataset,
    evaluations: dict[str, Evaluation],
    summary: dict[str, Any],
    scan: Path,
    predicted: Path,
) -> None:
    """Write OUT/composites.png and OUT/report.html."""
    dice = summary["dice"]
    page = Page(
        "medkd quickstart",
        f"{summary['labelled_patients']} labelled patients of {len(dataset.select('train'))} for training; "
        f"{summary['test_patients']} test patients",
    )
    page.text(
        f"Trained on the labelled patients alone, the network reaches a test Dice of {dice['labelled_only']:.3f}. With "
        f"the unlabelled patients as well, by Bidirectional Copy-Paste, it reaches {dice['bcp']:.3f}. Both made the "
        "same number of updates from the same start weights; validation patients chose the checkpoints; the test "
        "patients were read once."
    )
    page.warning(
        "The patients are generated: this shows that the software works, and says nothing about real hearts. The "
        "labelled patients come from a narrower range of contrast, size and position than the rest, on purpose."
    )
    overall = {arm: e.summary["mean_over_classes"] for arm, e in evaluations.items()}
    rows = [[arm, interval(o["metrics"]["dice"]), o["missed"]] for arm, o in overall.items()]
    page.table(["arm", "test Dice [95 % over patients]", "structures missed"], rows, f"one seed: {summary['seed']}")

    page.section("Training")
    logs = {arm: read_log(out / arm / "log.jsonl") for arm in evaluations}
    page.picture(compare_curves(logs), "Validation Dice of the student.", "validation curves of both arms")
    page.section("What BCP shows its student")
    setup = build(phantom_recipe("bcp", out / "dataset", summary["seed"]))
    pasted = composites(bcp_composites(setup, load_model(out / "bcp")), dataset.classes, plane=plane_of(setup))
    (out / "composites.png").write_bytes(pasted)
    page.picture(
        pasted,
        "A box of a labelled image pasted into an unlabelled one, and the reverse; the targets likewise. "
        "Pseudo-labels here are by the finished model.",
        "labelled image, unlabelled image with pseudo-label, and the two composites",
    )
    for arm, evaluation in evaluations.items():
        page.section(f"Test scans: {arm}")
        page.table(*evaluation.table)
        overlays = (evaluation.folder / "overlays.png").read_bytes()
        page.picture(overlays, "From the worst to the best.", f"test scans segmented by {arm}")
    page.section("A new scan")
    page.text("medkd predict wrote an integer mask on the scan's own grid.")
    image, mask = read_nifti(scan), read_nifti(predicted)
    page.facts(
        {
            "scan": f"{scan.name}, {image.shape}, {image.array.dtype}",
            "mask": f"{predicted.name}, {mask.shape}, {mask.array.dtype}, labels {np.unique(mask.array).tolist()}",
            "same affine": bool(np.array_equal(image.affine, mask.affine)),
        }
    )
    page.section("Again, with your own scans")
    page.code(
        "medkd prepare SCANS --labels LABELS --out dataset --classes background,... --labelled 3\n"
        "medkd train configs/segmentation/bcp_acdc_3.yaml data=dataset --out runs/first\n"
        "medkd evaluate runs/first --data dataset\n"
        "medkd predict runs/first -i NEW_SCANS -o MASKS"
    )
    page.facts(summary["versions"] | summary["hardware"])
    page.write(out / "report.html")
