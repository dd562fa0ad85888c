"""Paint is given out in blocks, and depends on nothing but colors and place."""

import numpy as np
import pytest

from depers.redaction.colors import MODES, plan_mosaics
from depers.redaction.paint import Paint
from depers.redaction.regions import Region

BOUNDS = (3, 4, 90, 161)


@pytest.mark.parametrize("mode", MODES)
def test_blocks_of_paint_are_the_whole_in_pieces(mode: str) -> None:
    [mosaic] = plan_mosaics(Region(BOUNDS, (BOUNDS,)), mode, 4)
    values = np.random.default_rng(0).uniform(0, 255, (*mosaic.shape, 3))
    paint = Paint(values, mosaic, mode, 255.0, (0, 1, 2))
    whole = paint.block(*BOUNDS)
    assert whole.shape == (157, 87, 3)
    bands = [paint.block(3, top, 90, bottom) for top, bottom in ((4, 10), (10, 11), (11, 161))]
    assert np.abs(np.concatenate(bands) - whole).max() < 1e-3 or mode == "blur"
    assert np.abs(np.concatenate(bands) - whole).mean() < 1e-3  # a blurred value may be rounded the other way
    columns = [paint.block(left, 4, right, 161) for left, right in ((3, 50), (50, 51), (51, 90))]
    assert np.abs(np.concatenate(columns, axis=1) - whole).mean() < 1e-3
    assert (Paint(values, mosaic, mode, 255.0, (0, 1, 2)).block(*BOUNDS) == whole).all()


def test_what_is_inpainted_has_the_colors_beside_it_at_its_edge_and_fine_grain() -> None:
    [mosaic] = plan_mosaics(Region(BOUNDS, (BOUNDS,)), "inpaint", 4)
    values = np.full((*mosaic.shape, 1), 60.0)
    assert (Paint(values, mosaic, "inpaint", 255.0, ()).block(*BOUNDS) == 60).all()
    grainy = Paint(values, mosaic, "inpaint", 255.0, (0,)).block(*BOUNDS)
    assert 1 < grainy.std() < 3 and abs(grainy.mean() - 60) < 0.2
