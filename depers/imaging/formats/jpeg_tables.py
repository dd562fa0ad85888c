"""JPEGs encoded again, with the quantization tables and the chroma subsampling they had."""

import io
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import numpy as np
import simplejpeg
from numpy.typing import NDArray
from PIL import Image

_SAMPLING = {(1, 1): "444", (2, 1): "422", (2, 2): "420", (1, 2): "440", (4, 1): "411"}
_PILLOW = {"444": 0, "422": 1, "420": 2}


def name_sampling(layers: Sequence[tuple[int, int, int, int]]) -> str:
    """Return the name of the chroma subsampling of a file's components (id, h, v, table).

    Unusual ones are written without any.
    """
    factors = [(h, v) for _, h, v, _ in layers]
    if len(factors) != 3 or factors[1:] != [(1, 1), (1, 1)]:
        return "444"
    return _SAMPLING.get(factors[0], "444")


def encode(pixels: NDArray[Any], mode: str, tables: dict[int, list[int]], sampling: str) -> bytes:
    """Return `pixels` in mode L, RGB or CMYK as JPEG. Raises what the encoders raise."""
    quality = find_standard_quality(tables)
    if quality is not None and mode == "L":
        return bytes(simplejpeg.encode_jpeg(np.ascontiguousarray(pixels)[:, :, None], quality, "GRAY", "Gray"))
    if quality is not None and mode == "RGB":
        return bytes(simplejpeg.encode_jpeg(np.ascontiguousarray(pixels), quality, "RGB", sampling))
    buffer = io.BytesIO()
    options = {} if mode == "L" else {"subsampling": _PILLOW.get(sampling, 0)}
    qtables = [tables[key] for key in sorted(tables)]
    Image.fromarray(np.ascontiguousarray(pixels), mode).save(buffer, "JPEG", qtables=qtables, **options)
    return buffer.getvalue()


def find_standard_quality(tables: dict[int, list[int]]) -> int | None:
    """Return the libjpeg quality (1…100) whose tables these are (row order, as Pillow gives them), or None."""
    key = tuple(tuple(tables[index]) for index in sorted(tables))
    return _standard_tables().get(key)


@lru_cache(maxsize=1)
def _standard_tables() -> dict[tuple[tuple[int, ...], ...], int]:
    """Return the quality by the tables of every libjpeg one, for gray and color files.

    They are those of ITU-T T.81 annex K, scaled as libjpeg does.
    """
    pixel, qualities = np.full((8, 8, 3), 128, np.uint8), {}
    for quality in range(100, 0, -1):
        with Image.open(io.BytesIO(simplejpeg.encode_jpeg(pixel, quality, "RGB", "444"))) as image:
            tables = image.quantization  # type: ignore[attr-defined]
            pair = tuple(tuple(tables[index]) for index in sorted(tables))
        qualities[pair], qualities[pair[:1]] = quality, quality
    return qualities
