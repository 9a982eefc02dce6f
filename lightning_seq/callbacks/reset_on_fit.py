"""ResetOnFit: one instance of a callback can serve several trainings."""

from abc import abstractmethod

from lightning.pytorch import Callback, LightningModule, Trainer


class ResetOnFit(Callback):
    """A callback whose state belongs to one training: every `fit` that does not resume begins afresh.

    Lightning calls `setup` before it restores a checkpoint, so that a resumed training still gets the state
    of its checkpoint by `load_state_dict`. A trainer that trains the same model for more steps keeps its
    count of steps, and its callbacks their state. A subclass that overrides `setup` calls the one here.
    """

    _module = 0  # the id of what was trained last

    @abstractmethod
    def reset(self) -> None:
        """Assigns every attribute that a training changes; the constructor calls it, too."""

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Forgets the training before."""
        if stage != "fit":
            return
        more_steps = trainer.global_step > 0 and not trainer.ckpt_path and self._module == id(pl_module)
        self._module = id(pl_module)
        if not more_steps:
            self.reset()
