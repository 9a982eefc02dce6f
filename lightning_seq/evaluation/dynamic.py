"""Dynamic evaluation: the network goes on learning from the text it is scored on (Krause et al. 2018)."""

import copy
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from lightning_seq.errors import InputError
from lightning_seq.evaluation.protocols import Stream
from lightning_seq.evaluation.scoring import Method, Step, forward
from lightning_seq.networks.base import IGNORE_INDEX, State, detach


@dataclass(frozen=True)
class MeanSquaredGradients:
    """How large the gradients are on the training text, and what that was found on.

    Args:
        of_parameters: The mean squared gradient of each parameter, in the order of ``network.parameters()``.
        tokens: Of the training text.
        lanes: In which it was read side by side.
    """

    of_parameters: Sequence[Tensor]
    tokens: int
    lanes: int


@dataclass(frozen=True)
class DynamicEvaluation(Method):
    """Scores a chunk, then takes a step of gradient descent on it, with a pull towards the trained weights.

    The rule is that of https://arxiv.org/abs/1709.07432, section 5: RMS with an RMS global prior. With g the
    gradient of the chunk's mean loss, r the root of ``squares`` and r' that over its mean, each weight moves
    by ``-learning_rate g / (r + epsilon) + min(decay r', 1) (trained weight - weight)``. It happens on a
    copy: the network itself stays as it is, to the bit. Dropout is off.

    Args:
        learning_rate: Of the steps.
        decay: How fast weights return to the trained ones, on average; 0 leaves them where they go.
        squares: What :func:`mean_squared_gradients` found on the training text.
        epsilon: Keeps weights in place that had hardly any gradient.
    """

    learning_rate: float
    decay: float
    squares: MeanSquaredGradients
    epsilon: float = 2e-5

    def __post_init__(self) -> None:
        if not self.learning_rate > 0:
            raise InputError(f"dynamic evaluation's learning_rate is {self.learning_rate}: give one above 0")
        if not 0 <= self.decay <= 1:
            raise InputError(f"dynamic evaluation's decay is {self.decay}: give one from 0 to 1")
        if not self.epsilon > 0:
            raise InputError(f"dynamic evaluation's epsilon is {self.epsilon}: give one above 0")

    @property
    def name(self) -> str:
        """What is added to the protocol's name."""
        numbers = {"learning rate": self.learning_rate, "decay": self.decay, "epsilon": self.epsilon}
        settings = ", ".join(f"{name} {value:g}" for name, value in numbers.items())
        scale = f"scaled by the gradients of {self.squares.tokens:,} tokens in {self.squares.lanes} lanes"
        return f"dynamic evaluation, {settings}, {scale}"

    @contextmanager
    def steps(self, network: nn.Module) -> Iterator[Step]:
        """Gives the step that scores and then learns."""
        learner, trained = _learner(network), list(network.parameters())
        if [x.shape for x in self.squares.of_parameters] != [x.shape for x in trained]:
            raise InputError(
                "dynamic evaluation's squares are another network's: give one for each parameter"
            )
        roots = [x.sqrt() for x in self.squares.of_parameters]
        mean = sum(float(x.sum()) for x in roots) / sum(x.numel() for x in roots)
        rates = [(self.decay * x / mean).clamp(max=1) if mean else torch.zeros_like(x) for x in roots]

        def step(inputs: Tensor, targets: Tensor, state: State) -> tuple[Tensor, State]:
            nll, state, gradients = _gradients(learner, inputs, targets, state)
            with torch.no_grad():
                for weight, start, gradient, root, rate in zip(
                    learner.parameters(), trained, gradients, roots, rates, strict=True
                ):
                    back = rate * (start - weight)
                    weight.add_(back - self.learning_rate * gradient / (root + self.epsilon))
            return nll, state

        with _learning():
            yield step


def mean_squared_gradients(
    network: nn.Module, tokens: Tensor, stream: Stream, progress: Callable[[int], object] | None = None
) -> MeanSquaredGradients:
    """Returns the mean over chunks of the squared gradient of a chunk's mean loss, for each parameter.

    Args:
        network: As in :func:`~lightning_seq.evaluation.scoring.score`.
        tokens: The training text, or enough of it, ``(length,)``.
        stream: How it is cut; the authors read 100 lanes in the chunks of the evaluation.
        progress: Called with the number of targets that were just seen.
    """
    learner = _learner(network)
    squares = [torch.zeros_like(parameter) for parameter in learner.parameters()]
    stream.check(network, len(tokens) - 1)
    state, chunks, device = stream.initial_state(learner), 0, squares[0].device
    tokens = tokens.cpu()
    with _learning():
        for places, scored in stream.pieces(len(tokens) - 1, stream.lanes):
            targets = tokens[places + 1].masked_fill(~scored, IGNORE_INDEX)
            inputs, targets = tokens[places].to(device), targets.to(device)
            _, state, gradients = _gradients(learner, inputs, targets, state)
            for square, gradient in zip(squares, gradients, strict=True):
                square += gradient.square()
            chunks += 1
            if progress is not None:
                progress(int(scored.sum()))
    return MeanSquaredGradients([square / chunks for square in squares], len(tokens), stream.lanes)


def _learner(network: nn.Module) -> nn.Module:
    """Returns a copy that can learn, as at evaluation: no dropout and no penalties."""
    return copy.deepcopy(network).eval().requires_grad_(True)


@contextmanager
def _learning() -> Iterator[None]:
    """Allows gradients: cuDNN's recurrent layers have none at evaluation, torch's own do."""
    eager, cudnn = torch.compiler.set_stance("force_eager"), torch.backends.cudnn.flags(enabled=False)
    with torch.inference_mode(False), torch.enable_grad(), eager, cudnn:
        yield


def _gradients(
    learner: nn.Module, inputs: Tensor, targets: Tensor, state: State
) -> tuple[Tensor, State, list[Tensor]]:
    """Returns the losses, the next state, cut from the graph, and the gradient of the mean loss."""
    nll, state = forward(learner, inputs, targets, detach(state))
    mean = nll.sum() / (targets != IGNORE_INDEX).sum()
    parameters = list(learner.parameters())
    gradients = torch.autograd.grad(mean, parameters, allow_unused=True)
    found = zip(gradients, parameters, strict=True)
    return nll.detach(), detach(state), [torch.zeros_like(p) if g is None else g for g, p in found]
