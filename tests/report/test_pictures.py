"""Hand checks on pixels: a black image, a labelled rectangle, and where its colour is found."""

from __future__ import annotations

import io
from collections.abc import Callable

import numpy as np
import pytest
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.image import imread

from medkd.errors import InputError
from medkd.report.colours import DISAGREEMENT, FALSE_ALARM, MISSED, OKABE_ITO, WRONG_CLASS
from medkd.report.pictures import Pasted, Slice, batch_grid, composites, overlay_grid
from medkd.report.slices import CONVENTION

CLASSES = ("background", "rv", "myo")
FILL = [0.3 * np.array(to_rgb(colour)) for colour in OKABE_ITO]  # a class's fill on black
ERROR = {code: 0.85 * np.array(to_rgb(colour)) for code, (_, colour) in DISAGREEMENT.items()}


def label(x: slice, y: slice, value: int = 1, shape: tuple[int, int] = (40, 40)) -> np.ndarray:
    made = np.zeros(shape, np.uint8)
    made[x, y] = value
    return made


def row(truth: np.ndarray | None, prediction: np.ndarray | None, **options: object) -> Slice:
    shape = next(a.shape for a in (truth, prediction) if a is not None)
    return Slice("p1", np.zeros(shape), truth, prediction, **options)  # type: ignore[arg-type]


def panels(data: bytes, figure: Figure) -> list[np.ndarray]:
    """The pixels (rows, columns, 3) of every panel that holds an image, in the order of the rows."""
    picture = imread(io.BytesIO(data))[..., :3]
    found = []
    for ax in figure.axes:
        box = ax.get_window_extent()
        found.append(
            picture[len(picture) - round(box.y1) : len(picture) - round(box.y0), round(box.x0) : round(box.x1)]
        )
    return found


def test_a_class_is_drawn_where_its_label_is(box_of, figures) -> None:
    """Right anterior quarter in RAS+ is the upper left quarter on the screen; left posterior the lower right one."""
    here, there = label(slice(20, 40), slice(20, 40)), label(slice(0, 20), slice(0, 20))
    image, truth, prediction, _ = panels(overlay_grid([row(here, there)], CLASSES), figures[0])
    size, line = len(image), 5
    assert box_of(truth, FILL[0]) == pytest.approx((0, 0, size / 2, size / 2), abs=line)
    assert box_of(prediction, FILL[0]) == pytest.approx((size / 2, size / 2, size, size), abs=line)
    assert not image.any()


@pytest.mark.parametrize("spacing", [(1.0, 1.0), (1.0, 2.5), (3.0, 1.0), (0.7, 0.35)])
def test_a_square_of_voxels_has_its_physical_aspect(box_of, figures, spacing: tuple[float, float]) -> None:
    truth = label(slice(10, 30), slice(10, 30))
    _, shown = panels(overlay_grid([row(truth, None, spacing=spacing)], CLASSES), figures[0])
    left, top, right, bottom = box_of(shown, FILL[0])
    assert (right - left) / (bottom - top) == pytest.approx(spacing[0] / spacing[1], rel=0.06)


def test_the_contour_runs_around_the_label(box_of, figures) -> None:
    _, shown = panels(overlay_grid([row(label(slice(10, 30), slice(10, 30)), None)], CLASSES), figures[0])
    quarter = len(shown) / 4
    assert box_of(shown, OKABE_ITO[0]) == pytest.approx((quarter, quarter, 3 * quarter, 3 * quarter), abs=4)
    middle = len(shown) // 2
    assert shown[middle, middle] == pytest.approx(FILL[0], abs=0.02)
    assert not shown[middle, : int(quarter) - 4].any()


def test_the_contour_closes_at_the_border_of_the_image(figures) -> None:
    """A label over the whole image has a line on all four sides."""
    whole = label(slice(None), slice(None))
    _, shown = panels(overlay_grid([row(whole, None)], CLASSES), figures[0])
    middle = len(shown) // 2
    for side in (shown[:3, middle], shown[-3:, middle], shown[middle, :3], shown[middle, -3:]):
        assert (np.abs(side - to_rgb(OKABE_ITO[0])) < 0.1).all(-1).any()


def test_disagreement_shows_missed_false_and_wrong(box_of, figures) -> None:
    truth = label(slice(0, 10), slice(0, 10)) + label(slice(20, 30), slice(0, 10))
    prediction = label(slice(0, 10), slice(20, 30)) + label(slice(20, 30), slice(0, 10), 2)
    *_, shown = panels(overlay_grid([row(truth, prediction)], CLASSES), figures[0])
    q = len(shown) / 4
    assert box_of(shown, ERROR[MISSED]) == pytest.approx((3 * q, 3 * q, 4 * q, 4 * q), abs=3)
    assert box_of(shown, ERROR[FALSE_ALARM]) == pytest.approx((3 * q, q, 4 * q, 2 * q), abs=3)
    assert box_of(shown, ERROR[WRONG_CLASS]) == pytest.approx((q, 3 * q, 2 * q, 4 * q), abs=3)


def test_agreement_shows_no_disagreement(figures) -> None:
    same = label(slice(3, 9), slice(3, 30))
    *_, shown = panels(overlay_grid([row(same, same)], CLASSES), figures[0])
    assert not shown.any()


def texts(figure: Figure) -> list[str]:
    found = [*figure.texts, *(t for legend in figure.legends for t in legend.get_texts())]
    return [t.get_text() for t in found] + [t.get_text() for ax in figure.axes for t in (ax.title, *ax.texts)]


def test_titles_name_the_case_its_dice_and_the_convention(figures) -> None:
    shown = row(label(slice(3, 9), slice(3, 9)), None, dice={"rv": 0.91234, "myo": float("nan")}, note="slice 2 of 5")
    overlay_grid([shown], CLASSES)
    words = texts(figures[0])
    assert "p1" in words
    assert "slice 2 of 5 · Dice of the case: rv 0.912, myo undefined" in words
    assert f"axial: {CONVENTION['axial']}." in words
    assert {"image", "truth", "rv", "myo"} <= set(words)
    assert not {"prediction", "disagreement", "background"} & set(words)


def test_what_one_row_lacks_is_said(figures) -> None:
    some = label(slice(3, 9), slice(3, 9))
    overlay_grid([row(some, some), row(None, some), row(some, None)], CLASSES)
    words = texts(figures[0])
    assert words.count("nothing to compare") == 2
    assert (words.count("no truth"), words.count("no prediction")) == (1, 1)


LONG = "institution_17_$x_1$_" + "patient " * 40 + "_the_end"
MANY = ("background", *(f"organ with a long name {i}" for i in range(1, 16)))


@pytest.mark.parametrize("plane", [(60, 20), (20, 60), (8, 300)])
@pytest.mark.parametrize("both", [True, False])
def test_nothing_overlaps(figures, check_layout, plane: tuple[int, int], both: bool) -> None:
    truth = label(slice(1, 7), slice(3, 9), 15, plane)
    dice = dict.fromkeys(MANY[1:], 0.5)
    rows = [
        row(truth, truth if both else None, dice=dice, note="axial slice 3 of 8"),
        Slice(LONG, truth, truth, plane="coronal"),
    ]
    overlay_grid(rows, MANY)
    check_layout(figures[0])
    assert any("…" in text and text.endswith("_the_end") for text in texts(figures[0]))


def test_any_script_any_control_character(figures) -> None:
    name = "患者 \x00\n$\\frac{$"  # as a formula this would be an error
    overlay_grid([row(np.ones((4, 4)), None), Slice(name, np.zeros((4, 4)), note=name)], ("background", name))
    batch_grid(np.eye(4)[None], np.eye(4, dtype=int)[None], [name], ("background", name))
    for figure in figures:
        assert "患者 ??$\\frac{$" in texts(figure)


def test_no_rows_and_unknown_classes_are_input_errors() -> None:
    with pytest.raises(InputError, match="at least one"):
        overlay_grid([], CLASSES)
    with pytest.raises(InputError, match=r"labels hold \[3\], but there are 3 classes"):
        overlay_grid([row(label(slice(0, 3), slice(0, 3), 3), None)], CLASSES)


# --- composites


def pasted(**changes: np.ndarray) -> Pasted:
    """A black labelled image with class 1 everywhere, a black unlabelled one with class 2; the patch is the middle."""
    mask = np.ones((40, 40), bool)
    mask[10:30, 10:30] = False
    arrays = {"labelled": np.zeros((40, 40)), "label": np.full((40, 40), 1), "unlabelled": np.zeros((40, 40))}
    arrays |= {"pseudo": np.full((40, 40), 2), "mask": mask} | changes
    return Pasted(labelled_case="a", unlabelled_case="b", **arrays)  # type: ignore[arg-type]


def test_composites_show_the_label_of_the_host_and_the_label_of_the_patch(figures) -> None:
    """Card bcp.md 3.1: the third panel pastes the labelled patch into the unlabelled host, the fourth the reverse."""
    found = []
    for shown in panels(composites([pasted()], CLASSES), figures[0]):
        n = len(shown)
        inside, outside = shown[n // 2, n // 2], shown[n // 10, n // 10]
        found.append([int(np.argmin([np.abs(c - fill).sum() for fill in FILL])) + 1 for c in (inside, outside)])
    assert found == [[1, 1], [2, 2], [1, 2], [2, 1]]


def test_composites_outline_the_mask(box_of, figures) -> None:
    for shown in panels(composites([pasted()], CLASSES), figures[0]):
        n = len(shown)
        box = box_of(shown[3:-3, 3:-3], "white")  # without the edge, where the paper shines through
        assert box == pytest.approx((n / 4, n / 4, 3 * n / 4, 3 * n / 4), abs=8)


def test_composites_show_the_image_of_the_host_and_the_image_of_the_patch(figures) -> None:
    none = np.zeros((40, 40), int)
    pair = pasted(unlabelled=np.ones((40, 40)), label=none, pseudo=none)
    shown = panels(composites([pair], CLASSES), figures[0])
    n = len(shown[0])
    assert [(p[n // 2, n // 2, 0], p[n // 10, n // 10, 0]) for p in shown] == [(0, 0), (1, 1), (0, 1), (1, 0)]


def test_composites_share_one_grey_window(figures) -> None:
    """An unlabelled image twice as bright stays twice as bright, so the seam the network sees is in the picture."""
    none = np.zeros((40, 40), int)
    ramp = np.tile(np.linspace(0, 1, 40), (40, 1))
    pair = pasted(labelled=ramp, unlabelled=2 * ramp, label=none, pseudo=none)
    labelled, unlabelled, *_ = panels(composites([pair], CLASSES), figures[0])
    place = (len(labelled) // 6, 20)
    assert labelled[place][0] > 0.3
    assert unlabelled[place][0] == pytest.approx(2 * labelled[place][0], rel=0.05)


def test_composites_layout(figures, check_layout) -> None:
    composites([pasted()] * 3, MANY, spacing=(1.5, 1.0), plane="coronal")
    check_layout(figures[0])


def test_composites_name_every_wrong_pair() -> None:
    with pytest.raises(InputError, match="at least one"):
        composites([], CLASSES)
    with pytest.raises(InputError) as error:
        composites([pasted(), pasted(mask=np.ones((3, 3), bool)), pasted(label=np.ones((3, 4)))], CLASSES)
    assert [p.split(":")[0] for p in error.value.problems] == ["pair 1", "pair 2"]


# --- batch_grid


@pytest.mark.parametrize("count", [1, 2, 5, 8, 16])
def test_every_image_of_a_batch_is_drawn_with_its_title(figures, check_layout, count: int) -> None:
    batch = np.random.default_rng(0).normal(size=(count, 12, 10))
    labels = np.ones((count, 12, 10), np.int64)
    batch_grid(batch, labels, [f"patient{i:03d}_a_long_name_frame_{i:02d}" for i in range(count)])
    assert sum(bool(ax.images) for ax in figures[0].axes) == count
    assert "class 1" in texts(figures[0])
    check_layout(figures[0])


def test_a_long_batch_says_how_much_of_it_is_shown(figures) -> None:
    batch_grid(np.zeros((20, 4, 4)), None, [str(i) for i in range(20)])
    assert sum(bool(ax.images) for ax in figures[0].axes) == 16
    assert any(text.startswith("First 16 of 20 samples.") for text in texts(figures[0]))


def test_batch_labels_are_drawn_on_their_own_image(box_of, figures) -> None:
    labels = np.zeros((2, 20, 20), int)
    labels[1, 5:15, 5:15] = 1
    first, second = panels(batch_grid(np.zeros((2, 20, 20)), labels, ["a", "b"], CLASSES), figures[0])
    assert not first.any()
    n = len(second)
    assert box_of(second, FILL[0]) == pytest.approx((n / 4, n / 4, 3 * n / 4, 3 * n / 4), abs=4)


@pytest.mark.parametrize(
    ("images", "labels", "titles"),
    [
        (np.zeros((0, 4, 4)), None, []),
        (np.zeros((2, 4, 4, 4)), None, ["a", "b"]),
        (np.zeros((2, 4, 4)), np.zeros((2, 4, 5)), ["a", "b"]),
        (np.zeros((2, 4, 4)), None, ["a"]),
    ],
)
def test_a_batch_that_does_not_fit_is_an_input_error(
    images: np.ndarray, labels: np.ndarray | None, titles: list
) -> None:
    with pytest.raises(InputError):
        batch_grid(images, labels, titles)


@pytest.mark.parametrize(
    "draw",
    [
        lambda: overlay_grid([row(label(slice(3, 9), slice(3, 9)), None)], CLASSES),
        lambda: composites([pasted()], CLASSES),
        lambda: batch_grid(np.eye(4)[None], None, ["a"]),
    ],
)
def test_the_same_picture_has_the_same_bytes(draw: Callable[[], bytes]) -> None:
    assert draw() == draw()
    assert draw().startswith(b"\x89PNG")
