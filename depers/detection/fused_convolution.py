"""Convolution, bias and SiLU in one step of oneDNN on CPUs: what lies between them is not written out and read again.

PyTorch's compiler joins them in the same way; its operators are used directly, since compiling would take minutes.
"""

from collections.abc import Iterable
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional


class ConvolutionSiLU(nn.Module):
    """A convolution with SiLU after it, its weights laid out once for the CPU; for predictions only."""

    def __init__(self, convolution: nn.Conv2d) -> None:
        super().__init__()
        self.geometry: list[list[Any]] = [
            list(sides) for sides in (convolution.padding, convolution.stride, convolution.dilation)
        ]
        self.groups, self.bias, self.weight = convolution.groups, convolution.bias, convolution.weight.detach()
        self.pairs = _takes_pairs(convolution)
        if self.pairs:  # channel c of pixel 2 x + p is channel p C + c of pair x
            count, channels, high, wide = self.weight.shape
            by_pixel = self.weight.reshape(count, channels, high, wide // 2, 2)
            self.weight = by_pixel.permute(0, 4, 1, 2, 3).reshape(count, 2 * channels, high, wide // 2)
            padding, stride, _ = self.geometry
            padding[1], stride[1] = padding[1] // 2, 1
        self._laid_out: tuple[torch.Size, Tensor] | None = None

    def forward(self, x: Tensor) -> Tensor:
        """Return the activations after SiLU of activations (B, C, H, W), channels last; W a multiple of the stride."""
        operators: Any = torch.ops.mkldnn
        if self.pairs:
            count, channels, high, wide = x.shape
            x = x.permute(0, 2, 3, 1).reshape(count, high, wide // 2, 2 * channels).permute(0, 3, 1, 2)
        if self._laid_out is None or self._laid_out[0] != x.shape[1:]:
            weight = operators._reorder_convolution_weight(self.weight, *self.geometry, self.groups, list(x.shape))
            self._laid_out = x.shape[1:], weight
        activations: Tensor = operators._convolution_pointwise(
            *(x, self._laid_out[1], self.bias), *self.geometry, self.groups, "swish", [], ""
        )
        return activations


def _takes_pairs(convolution: nn.Conv2d) -> bool:
    """Return whether it goes from pair to pair of pixels, of few channels, in each row, as YOLOv5's first layer does.

    Then a pair is as good as one pixel of twice the channels, which is what it is in memory, channels last; oneDNN is
    a fifth faster with that.
    """
    wide, step, border = (sides[1] for sides in (convolution.kernel_size, convolution.stride, convolution.padding))
    plain = convolution.groups == 1 and convolution.dilation[1] == 1 and convolution.in_channels < 8
    return plain and step == 2 and wide % 2 == 0 and border in (0, 2, 4)


def join_activations(layers: Iterable[nn.Module]) -> None:
    """Replace each convolution that SiLU follows, in place, where this build of PyTorch does it right.

    A layer of YOLOv5 whose batch normalization is folded in already keeps both as `conv` and `act`.
    """
    if not _works():
        return
    for module in [module for layer in layers for module in layer.modules()]:
        convolution, act = getattr(module, "conv", None), getattr(module, "act", None)
        if isinstance(convolution, nn.Conv2d) and isinstance(act, nn.SiLU) and not hasattr(module, "bn"):
            module.conv, module.act = ConvolutionSiLU(convolution), nn.Identity()


@cache
def _works() -> bool:
    """Return whether the operators are there, and give what the separate steps give; for pairs of pixels as well."""
    with torch.inference_mode():
        generator = torch.Generator().manual_seed(0)
        for channels, *geometry in ((16, 3, 2, 1), (3, 6, 2, 2)):
            # Without the values that it would draw from the generator that all share.
            convolution: nn.Conv2d = nn.utils.skip_init(nn.Conv2d, channels, 16, *geometry)  # type: ignore[no-untyped-call]
            for parameter in convolution.parameters():
                parameter.copy_(torch.randn(parameter.shape, generator=generator) / 12)
            convolution = convolution.to(torch.bfloat16, memory_format=torch.channels_last)  # type: ignore[call-overload]
            x = torch.randn((2, channels, 12, 20), generator=generator)
            x = x.to(torch.bfloat16, memory_format=torch.channels_last)
            try:
                fused = ConvolutionSiLU(convolution)(x)
            except (AttributeError, RuntimeError):
                return False
            separate = functional.silu(convolution(x))
            if fused.shape != separate.shape or not torch.allclose(
                fused.float(), separate.float(), atol=0.05, rtol=0.05
            ):
                return False
    return True
