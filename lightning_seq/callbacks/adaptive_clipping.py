"""AutoClip and ZClip: clipping whose threshold follows the gradients."""

from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.utilities.model_helpers import is_overridden
from torch import Tensor

from lightning_seq.callbacks.gradients.seam import GradientSeam
from lightning_seq.callbacks.reset_on_fit import ResetOnFit
from lightning_seq.errors import InputError


class AdaptiveClipping(ResetOnFit):
    """Clips every optimizer step's gradient by norm, to a threshold of its own: what its subclasses share.

    The norm is that of the gradient that the optimizer would use: accumulated, unscaled, over all ranks; and
    nothing waits for the device. A gradient that is not finite is neither clipped nor learnt from.
    """

    def __init__(self) -> None:
        self._seam: GradientSeam | None = None

    def threshold(self, norm: Tensor) -> Tensor:
        """Returns the largest norm that is let through, having seen ``norm``; without dimensions both."""
        raise NotImplementedError

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Begins afresh, refuses what clips already, and opens the seam."""
        super().setup(trainer, pl_module, stage)
        if stage != "fit":
            return
        name, model = type(self).__name__, type(pl_module).__name__
        if trainer.gradient_clip_val:
            raise InputError(
                f"got {name} and gradient_clip_val={trainer.gradient_clip_val}, which both clip: remove one"
            )
        all_of_them: list[Callback] = trainer.callbacks  # type: ignore[attr-defined]
        others = [c for c in all_of_them if isinstance(c, AdaptiveClipping) and c is not self]
        if others:
            raise InputError(
                f"got {name} and {type(others[0]).__name__}, which both clip: remove one of them"
            )
        if not pl_module.automatic_optimization:
            raise InputError(
                f"got {name} and {model}, which optimizes manually: expected automatic optimization"
            )
        if is_overridden("configure_gradient_clipping", pl_module):
            raise InputError(
                f"got {name} and {model}.configure_gradient_clipping, which both clip: remove one of them"
            )
        self._seam = GradientSeam.of(trainer)
        if self._seam is None:
            raise InputError(
                f"got {name} under {type(trainer.precision_plugin).__name__}, which clips in its own way: "
                f"remove {name} or choose another strategy or precision"
            )
        self._seam.clip_by(self.threshold)

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Closes the seam."""
        self._leave()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Closes the seam, for Lightning tears nothing down then."""
        self._leave()

    def _leave(self) -> None:
        if self._seam is not None:
            self._seam.leave(self.threshold)
            self._seam = None


class AutoClip(AdaptiveClipping):
    """Clips gradients to a percentile of the norms so far (Seetharaman et al. 2020).

    With the paper's 10th percentile nine steps of ten are clipped: it evens out their sizes. Use it in place
    of `trainer.gradient_clip_val`. https://arxiv.org/abs/2007.14469

    Args:
        percentile: Of the norms so far, this step's among them, between 0 and 100.
        window: How many of the last norms count. The paper takes all; a long training's are not alike.
    """

    def __init__(self, percentile: float = 10.0, window: int = 10_000) -> None:
        super().__init__()
        if not 0 <= percentile <= 100:
            raise InputError(f"AutoClip got percentile={percentile}, expected 0 to 100")
        if window < 1:
            raise InputError(f"AutoClip got window={window}, expected at least 1")
        self.percentile, self.window = percentile, window
        self.reset()

    def reset(self) -> None:
        """Forgets all norms."""
        self._norms = torch.empty(0)  # as long as the window, filled in turn; NaN where one was not finite
        self._steps = 0

    def threshold(self, norm: Tensor) -> Tensor:
        """Returns the percentile of the last norms, ``norm`` included."""
        self._norms = self._norms.to(norm)
        if missing := self.window - len(self._norms):
            self._norms = torch.cat([self._norms, norm.new_full((missing,), torch.nan)])
        self._norms[self._steps % self.window] = norm.where(norm.isfinite(), torch.nan)
        self._steps += 1
        found = self._norms[: self._steps].nanquantile(self.percentile / 100)
        return found.where(found.isfinite(), torch.inf)

    def state_dict(self) -> dict[str, Any]:
        """The norms in the window, oldest first."""
        first = self._steps % self.window if self._steps > self.window else 0
        return {"norms": self._norms[: self._steps].roll(-first).cpu()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Goes on with the norms of a checkpoint; of one with a longer window, the last."""
        self._norms = state_dict["norms"][-self.window :].clone()
        self._steps = len(self._norms)


class ZClip(AdaptiveClipping):
    """Clips gradients whose norm stands out from the last ones (Kumar et al. 2025).

    Mean and variance of the norm are averaged over time. A norm of more than `z` deviations above the mean is
    an outlier: it is cut to mean + z^2 / its own deviations * deviation, so that a larger one is cut further,
    and the averages learn from what is left. Use it in place of `trainer.gradient_clip_val`.
    https://arxiv.org/abs/2504.02507

    Args:
        alpha: The weight of the past in the averages.
        z: How many deviations above the mean is too much.
        warmup_steps: First steps, which only teach mean and variance.
        max_norm: A threshold that holds at all times, in the warm-up, too. None by default.
    """

    def __init__(
        self, alpha: float = 0.97, z: float = 2.5, warmup_steps: int = 25, max_norm: float | None = None
    ) -> None:
        super().__init__()
        if not 0 < alpha < 1:
            raise InputError(f"ZClip got alpha={alpha}, expected between 0 and 1")
        if not z > 0:
            raise InputError(f"ZClip got z={z}, expected above 0")
        if warmup_steps < 2:
            raise InputError(
                f"ZClip got warmup_steps={warmup_steps}, expected at least 2: a variance takes two"
            )
        if max_norm is not None and not max_norm > 0:
            raise InputError(f"ZClip got max_norm={max_norm}, expected above 0 or None")
        self.alpha, self.z, self.warmup_steps, self.max_norm = alpha, z, warmup_steps, max_norm
        self.reset()

    def reset(self) -> None:
        """Forgets mean and variance."""
        self._statistics = torch.zeros(3)  # finite norms so far, their mean, their variance

    def threshold(self, norm: Tensor) -> Tensor:
        """Returns what ``norm`` is cut to, if it stands out; infinity or ``max_norm`` if not."""
        count, mean, variance = self._statistics = self._statistics.to(norm)
        most = torch.full_like(norm, torch.inf if self.max_norm is None else self.max_norm)
        deviation = variance.sqrt()
        score = (norm - mean) / (deviation + 1e-6)
        warm = count >= self.warmup_steps
        outlier = warm & (score > self.z)
        kept = torch.where(outlier, mean + self.z**2 / score * deviation, norm)
        self._learn(kept.where(norm.isfinite(), norm), warm)
        return torch.where(outlier, kept, most).minimum(most)

    def _learn(self, norm: Tensor, warm: Tensor) -> None:
        count, mean, variance = self._statistics
        # in the warm-up mean and variance of all so far (Welford 1962), then moving averages
        rate = torch.where(warm, 1 - self.alpha, 1 / (count + 1))
        new_mean = mean + rate * (norm - mean)
        spread = torch.where(warm, (norm - new_mean).square(), (norm - mean) * (norm - new_mean))
        learnt = torch.stack([count + 1, new_mean, variance + rate * (spread - variance)])
        self._statistics = torch.where(norm.isfinite(), learnt, self._statistics)

    def state_dict(self) -> dict[str, Any]:
        """Count, mean and variance."""
        return {"statistics": self._statistics.tolist()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Goes on with the statistics of a checkpoint."""
        self._statistics = torch.tensor(state_dict["statistics"])
