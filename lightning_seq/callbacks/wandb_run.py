"""WandbRun: one training is one run of Weights & Biases, with all that makes it again."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.loggers import WandbLogger

from lightning_seq.callbacks.reset_on_fit import ResetOnFit
from lightning_seq.figures import forgiving

_BEST = {
    "val_loss": "min",
    "val_perplexity": "min",
    "val_bits_per_character": "min",
    "val_accuracy": "max",
}


class WandbRun(ResetOnFit):
    """Tells Weights & Biases what a training is, and lets a resumed one go on as the same run.

    The summary of a run is the best value of each validation metric; its configuration is the whole resolved
    one, and an artifact of type `config` that can be run again. Checkpoints keep the run's id. The command
    line adds this callback where there is a WandbLogger, and gives a resumed training the id of its run; from
    Python, take it from `WandbRun.ids_in(checkpoint)` and give it to `WandbLogger(id=...)`.

    Args:
        config: The resolved configuration, a YAML file.
        log_text: Whether prompts and texts in it are sent, too.
    """

    def __init__(self, config: str | Path | None = None, log_text: bool = True) -> None:
        self.config = None if config is None else Path(config)
        self.log_text = log_text
        self.reset()

    def reset(self) -> None:
        """Forgets the runs."""
        self._ids: list[str] = []

    @classmethod
    def ids_in(cls, checkpoint: Mapping[str, Any]) -> list[str]:
        """Returns the ids of the runs that a checkpoint's training was, one for each WandbLogger."""
        return list(checkpoint.get("callbacks", {}).get(cls.__qualname__, {}).get("ids", []))

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Describes the run, before anything is logged."""
        super().setup(trainer, pl_module, stage)
        if not trainer.is_global_zero:
            return
        loggers = [logger for logger in trainer.loggers if isinstance(logger, WandbLogger)]
        self._ids = [logger.experiment.id for logger in loggers]
        for logger in loggers:
            with forgiving(logger, "what the run is"):
                self._describe(logger.experiment)

    def _describe(self, run: Any) -> None:
        for metric, best in _BEST.items():
            run.define_metric(metric, summary=best, step_metric="trainer/global_step")
        if self.config is None or not self.config.exists():
            return
        content = yaml.safe_load(self.config.read_text(encoding="utf-8"))
        run.config.update(content if self.log_text else _without_text(content), allow_val_change=True)
        if self.log_text:
            import wandb

            artifact = wandb.Artifact(f"config-{run.id}", type="config")
            artifact.add_file(str(self.config))
            run.log_artifact(artifact)

    def state_dict(self) -> dict[str, Any]:
        """The ids of the runs."""
        return {"ids": self._ids}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Keeps the ids of this training, which may have been given explicitly."""


def _without_text(value: Any) -> Any:
    """The configuration without what people wrote to be read: prompts and texts."""
    if isinstance(value, dict):
        return {key: _without_text(each) for key, each in value.items() if key not in ("prompt", "text")}
    return [_without_text(each) for each in value] if isinstance(value, list) else value
