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
        self.geometry = tuple(list(each) for each in (convolution.padding, convolution.stride, convolution.dilation))
        self.groups, self.bias, self.weight = convolution.groups, convolution.bias, convolution.weight.detach()
        self._laid_out: tuple[torch.Size, Tensor] | None = None

    def forward(self, x: Tensor) -> Tensor:
        """Activations (B, C, H, W), channels last."""
        operators: Any = torch.ops.mkldnn
        if self._laid_out is None or self._laid_out[0] != x.shape[1:]:
            weight = operators._reorder_convolution_weight(self.weight, *self.geometry, self.groups, list(x.shape))
            self._laid_out = x.shape[1:], weight
        joined: Tensor = operators._convolution_pointwise(
            *(x, self._laid_out[1], self.bias), *self.geometry, self.groups, "swish", [], ""
        )
        return joined


def join_activations(layers: Iterable[nn.Module]) -> None:
    """Replaces each convolution that SiLU follows, in place, where this build of PyTorch does it right.

    A layer of YOLOv5 whose batch normalization is folded in already keeps both as `conv` and `act`.
    """
    if not _works():
        return
    for part in [part for layer in layers for part in layer.modules()]:
        convolution, act = getattr(part, "conv", None), getattr(part, "act", None)
        if isinstance(convolution, nn.Conv2d) and isinstance(act, nn.SiLU) and not hasattr(part, "bn"):
            part.conv, part.act = ConvolutionSiLU(convolution), nn.Identity()


@cache
def _works() -> bool:
    """Whether the operators are there, and give what the separate steps give."""
    with torch.inference_mode():
        generator = torch.Generator().manual_seed(0)
        # Without the values that it would draw from the generator that all share.
        one: nn.Conv2d = nn.utils.skip_init(nn.Conv2d, 16, 16, 3, 2, 1)  # type: ignore[no-untyped-call]
        for parameter in one.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) / 12)
        one = one.to(torch.bfloat16, memory_format=torch.channels_last)  # type: ignore[call-overload]
        x = torch.randn((2, 16, 12, 20), generator=generator).to(torch.bfloat16, memory_format=torch.channels_last)
        try:
            joined = ConvolutionSiLU(one)(x)
        except (AttributeError, RuntimeError):
            return False
        return torch.allclose(joined.float(), functional.silu(one(x).float()), atol=0.05, rtol=0.05)
