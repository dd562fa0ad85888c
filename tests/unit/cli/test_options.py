"""depers.options: text → dataclass, and every refusal in one line."""

from dataclasses import dataclass
from typing import Any

import pytest

from depers import __version__
from depers.errors import UserError
from depers.options import REQUIRED, argument, option, parse


@dataclass(frozen=True)
class Options:
    """Mirror a folder, at 100 % of its size.

    A second paragraph, which help leaves out.
    """

    input: str = argument("folder of images")
    out: str = argument("folder to write")
    weights: tuple[str, ...] = option(REQUIRED, "a detector", metavar="PATH")
    mode: str = option("pixelate", "how to redact", choices=("pixelate", "blur", "fill"))
    margin: float = option(0.1, "share of the box, 10 % as it stands")
    image_size: int = option(640, "pixels", choices=(320, 640))
    limit: int | None = option(None, "stop after so many")
    classes: tuple[str, ...] = option(("face", "head"), "what to look for")
    keep: bool = option(False, "keep what is there")

    def __post_init__(self) -> None:
        if not 0 <= self.margin <= 1:
            raise UserError(f"--margin must be between 0 and 1, but got {self.margin}")


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
    ],
)
def test_option(argv: list[str], name: str, value: Any) -> None:
    found = getattr(read(*LEAST, *argv), name)
    assert found == value
    assert type(found) is type(value)


def test_options_and_arguments_mix() -> None:
    assert read("--weights", "a.pt", "in", "--mode", "blur", "out") == Options("in", "out", ("a.pt",), "blur")


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        ([*LEAST, "--mode", "x"], "--mode must be one of pixelate, blur, fill, but got 'x'"),
        ([*LEAST, "--image-size", "416"], "--image-size must be one of 320, 640, but got '416'"),
        ([*LEAST, "--limit", "many"], "--limit must be a whole number, but got 'many'"),
        ([*LEAST, "--limit", "1.5"], "--limit must be a whole number, but got '1.5'"),
        ([*LEAST, "--margin", "wide"], "--margin must be a number, but got 'wide'"),
        ([*LEAST, "--margin", "nan"], "--margin must be a number, but got 'nan'"),
        ([*LEAST, "--margin", "inf"], "--margin must be a number, but got 'inf'"),
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
