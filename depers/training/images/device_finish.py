"""What an image's pixels go through last, for a batch on its device: new colors and mirrors, as `augmentation.finish`.

It takes a third of the time that a processor's core needs for an image of a batch, and a GPU hardly notices it.
"""

from functools import lru_cache

import torch
from torch import Tensor

_PIXELS = 1 << 21  # at a time: each needs some 120 bytes meanwhile
_SHIFT = 12
_HUES = 180  # as OpenCV's: half degrees


def finish_batch(images: Tensor, tables: Tensor | None, mirrored: Tensor) -> Tensor:
    """Return images, uint8 RGB (B, H, W, 3), with colors by `tables`, uint8 (B, 256, 3), mirrored, bool (B, 2).

    Hues, saturations and values are OpenCV's of 8 bits, to the bit; of the colors that they become, one channel in a
    hundred is off by a level, where float32 rounds otherwise.
    """
    if tables is not None:
        count = max(1, _PIXELS // (images.shape[1] * images.shape[2]))
        parts = zip(torch.split(images, count), torch.split(tables, count), strict=True)
        images = torch.cat([recolor(part, part_tables) for part, part_tables in parts])
    for axis, is_mirrored in enumerate(mirrored.unbind(1), 1):
        images = torch.where(is_mirrored[:, None, None, None], images.flip(axis), images)
    return images


def recolor(images: Tensor, tables: Tensor) -> Tensor:
    """Return images, uint8 RGB (B, H, W, 3), with hue, saturation and value by tables, uint8 (B, 256, 3)."""
    hsv = to_hsv(images)
    rows = tables.permute(0, 2, 1).reshape(-1, 256).long()
    flat = hsv.permute(0, 3, 1, 2).reshape(len(rows), -1).long()
    return to_rgb(rows.gather(1, flat).view(len(images), 3, *images.shape[1:3]))


def to_hsv(images: Tensor) -> Tensor:
    """Return uint8 RGB (B, H, W, 3) as hue (0…179), saturation and value, int32, by OpenCV's integer arithmetic."""
    red, green, blue = images.int().unbind(-1)
    value = torch.maximum(torch.maximum(red, green), blue)
    spread = value - torch.minimum(torch.minimum(red, green), blue)
    saturation_scales, hue_scales = _make_scales(images.device)
    half = 1 << (_SHIFT - 1)
    saturation = (spread * saturation_scales[value.long()] + half) >> _SHIFT
    distance = torch.where(
        value == red, green - blue, torch.where(value == green, blue - red + 2 * spread, red - green + 4 * spread)
    )
    hue = (distance * hue_scales[spread.long()] + half) >> _SHIFT
    return torch.stack([hue + _HUES * (hue < 0), saturation, value], -1)


def to_rgb(hsv: Tensor) -> Tensor:
    """Return hue, saturation and value, integers (B, 3, H, W), as uint8 RGB (B, H, W, 3)."""
    hue, saturation, value = hsv.float().unbind(1)
    value = value * (1 / 255)
    most = value * (saturation * (1 / 255))  # by which a channel is below the value
    sector = hue * (6 / _HUES)
    channels = []
    for offset in (5, 3, 1):
        place = (sector + offset) % 6
        channels.append(value - most * torch.minimum(place, 4 - place).clamp(0, 1))
    return torch.stack(channels, -1).mul_(255).clamp_(0, 255).byte()  # cut off, not rounded, as OpenCV does


@lru_cache
def _make_scales(device: torch.device) -> tuple[Tensor, Tensor]:
    """Return OpenCV's tables to divide by value and by spread, int32 (256,) each."""
    divisors = torch.arange(1, 256, dtype=torch.float64)
    zero = torch.zeros(1, dtype=torch.float64)
    tables = (torch.cat([zero, (scale << _SHIFT) / divisors]).round() for scale in (255, _HUES // 6))
    saturation, hue = (table.int().to(device) for table in tables)
    return saturation, hue
