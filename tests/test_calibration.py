"""Calibration for privacy: thresholds.json read back, and refused where it is something else."""

import json
from pathlib import Path

import pytest

from depers.calibration import read_thresholds
from depers.options import UserError


def test_thresholds_are_read_and_unsupported_classes_left_out(tmp_path: Path) -> None:
    file = tmp_path / "thresholds.json"
    content = {"version": 1, "thresholds": {"face": 0.0625, "car": None, "human": 0.3}, "details": {"anything": 1}}
    file.write_text(json.dumps(content))
    assert read_thresholds(str(file)) == {"face": 0.0625, "human": 0.3}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "no such file of thresholds"),
        ("", "must be JSON as `depers evaluate` writes it, but Expecting value"),
        ("\udcff", "must be JSON"),
        ("[0.5]", r"must be an object with version and thresholds, but is \[0.5\]"),
        ('{"version": 1}', "must be an object with version and thresholds"),
        ('{"version": 2, "thresholds": {}}', "version must be 1, but is 2"),
        ('{"thresholds": {}}', "version must be 1, but is null"),
        (
            '{"version": 1, "thresholds": {"car": 1.5}}',
            "the threshold of car must be between 0 and 1 or null, but is 1.5",
        ),
        ('{"version": 1, "thresholds": {"car": 0}}', "the threshold of car must be between 0 and 1 or null, but is 0"),
        (
            '{"version": 1, "thresholds": {"car": NaN}}',
            "the threshold of car must be between 0 and 1 or null, but is NaN",
        ),
        ('{"version": 1, "thresholds": {"car": true}}', "the threshold of car must .* but is true"),
        ('{"version": 1, "thresholds": {"car": "0.5"}}', 'the threshold of car must .* but is "0.5"'),
    ],
)
def test_other_files_are_refused(tmp_path: Path, text: str | None, message: str) -> None:
    file = tmp_path / "thresholds.json"
    if text is not None:
        file.write_bytes(text.encode("utf-8", "surrogateescape"))
    with pytest.raises(UserError, match=f"{file}: {message}"):
        read_thresholds(str(file))
