"""A detector that finds nothing in many images in a row is noticed, and may be stopped."""

import io
from collections.abc import Generator

import pytest

from depers.errors import UserError
from depers.pipeline.clean_watch import WARN_AFTER, CleanWatch
from depers.runtime.progress import shown_on

CLEAN, NEUTRAL = ["clean"], ["failed", "skipped", "passed_through", "complete", "removed"]


@pytest.mark.parametrize(
    ("statuses", "longest"),
    [
        ([], 0),
        (NEUTRAL, 0),
        (CLEAN * 3 + NEUTRAL + CLEAN * 2, 5),
        (CLEAN * 3 + ["redacted"] + CLEAN * 2, 3),
        (["redacted"] + CLEAN * 2, 2),
    ],
)
def test_a_row_of_clean_images_ends_with_a_box(statuses: list[str], longest: int) -> None:
    watch = CleanWatch()
    for status in statuses:  # of units of one file each
        watch.add([status])
    assert watch.longest == longest
    whole = CleanWatch()
    whole.add(statuses)
    assert whole.longest == longest


def test_the_warning_comes_at_once_and_once() -> None:
    stream, watch = io.StringIO(), CleanWatch()
    with shown_on(stream):
        watch.add(CLEAN * (WARN_AFTER - 1))
        assert not stream.getvalue()
        watch.add(CLEAN * 2 * WARN_AFTER + ["redacted"] + CLEAN * 2 * WARN_AFTER)
    assert stream.getvalue().count("warning: 100 images in a row have not one box: check --weights") == 1


def test_a_run_is_stopped_and_its_work_ended() -> None:
    ended: list[bool] = []

    def work() -> Generator[list[str], None, None]:
        try:
            while True:
                yield CLEAN
        finally:
            ended.append(True)

    with pytest.raises(UserError, match="--stop-after-clean 7: 7 images in a row have not one box: check --weights"):
        list(CleanWatch(7).follow(work()))
    assert ended == [True]
