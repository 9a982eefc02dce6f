"""Which earlier tokens a prediction depends on: the counterpart of attention, for any network.

The gradient of a prediction at an embedded input says how much the prediction would change with that token
(Simonyan et al. 2013, https://arxiv.org/abs/1312.6034; of words, Li et al. 2016,
https://arxiv.org/abs/1506.01066). A sequence has as many predictions as tokens: it is put into a batch again
and again, a row for each prediction, so that one backward gives the gradients of many.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from lightning_seq.errors import InputError
from lightning_seq.networks.base import check_sizes
from lightning_seq.networks.embedded_inputs import by_token, differentiating, gradients, logits_and_leaves
from lightning_seq.networks.network_call import NetworkCall

_LEAK = 1e-4  # share of what comes later: rounding, of Fourier transforms say, stays far below


@dataclass(frozen=True)
class Saliency:
    """What each prediction depends on, on the device of the tokens.

    Attributes:
        maps: Row t is the share of each token up to t in the gradient of the prediction after token t,
            ``(sequences, time, time)``, fp32: it sums to 1, or is zero where no finite gradient comes.
        predicted: The likeliest token after each, ``(sequences, time)``.
        probability: Its probability, ``(sequences, time)``, fp32.
    """

    maps: Tensor
    predicted: Tensor
    probability: Tensor


def saliency(
    module: nn.Module,
    tokens: Tensor,
    at: str | None = None,
    rows: int = 64,
    causal: bool = True,
    call: NetworkCall | None = None,
) -> Saliency:
    """Measures how much each prediction depends on each token that it follows.

    The share of a token is the Euclidean norm of the gradient, at its embedding, of the log-probability of
    the token that the model finds likeliest, over the sum of these norms. Works with every module of which
    ``module(tokens)`` gives logits ``(batch, time, vocab)``, or something that begins with them or has them
    as ``logits``. It runs as at evaluation, eagerly and without autocast; no ``.grad`` is touched and no mode
    is left changed.

    Args:
        module: The network, or a LightningModule.
        tokens: Ids ``(sequences, time)``.
        at: Name of the submodule that embeds the inputs (default: the first ``nn.Embedding``).
        rows: The most predictions to differentiate at once; more take more memory.
        causal: Whether no prediction sees what comes later, which saves half of the work. Otherwise rows of
            the maps hold later tokens, too.
        call: How the module is called for these tokens (default: ``module(tokens)``).

    Raises:
        InputError: The module does not fit, its weights have diverged, or it is not causal.
    """
    check_sizes(rows=rows)
    if tokens.dim() != 2 or not tokens.numel():
        raise InputError(f"got tokens of shape {tuple(tokens.shape)}: give ids (sequences, time)")
    with differentiating(module):
        tokens = tokens.clone()  # those made in inference mode have no gradient
        maps = torch.zeros(*tokens.shape, tokens.size(1), device=tokens.device, dtype=torch.float32)
        predicted, probability = torch.zeros_like(tokens), torch.zeros_like(tokens, dtype=torch.float32)
        for which, places, length in _groups(len(tokens), tokens.size(1), rows, causal):
            index = torch.tensor([which, places], device=tokens.device)
            part = None if call is None else call.cut(which, 0, length)
            logits, leaves = logits_and_leaves(module, tokens[index[0], :length], at, part)
            score, best, share = _likeliest(logits, index[1])
            norms = _norms(score, leaves, length)
            if causal:
                norms = _without_later(norms, index[1])
            maps[index[0], index[1], :length] = (norms / norms.sum(-1, keepdim=True)).nan_to_num(0.0)
            predicted[index[0], index[1]], probability[index[0], index[1]] = best, share
    return Saliency(maps, predicted, probability)


def _groups(sequences: int, time: int, rows: int, causal: bool) -> Iterator[tuple[list[int], list[int], int]]:
    """Yields what to run at once: which sequences, the places of their predictions, and how many tokens.

    The last places come first and those alike together, so that most groups need few tokens. They get one
    more, since it shows whether a module looks ahead. Four lengths are the fastest: fewer waste tokens on
    early places, and more take more calls. There are never as many rows as tokens: what has the time first is
    told from what has the batch first by their numbers.
    """
    start, stop = 0, sequences * time
    rows = min(rows, max(8, stop // 4)) if causal else rows
    while start < stop:
        length = min(time - start // sequences + 1, time) if causal else time
        count = min(rows, stop - start)
        count -= count == length > 1
        pairs = [divmod(k, sequences) for k in range(start, start + count)]
        yield [which for _, which in pairs], [time - 1 - back for back, _ in pairs], length
        start += count


def _likeliest(logits: Tensor, places: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Returns of the likeliest token at one place of each row its log-odds, its id and its probability.

    The gradient of the log-odds is that of the log-probability over 1 - p: the shares are the same, but where
    p rounds to 1 only the log-odds still have one.
    """
    logits = logits[torch.arange(len(places), device=places.device), places]
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
    largest, best = logits.max(-1)
    if not largest.isfinite().all():
        raise InputError("the logits are not finite: the weights have diverged")
    if not largest.requires_grad:
        raise InputError("no gradient comes through the module: it may detach or run under torch.no_grad")
    others = logits.scatter(-1, best[:, None], -torch.inf)
    return largest - others.logsumexp(-1), best, logits.detach().softmax(-1).amax(-1).float()


def _norms(score: Tensor, leaves: list[Tensor], time: int) -> Tensor:
    """Returns for each row the gradient's norm at each token, ``(rows, time)``, relative to its largest part.

    The squares of what is below 1e-19, where gradients vanish, are too small for fp32 otherwise.
    """
    parts = [g.to(torch.promote_types(g.dtype, torch.float32)) for g in gradients(score.sum(), leaves)]
    gradient = by_token(parts, len(score), time)
    norms: Tensor = (gradient / gradient.abs().amax((1, 2), keepdim=True)).norm(dim=-1)
    return norms.float()


def _without_later(norms: Tensor, places: Tensor) -> Tensor:
    later = torch.arange(norms.size(1), device=norms.device) > places[:, None]
    if (norms.masked_fill(~later, 0.0).sum(-1) > _LEAK * norms.sum(-1)).any():
        raise InputError("predictions of the module depend on later tokens: say causal=False")
    return norms.masked_fill(later, 0.0)
