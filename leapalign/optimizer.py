"""AdamW over a transformer's trained weights, whole or sharded."""

from __future__ import annotations

from torch import nn
from torch.distributed.checkpoint.state_dict import get_optimizer_state_dict
from torch.optim import AdamW

from leapalign.settings import Optimizer


def adamw(transformer: nn.Module, adam: Optimizer) -> AdamW:
    """AdamW over the trained weights, its moments allocated now: they are in every checkpoint."""
    optimizer = AdamW(
        [weight for weight in transformer.parameters() if weight.requires_grad],
        lr=adam.lr,
        betas=adam.betas,
        eps=adam.eps,
        weight_decay=adam.weight_decay,
        fused=True,
    )
    # To ask for the state makes a step of nothing at a learning rate of zero. It did not happen.
    get_optimizer_state_dict(transformer, optimizer)
    for state in optimizer.state.values():
        state["step"].zero_()
    return optimizer
