"""Options that give each class a share."""

import pytest

from depers.datasets.class_values import read_class_shares
from depers.errors import UserError


@pytest.mark.parametrize(
    ("texts", "expected"),
    [
        ((), {}),
        (("0.99",), {"face": 0.99, "car": 0.99}),
        (("car=0.9", "0.99"), {"face": 0.99, "car": 0.9}),
        (("face=0.5",), {"face": 0.5}),
    ],
)
def test_shares_are_for_all_or_for_one(texts: tuple[str, ...], expected: dict[str, float]) -> None:
    assert read_class_shares(texts, ["face", "car"], "--option") == expected


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("1", "must be a number between 0 and 1, or CLASS=NUMBER, but got '1'"),
        ("nan", "must be a number between 0 and 1"),
        ("car=high", "must be a number between 0 and 1"),
        ("lorry=0.9", "lorry=0.9: the class must be one of face, car, but is 'lorry'"),
    ],
)
def test_other_shares_are_refused(text: str, message: str) -> None:
    with pytest.raises(UserError, match=f"--option {message}"):
        read_class_shares([text], ["face", "car"], "--option")
