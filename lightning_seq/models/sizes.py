"""Whether data and model go together."""

from typing import Any

from lightning.pytorch import LightningModule

from lightning_seq.errors import InputError


def check_sizes(model: LightningModule, data: Any) -> None:
    """Refuses data with more ids, or longer sequences, than the model was built for.

    Args:
        model: One that keeps its vocab_size as a hyperparameter; a limit on lengths is its network's.
        data: A DataModule, or None.

    Raises:
        InputError: The data is too large for the model.
    """
    for name, of_model in (
        ("vocab_size", model.hparams.get("vocab_size")),
        ("context_length", getattr(getattr(model, "network", None), "context_length", None)),
    ):
        of_data = getattr(data, name, None)
        if of_data is None or of_model is None or of_data <= of_model:
            continue
        less = f"lower data.{name}" if name in getattr(data, "hparams", {}) else _otherwise(name)
        raise InputError(
            f"data.{name} is {of_data} and the model's {name} is {of_model}: {less}, or build the model with "
            f"model.{name} {of_data} or more"
        )


def _otherwise(name: str) -> str:
    return "take the data it was made for" if name == "vocab_size" else "make the data's sequences shorter"
