"""Several processes that train as one: the rank of each, sums over all of them, one batch normalization."""

from collections.abc import Sequence
from typing import Any, NamedTuple, TypeVar

import torch
from torch import Tensor, nn

from depers.errors import UserError

T = TypeVar("T")


class ProcessGroup(NamedTuple):
    """One worker's view of the group: its `rank` among `world_size` processes, and its torch `device`.

    `local_rank` counts among the `local_world_size` workers of its node. `threads`: of torch, 0 leaves them.
    """

    rank: int = 0
    world_size: int = 1
    device: str = "cpu"
    threads: int = 0
    local_rank: int = 0
    local_world_size: int = 1

    def sum(self, values: Tensor) -> Tensor:
        """Return the sum of `values` over all workers, without gradients; `values` are overwritten with it."""
        if self.world_size > 1:
            torch.distributed.all_reduce(values)
        return values

    def gather(self, item: Any) -> list[Any]:
        """Return every worker's `item`, in the order of their ranks, on all of them."""
        items: list[Any] = [item] * self.world_size
        if self.world_size > 1:
            torch.distributed.all_gather_object(items, item)
        return items

    def broadcast(self, item: Any) -> Any:
        """Return rank 0's `item` on all workers; what others give does not count.

        Others hold what they get once more, for a moment, as it came: a mapping goes item by item, to need less.
        """
        if self.world_size == 1:
            return item
        keys = [list(item) if isinstance(item, dict) else None]
        torch.distributed.broadcast_object_list(keys, src=0)
        if keys[0] is not None:
            return {key: self._broadcast(item[key] if self.rank == 0 else None) for key in keys[0]}
        return self._broadcast(item)

    @staticmethod
    def _broadcast(item: Any) -> Any:
        items = [item]
        torch.distributed.broadcast_object_list(items, src=0)
        return items[0]

    def raise_together(self, error: UserError | None) -> None:
        """Raise the first worker's error on all of them: none waits for one that has given up."""
        for message in self.gather(None if error is None else str(error)):
            if message is not None:
                raise UserError(message)

    def share(self, items: Sequence[T]) -> Sequence[T]:
        """Return this worker's part of a batch; never empty, even if a batch has fewer images than workers."""
        return items[self.rank :: self.world_size] or items[:1]


class SyncedBatchNorm(nn.BatchNorm2d):
    """Batch normalization over the batches of all workers, on any device (torch's own is for GPUs only)."""

    def forward(self, input: Tensor) -> Tensor:
        """Normalize (B, C, H, W) by mean and variance of all workers' batches together."""
        if not self.training:
            return super().forward(input)
        from torch.distributed.nn.functional import all_reduce

        values = input if input.dtype is torch.float64 else input.float()
        axes = (0, 2, 3)
        sums = torch.cat([values.sum(axes), values.new_tensor([values.numel() / values.shape[1]])])
        sums = all_reduce(sums)  # type: ignore[no-untyped-call]
        count = sums[-1].detach()
        mean = sums[:-1] / count
        centered = values - mean[None, :, None, None]
        variance = all_reduce(centered.square().sum(axes)) / count  # type: ignore[no-untyped-call]
        if self.running_mean is not None and self.running_var is not None and self.momentum is not None:
            with torch.no_grad():
                self.running_mean.lerp_(mean.detach(), self.momentum)
                self.running_var.lerp_(variance.detach() * count / (count - 1), self.momentum)
                if self.num_batches_tracked is not None:
                    self.num_batches_tracked += 1
        scale = self.weight * torch.rsqrt(variance + self.eps)
        normalized: Tensor = centered * scale[None, :, None, None] + self.bias[None, :, None, None]
        return normalized.to(input.dtype)


def synchronize_batch_norm(model: nn.Module) -> None:
    """Make every batch normalization of a model one over all workers, in place; names and weights stay."""
    for module in model.modules():
        if type(module) is nn.BatchNorm2d:
            module.__class__ = SyncedBatchNorm
