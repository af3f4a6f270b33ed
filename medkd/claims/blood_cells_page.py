"""The page of the blood-cell experiment, from the lines of its finished runs: OUT/NAME.md and the figures in OUT/NAME/.

Curves and matrices come from the lines; detections on images from the run folders, where these are still there.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from medkd.claims.adaptation_watch import relations
from medkd.claims.blood_cell_data import CLASSES, SOURCE
from medkd.claims.blood_cells import ARMS, BloodCells
from medkd.claims.blood_cells_pictures import draw_detections
from medkd.claims.blood_cells_verdict import by_arm, by_seed, mean, rare, summarise
from medkd.claims.page import NONE, markdown, spread
from medkd.claims.runner import Line
from medkd.claims.verdict import RULE
from medkd.data.dataset import write_whole
from medkd.report.curves import arms_figure, compare_curves
from medkd.report.detections import pseudo_label_curves, relation_heat_maps

LEVELS = ("0.05", "0.3", "0.5", "1.0")
CURVES = {"recall_WBC": "recall of WBC pseudo-labels", "precision_WBC": "precision of WBC pseudo-labels",
          "boxes_WBC": "WBC pseudo-labels an image"}  # fmt: skip
FIGURES = {
    "wbc_ap50.png": "AP50 of white cells on the target's held-out images, every arm and seed",
    "map50.png": "AP50, mean over red and white cells",
    **{f"{name}.png": f"{words} over training, seed 0: a collapse would be a fall" for name, words in CURVES.items()},
    "pseudo_labels_gt_expert.png": "The teacher's pseudo-labels, every class (gt_expert, seed 0)",
    "pseudo_labels_mean_teacher.png": "The same of the mean teacher, seed 0",
    "relation.png": "The target's relation matrix over training (gt_expert, seed 0)",
    "detections.png": "Held-out images of the target: source-only with colours, mean teacher, GT with the expert (seed "
    "0, the last checkpoints). The first, middle and last of the images with a white cell; none was chosen by eye",
}  # fmt: skip


def write_page(experiment: BloodCells, lines: Sequence[Line], out: Path, more: str = "") -> None:
    """Write OUT/NAME.md with its figures; `more` is added at the end."""
    folder = out / experiment.name
    folder.mkdir(parents=True, exist_ok=True)
    if lines:
        _draw(experiment, lines, folder)
        draw_detections(experiment, folder)
    write_whole(out / f"{experiment.name}.md", page(experiment, lines, folder) + more)


def page(experiment: BloodCells, lines: Sequence[Line], folder: Path) -> str:
    """The page as markdown."""
    result = summarise(experiment, lines)
    record = f"[runs.jsonl]({experiment.name}/runs.jsonl)" if lines else "runs.jsonl"
    parts = [
        f"# {experiment.title}",
        f"`{experiment.command}` makes the runs (a line each in {record}; a re-run skips those, a run that was killed "
        "goes on, and several processes share the work) and writes this page from the lines.",
        f"**{len(lines)} of {len(experiment.plan)} runs are finished.**",
    ]
    if result["missing"]:
        parts.append(f"Still missing: {', '.join(result['missing'])}.")
    parts += ["## Setting", _setting(experiment), _expert(experiment, lines)]
    if lines:
        rows = [[a["aim"], _reached(a["reached"]), a["numbers"]] for a in result["aims"]]
        parts += [
            f"**Verdict.** {result['verdict']}.",
            "## What was aimed at, before any run",
            markdown(["aim", "", "found"], rows),
            f"## {experiment.target}, held-out images",
            _table(experiment, lines),
            _read(lines, experiment.target),
            "## Differences, paired by seed",
            _differences(result["differences"]),
            f"## {SOURCE}, where the sources come from",
            _source_table(experiment, lines),
            *_figures(folder),
            "## Every run: when the held-out images were scored",
            _runs(experiment, lines),
        ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _setting(experiment: BloodCells) -> str:
    s = experiment.settings
    backbone = "EfficientNet-Lite0 with ImageNet weights" if s.weights else "a backbone trained from nothing"
    return (
        f"Source: {SOURCE}, labelled. Target: {experiment.target}; its training images without labels are all that an "
        f"adaptation gets beside the source's model folder. Classes {', '.join(CLASSES)}. A Faster R-CNN on "
        f"{backbone}, {s.size} pixels. {s.source} updates at the source, {s.adapt} of each adaptation ({s.adabn} of "
        "AdaBN, one pass), 4 images each. The candidate is the last checkpoint, of adapted arms the teacher's; nothing "
        "was selected by a target label. Hidden labels of target TRAINING images draw the curves of pseudo-labels, for "
        "diagnosis alone. The target's validation and test images were scored once by each run, at its end. The "
        "target's few platelets are a count, not a result. Intervals are over images, because "
        f"nobody knows the patients. {experiment.caveat[0].upper()}{experiment.caveat[1:]}."
    )


def _expert(experiment: BloodCells, lines: Sequence[Line]) -> str:
    text = (
        "The expert is a classical colour segmenter (`medkd/claims/stain_expert.py`): nuclei by the optical density of "
        "red, boxes around them, white cells alone. Its four constants were fixed on bccd's training labels "
        "(`benchmarks/stain_expert.py`); no target image was looked at. Its set of labels is completed by the "
        "teacher's boxes for the classes it does not look for (`expert.covers`)."
    )
    found = next((line["expert"] for line in lines if "expert" in line), None)
    if not found:
        return text
    rows = [
        [
            where,
            str(one["images"]),
            str(one["true"]),
            str(one["found"]),
            _number(one["precision"]),
            _number(one["recall"]),
        ]
        for where, one in found.items()
        if isinstance(one, dict)
    ]
    return text + "\n\n" + markdown(["expert on", "images", "true WBC", "found", "precision", "recall"], rows)


def _table(experiment: BloodCells, lines: Sequence[Line]) -> str:
    heads = ["arm", "seeds", "WBC AP50", "RBC AP50", "mean of both", "WBC AP", "RBC AP", "platelet AP50"]
    heads += [*(f"WBC found at {level} FP" for level in LEVELS), "min", "CPU min"]
    target, rows = experiment.target, []
    for arm, seeds in by_arm(experiment, lines).items():
        runs, name = list(seeds.values()), f"`{arm}`: {ARMS[arm].words}"
        if not runs:
            rows.append([name, "0", *[NONE] * (len(heads) - 2)])
            continue
        row = [name, str(len(runs)), f"**{spread(runs, lambda r: rare(r, target))}**"]
        row += [spread(runs, partial(_of_class, target, "RBC", "ap50")), spread(runs, lambda r: mean(r, target))]
        row += [spread(runs, partial(_of_class, target, n, k)) for n, k in (("WBC", "ap"), ("RBC", "ap"))]
        row.append(spread(runs, partial(_of_class, target, "Platelet", "ap50"), 2))
        row += [spread(runs, lambda r, v=v: r["scores"][target]["froc"]["at"][v][0], 2) for v in LEVELS]  # type: ignore[misc]
        row.append(spread(runs, lambda r: r["seconds"] / 60, 1))
        row.append(spread(runs, lambda r: r["cpu_seconds"] / 60 if r["cpu_seconds"] else None, 1))
        rows.append(row)
    return markdown(heads, rows)


def _read(lines: Sequence[Line], target: str) -> str:
    one = lines[0]["scores"][target]
    counts = ", ".join(f"{group['boxes']} {name}" for name, group in one["classes"].items())
    return (
        f"{one['images']} images: {counts}. Mean ± sd over seeds. AP50 and AP as COCO defines them. WBC found: the "
        f"share of white cells found at so many false alarms an image (a hit: {one['froc']['rule']}), not "
        "extrapolated. Minutes of wall and of processor time of the training, without the shared source and without "
        "hidden labels."
    )


def _differences(differences: Sequence[dict[str, Any]]) -> str:
    rows = [
        [d["better"], d["worse"],
         *(cell for what in ("WBC", "mean") for cell in (by_seed(d["by_seed"][what]), d["words"][what]))]
        for d in differences
    ]  # fmt: skip
    heads = ["arm", "over", "WBC AP50 by seed", "judged", "mean of RBC and WBC by seed", "judged"]
    return f"{markdown(heads, rows)}\n\n{RULE}" if rows else ""


def _source_table(experiment: BloodCells, lines: Sequence[Line]) -> str:
    rows = [
        [arm, str(len(runs)), *(spread(runs, partial(_of_class, SOURCE, name, "ap50")) for name in CLASSES)]
        for arm, seeds in by_arm(experiment, lines).items()
        if (runs := [line for line in seeds.values() if SOURCE in line["scores"]])
    ]
    return markdown(["arm", "seeds", *(f"{name} AP50" for name in CLASSES)], rows) if rows else ""


def _runs(experiment: BloodCells, lines: Sequence[Line]) -> str:
    heads = ["run", "scored (UTC)", "WBC AP50 [95 %]", "mean of RBC and WBC", "wall s", "CPU s", "sessions", "load",
             "threads", "start", "torch"]  # fmt: skip
    rows = []
    for line in lines:
        one = line["scores"][experiment.target]
        low, high = one["classes"]["WBC"]["ap50_interval"]
        cpu = line["cpu_seconds"]
        rows.append([
            f"{line['arm']} seed {line['seed']}", line["scored_at"],
            f"{rare(line, experiment.target):.3f}" + (f" [{low:.3f}, {high:.3f}]" if low is not None else ""),
            f"{one['map50']:.3f}", f"{line['seconds']:.0f}", NONE if cpu is None else f"{cpu:.0f}",
            str(line["sessions"]), " to ".join(f"{v:.1f}" for v in line["load"]), str(line["threads"]),
            line["start_weights"] or NONE, line["torch"],
        ])  # fmt: skip
    machines = sorted({f"{line['processor']}, {line['cores']} cores" for line in lines})
    return markdown(heads, rows) + f"\n\n{'; '.join(machines)}. start: hash of the source model it started from."


def _draw(experiment: BloodCells, lines: Sequence[Line], folder: Path) -> None:
    """The figures that need nothing but the lines."""
    arms = by_arm(experiment, lines)
    for name, value, words in (("wbc_ap50", rare, "AP50 of WBC"), ("map50", mean, "AP50 over RBC and WBC")):
        values = {arm: [value(line, experiment.target) for line in runs.values()] for arm, runs in arms.items() if runs}
        (folder / f"{name}.png").write_bytes(arms_figure(values, words))
    first = {arm: runs[0] for arm, runs in arms.items() if 0 in runs and ARMS[arm].role == "unlabelled"}
    for name, words in CURVES.items():
        shown = {arm: run["validation"] for arm, run in first.items() if _has(run, f"teacher/hidden_{name}")}
        if shown:
            drawn = compare_curves(shown, f"hidden_{name}", dict.fromkeys(shown, "teacher"), words)
            (folder / f"{name}.png").write_bytes(drawn)
    for arm in ("gt_expert", "mean_teacher"):
        rows = _curve_rows(first[arm]) if arm in first else []
        if any(len(row) > 1 for row in rows):
            (folder / f"pseudo_labels_{arm}.png").write_bytes(pseudo_label_curves(rows, CLASSES))
    matrices = relations(first["gt_expert"], CLASSES) if "gt_expert" in first else {}
    if matrices:
        (folder / "relation.png").write_bytes(relation_heat_maps(matrices, CLASSES))


def _has(line: Line, key: str) -> bool:
    return any(key in row for row in line["validation"])


def _curve_rows(line: Line) -> list[dict[str, float]]:
    keys = {f"{what}/{name}": f"teacher/hidden_{what}_{name}" for what in ("precision", "recall") for name in CLASSES}
    return [
        {"step": row["step"], **{short: row[key] for short, key in keys.items() if key in row}}
        for row in line["validation"]
    ]


def _figures(folder: Path) -> list[str]:
    return [
        f"{words}.\n\n![{words}]({folder.name}/{name})" for name, words in FIGURES.items() if (folder / name).exists()
    ]


def _of_class(domain: str, name: str, what: str, line: Line) -> float | None:
    value: float | None = line["scores"][domain]["classes"][name][what]
    return value


def _reached(reached: bool | None) -> str:
    return NONE if reached is None else "**reached**" if reached else "**missed**"


def _number(value: float | None) -> str:
    return NONE if value is None else f"{value:.3f}"
