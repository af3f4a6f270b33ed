from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from medkd.data.splits import choose_labelled, share_problems, shuffled, split_patients
from medkd.errors import InputError

SHARES = (0.7, 0.1, 0.2)


@settings(max_examples=60)
@given(st.integers(10, 60), st.integers(0, 10**6), st.data())
def test_held_out_patients_have_labels_and_every_patient_one_split(n: int, seed: int, data: st.DataObject) -> None:
    complete = {f"p{i}": data.draw(st.booleans()) for i in range(n)}
    labelled = data.draw(st.integers(1, 5))
    held_out = n - round(0.7 * n)
    if sum(complete.values()) < held_out + labelled:
        with pytest.raises(InputError, match="all with a label for every scan"):
            split_patients(complete, SHARES, labelled, seed)
        return
    splits = split_patients(complete, SHARES, labelled, seed)
    assert splits.keys() == complete.keys()
    assert [list(splits.values()).count(s) for s in ("train", "val", "test")] == [
        round(0.7 * n), round(0.8 * n) - round(0.7 * n), n - round(0.8 * n),
    ]  # fmt: skip
    assert all(complete[p] for p, s in splits.items() if s != "train")
    assert sum(complete[p] for p, s in splits.items() if s == "train") >= labelled


def test_a_split_does_not_depend_on_the_order_of_files() -> None:
    names = [f"p{i}" for i in range(30)]
    forward = split_patients(dict.fromkeys(names, True), SHARES, 3, 0)
    backward = split_patients(dict.fromkeys(reversed(names), True), SHARES, 3, 0)
    assert forward == backward
    assert forward != split_patients(dict.fromkeys(names, True), SHARES, 3, 1)


def test_the_order_is_pinned() -> None:
    """A split that changes between versions would silently break every comparison on it."""
    assert shuffled(["a", "b", "c", "d", "e"], 0, "split") == ["e", "b", "d", "c", "a"]


def test_reserved_patients_stay_in_train() -> None:
    names = {f"p{i}": True for i in range(10)}
    for seed in range(20):
        splits = split_patients(names, SHARES, 2, seed, reserved={"p3", "p7"})
        assert splits["p3"] == splits["p7"] == "train"


def test_what_cannot_be_split() -> None:
    with pytest.raises(InputError, match="3 patients are too few for a split with val"):
        split_patients({"a": True, "b": True, "c": True}, SHARES, 1, 0)
    assert share_problems((0.7, 0.1, 0.2)) == []
    for shares in ((0.7, 0.3), (0.7, 0.2, 0.2), (1.2, -0.2, 0.0)):
        assert "sum to 1" in share_problems(shares)[0]
    for k in (0, -1, 4):
        with pytest.raises(InputError, match="allowed: 1 to 3"):
            choose_labelled(["a", "b", "c"], k)
