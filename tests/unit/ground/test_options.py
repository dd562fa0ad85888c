"""depers.options: text → dataclass, and every refusal in one line."""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from depers import __version__
from depers.commands.detect import Options as DetectOptions
from depers.errors import UserError
from depers.options import REQUIRED, CheckedOptions, argument, build, option
from depers.options.command_line import parse


@dataclass(frozen=True)
class Options(CheckedOptions):
    """Mirror a folder, at 100 % of its size.

    A second paragraph, which help leaves out.
    """

    input: str = argument("folder of images")
    out: str = argument("folder to write")
    weights: tuple[str, ...] = option(REQUIRED, "a detector", group="detection", metavar="PATH")
    mode: str = option("pixelate", "how to redact", choices=("pixelate", "blur", "fill"), group="redaction")
    margin: float = option(0.1, "share of the box, 10 % as it stands", low=0, high=1, group="redaction")
    image_size: int = option(640, "pixels", choices=(320, 640))
    limit: int | None = option(None, "stop after so many", low=1)
    classes: tuple[str, ...] = option(("face", "head"), "what to look for")
    keep: bool = option(False, "keep what is there")
    confidence: float = option(0.5, "of a box", above=0, below=1, group="detection")
    share: float | None = option(None, "of the images", above=0, high=1)
    smoothing: float = option(0.0, "of targets", low=0, below=1)
    imgsz: int = option(640, "longer side", multiple_of=32, group="detection")
    sizes: tuple[int, ...] = option((), "parts of a dataset", low=1, distinct=True)
    group_by: str | None = option(None, "what is alike", pattern=True)


@dataclass(frozen=True)
class Undocumented:
    count: int = option(3, "how many")


@dataclass(frozen=True)
class Wrong:
    table: bytes = option(b"", "cannot be read from text")


LEAST = ("in", "out", "--weights", "a.pt")


def read(*argv: str) -> Options:
    return parse(Options, argv, "depers verb")


def test_defaults() -> None:
    assert read(*LEAST) == Options("in", "out", ("a.pt",))


@pytest.mark.parametrize(
    ("argv", "name", "value"),
    [
        (["--mode", "blur"], "mode", "blur"),
        (["--mode=fill"], "mode", "fill"),
        (["--margin", "0"], "margin", 0.0),
        (["--image-size", "320"], "image_size", 320),
        (["--limit", "5"], "limit", 5),
        (["--keep"], "keep", True),
        (["--keep", "--no-keep"], "keep", False),
        (["--classes", "car"], "classes", ("car",)),  # replaces the default
        (["--classes", "car", "--classes", "head"], "classes", ("car", "head")),
        (["--weights", "b.pt:x=face,y=head"], "weights", ("a.pt", "b.pt:x=face,y=head")),
        (["--debug"], "mode", "pixelate"),
        (["--margin", "1"], "margin", 1.0),
        (["--share", "1"], "share", 1.0),
        (["--imgsz", "96"], "imgsz", 96),
        (["--sizes", "3", "--sizes", "2"], "sizes", (3, 2)),
        (["--group-by", "^[^_]+"], "group_by", "^[^_]+"),
    ],
)
def test_option(argv: list[str], name: str, value: Any) -> None:
    result = getattr(read(*LEAST, *argv), name)
    assert result == value
    assert type(result) is type(value)


def test_options_and_arguments_mix() -> None:
    assert read("--weights", "a.pt", "in", "--mode", "blur", "out") == Options("in", "out", ("a.pt",), "blur")


REFUSED = [
    ({"mode": "x"}, "--mode must be one of pixelate, blur, fill, but got 'x'"),
    ({"margin": 1.5}, "--margin must be between 0 and 1, but got 1.5"),
    ({"confidence": 2.0}, "--confidence must be above 0 and below 1, but got 2"),
    ({"confidence": 1.0}, "--confidence must be above 0 and below 1, but got 1"),
    ({"confidence": 0.0}, "--confidence must be above 0 and below 1, but got 0"),
    ({"share": 0.0}, "--share must be above 0 and at most 1, but got 0"),
    ({"smoothing": 1.0}, "--smoothing must be at least 0 and below 1, but got 1"),
    ({"limit": 0}, "--limit must be at least 1, but got 0"),
    ({"imgsz": 100}, "--imgsz must be a positive multiple of 32, but got 100"),
    ({"imgsz": 0}, "--imgsz must be a positive multiple of 32, but got 0"),
    ({"sizes": (4, 0)}, "--sizes must be at least 1, but got 0"),
    ({"sizes": (4, 4)}, "--sizes must be different values, but got 4, 4"),
    ({"group_by": "("}, "--group-by must be a regular expression, but '(' is none (missing ), unterminated"),
    ({"input": ""}, "INPUT must not be empty"),
    ({"classes": ("car", "")}, "--classes must not be empty"),
]


@pytest.mark.parametrize(("values", "message"), REFUSED)
def test_limits_hold_for_the_command_line_and_for_python(values: dict[str, Any], message: str) -> None:
    argv = []
    for name, value in values.items():
        for item in value if isinstance(value, tuple) else (value,):
            argv.append(f"--{name.replace('_', '-')}={item}")
    minimal = {"input": "in", "out": "out", "weights": ("a.pt",)}
    calls = [lambda: Options(**(minimal | values)), lambda: build(Options, minimal | values)]
    for call in calls if "input" in values else [*calls, lambda: read(*LEAST, *argv)]:
        with pytest.raises(UserError) as caught:
            call()
        assert str(caught.value).startswith(message)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"imgsz": "640"}, "--imgsz must be a whole number, but got '640'"),
        ({"imgsz": 640.0}, "--imgsz must be a whole number, but got 640.0"),
        ({"imgsz": True}, "--imgsz must be a whole number, but got True"),
        ({"imgsz": None}, "--imgsz must be a whole number, but got None"),
        ({"margin": "0.1"}, "--margin must be a number, but got '0.1'"),
        ({"margin": float("nan")}, "--margin must be a number, but got nan"),
        ({"keep": 1}, "--keep must be True or False, but got 1"),
        ({"input": 3}, "INPUT must be text, but got 3"),
        ({"weights": "a.pt"}, "--weights must be several values, but got 'a.pt'"),
    ],
)
def test_types_are_checked_for_python(values: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError) as caught:
        Options(**({"input": "in", "out": "out", "weights": ("a.pt",)} | values))
    assert str(caught.value) == message


def test_python_may_give_paths_sequences_and_single_values() -> None:
    options = build(
        Options,
        {
            "input": Path("in"),
            "out": "out",
            "weights": Path("a.pt"),
            "classes": ["car", "head"],
            "sizes": np.int64(3),
            "margin": 1,
            "limit": None,
        },
    )
    assert options == Options("in", "out", ("a.pt",), classes=("car", "head"), sizes=(3,), margin=1.0)
    assert type(options.margin) is float and type(options.sizes[0]) is int


def test_python_is_told_of_an_unknown_option() -> None:
    with pytest.raises(TypeError, match=r"'weight' is no option; did you mean weights\?"):
        build(Options, {"weight": "a.pt"})


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        ([*LEAST, "--mode", "x"], "--mode must be one of pixelate, blur, fill, but got 'x'"),
        ([*LEAST, "--image-size", "416"], "--image-size must be one of 320, 640, but got 416"),
        ([*LEAST, "--limit", "many"], "--limit must be a whole number, but got 'many'"),
        ([*LEAST, "--limit", "1.5"], "--limit must be a whole number, but got '1.5'"),
        ([*LEAST, "--margin", "wide"], "--margin must be a number, but got 'wide'"),
        ([*LEAST, "--margin", "nan"], "--margin must be a number, but got nan"),
        ([*LEAST, "--margin", "inf"], "--margin must be a number, but got inf"),
        ([*LEAST, "--margin", "-0.5"], "--margin must be between 0 and 1, but got -0.5"),
        ([*LEAST, "--mod", "blur"], "unknown option '--mod'; did you mean --mode?"),
        ([*LEAST, "--modee=blur"], "unknown option '--modee=blur'; did you mean --mode?"),
        ([*LEAST, "--zzz"], "unknown option '--zzz' (see depers verb --help)"),
        ([*LEAST, "extra"], "unexpected argument 'extra'; an option that takes several values is repeated"),
        (["", *LEAST[1:]], "INPUT must not be empty"),
        (["in", "out", "--weights", ""], "--weights must not be empty"),
        (["in", "out"], "the following arguments are required: --weights (see depers verb --help)"),
        (["in", "--weights", "a.pt"], "the following arguments are required: OUT"),
        ([*LEAST, "--mode"], "--mode: expected one argument"),
    ],
)
def test_refusal(argv: list[str], message: str) -> None:
    with pytest.raises(UserError) as caught:
        read(*argv)
    assert str(caught.value).startswith(message)
    assert "\n" not in str(caught.value)


def test_help(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        read("--help")
    assert caught.value.code == 0
    text = " ".join(capsys.readouterr().out.split())
    for part in (
        "usage: depers verb",
        "Mirror a folder, at 100 % of its size.",
        "INPUT folder of images",
        "--weights PATH a detector (repeatable; required)",
        "--mode MODE how to redact (one of pixelate, blur, fill; default: pixelate)",
        "share of the box, 10 % as it stands (default: 0.1)",
        "--limit N stop after so many",
        "what to look for (repeatable; default: face, head)",
        "--keep, --no-keep keep what is there (default: no)",
    ):
        assert part in text, text
    sections = [text.index(f" {title}: ") for title in ("options", "detection", "redaction")]
    assert sections == sorted(sections)
    assert sections[1] < text.index(" --weights PATH a detector") < sections[2] < text.index(" --margin X share")
    assert "second paragraph" not in text


def test_help_without_a_docstring_shows_no_signature(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        parse(Undocumented, ["--help"], "depers verb")
    assert "Undocumented" not in capsys.readouterr().out


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        read("--version")
    assert capsys.readouterr().out == f"depers {__version__}\n"


def test_other_types_are_a_mistake_of_the_programmer() -> None:
    with pytest.raises(TypeError, match="must be str, int, float or bool"):
        parse(Wrong, [], "depers verb")


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("batch_size", 10**30, "--batch-size must be at most 4096, but got 1e+30"),
        ("batch_size", 10**400, "--batch-size must be at most 4096, but got a number of more than 300 digits"),
        ("imgsz", 32 * 10**30, "--imgsz must be at most 16384"),
        ("max_detections", 10**9, "--max-detections must be at most 30000, but got 1e+09"),
        ("tile", 10**12, "--tile must be at most 1e+06"),
        ("workers", 10**10, "--workers must be at most 100000, but got 1e+10"),
        ("max_megapixels", 1e300, "--max-megapixels must be at most 1e+06"),
        ("batch_size", 0, "--batch-size must be at least 1, but got 0"),
        ("confidence", 10**400, "--confidence must be above 0 and below 1, but got a number of more"),
    ],
)
def test_numbers_that_nobody_means_are_refused(name: str, value: float, message: str) -> None:
    with pytest.raises(UserError, match=re.escape(message)):
        build(DetectOptions, {"input": "in", "out": "out", "weights": "w.pt", name: value})


def test_an_option_that_means_another_thing_elsewhere_has_a_hint() -> None:
    from depers.training.options import Options as TrainOptions

    hint = "processes that train together are --train-workers, those that prepare images"
    with pytest.raises(UserError, match=f"unknown option '--workers=4'; {hint}"):
        parse(TrainOptions, ["dataset", "out", "--workers=4"], "depers train")
    with pytest.raises(TypeError, match=f"'workers' is no option; {hint}"):
        build(TrainOptions, {"dataset": "d", "out": "o", "workers": 4})
