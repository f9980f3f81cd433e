"""The weight matrices of single experts, whether a model keeps them stacked or one module each; and their rounding.

Shapes: E experts; a matrix is (outputs, inputs), as `nn.Linear` has it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ..errors import CaptureError


@dataclass(frozen=True)
class Matrix:
    """One kind of matrix of all experts of a layer."""

    name: str
    parameters: list[Tensor]
    """One stacked parameter (E, ., .), or E single ones."""
    transposed: bool
    """Whether it is stored as (inputs, outputs)."""

    def of(self, expert: int) -> Tensor:
        """(outputs, inputs) in float32 on the CPU."""
        stored = self.parameters[0][expert] if len(self.parameters) == 1 else self.parameters[expert]
        values = stored.detach().float().cpu()
        return values.T if self.transposed else values


def matrices_of(experts: nn.Module, num_experts: int, where: str) -> list[Matrix]:
    """The matrices of a layer's experts.

    Raises:
        CaptureError: the module holds its experts in another form.
    """
    transposed = bool(getattr(experts, "is_transposed", False))
    stacked, single = [], {}
    for name, parameter in experts.named_parameters():
        number, _, rest = name.partition(".")
        if parameter.dim() == 3 and parameter.shape[0] == num_experts:
            stacked.append(Matrix(name, [parameter], transposed))
        elif number.isdigit() and parameter.dim() == 2:
            single.setdefault(rest.removesuffix(".weight"), {})[int(number)] = parameter
    found = [
        Matrix(name, [each[e] for e in range(num_experts)], False)
        for name, each in single.items()
        if len(each) == num_experts and num_experts > 1
    ]
    if not (stacked or found):
        raise CaptureError(
            f"{where} ({type(experts).__name__}): its parameters are neither stacked by expert nor one module each, so "
            "its experts can't be weighed"
        )
    return stacked + found


def rounded(weight: Tensor, bits: int, group: int) -> Tensor:
    """(..., inputs) rounded to 2^bits even levels in each group of inputs: `kernels.bits.round_to_nearest` in torch."""
    blocks = []
    for block in weight.float().split(group, dim=-1):
        low, high = block.amin(-1, keepdim=True), block.amax(-1, keepdim=True)
        step = (high - low) / (2**bits - 1)
        code = torch.where(step > 0, ((block - low) / step.clamp_min(1e-30)).round(), 0)
        blocks.append(low + code * step)
    return torch.cat(blocks, -1).to(weight.dtype)


@contextmanager
def rounded_experts(matrices: list[Matrix], bits: int | Sequence[int], group: int) -> Iterator[None]:
    """The experts of a layer rounded while the context is open; their own bits afterwards, whatever happens.

    Args:
        bits: of all experts, or of each.
    """
    kept = [(parameter, parameter.data) for matrix in matrices for parameter in matrix.parameters]
    try:
        for matrix in matrices:
            for at, parameter in enumerate(matrix.parameters):
                stored = parameter.data
                turned = stored.transpose(-1, -2) if matrix.transposed else stored
                stacked = len(matrix.parameters) == 1
                new = _rounded(turned, bits if isinstance(bits, int) or stacked else bits[at], group)
                parameter.data = new.transpose(-1, -2).contiguous() if matrix.transposed else new
        yield
    finally:
        for parameter, data in kept:
            parameter.data = data


def _rounded(weight: Tensor, bits: int | Sequence[int], group: int) -> Tensor:
    if isinstance(bits, int):
        return rounded(weight, bits, group)
    return torch.stack([rounded(one, width, group) for one, width in zip(weight, bits, strict=True)])
