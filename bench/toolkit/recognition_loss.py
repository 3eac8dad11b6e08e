"""What a change of features costs recognition, as a loss for defences that learn their change."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from bench.contracts import SplitNetwork
from bench.errors import KnowledgeError


def knows_server(recognizer: SplitNetwork) -> bool:
    """Whether the server's part is there; an attacker's copy of a defence has the client's alone."""
    device = next(recognizer.parameters()).device
    try:
        with torch.no_grad():
            recognizer.embed(recognizer.extract(torch.zeros(2, 3, *recognizer.image_size, device=device)))
    except KnowledgeError:
        return False
    return True


def recognition_loss(recognizer: SplitNetwork) -> Callable[[Tensor, Tensor], Tensor]:
    """loss(changed, clean) of features (B, C, h, w): 1 - cosine of their embeddings by the server, mean over images.

    Where the server is withheld, from a copy that an attacker fits, the loss is the squared distance of the features
    relative to the clean ones' square: the copy then learns a change of the same kind, and not the same change.
    """
    if knows_server(recognizer):
        return lambda changed, clean: 1 - (recognizer.embed(changed) * recognizer.embed(clean)).sum(1).mean()
    return lambda changed, clean: (changed - clean).square().mean() / clean.square().mean().clamp_min(1e-12)
