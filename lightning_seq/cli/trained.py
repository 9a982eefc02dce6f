"""A checkpoint's model, and the data of its run where that lies beside it."""

from pathlib import Path
from typing import Any

from lightning_seq import checkpoints, recipes
from lightning_seq.cli.configs import classes_in
from lightning_seq.cli.data_only import build_data


def label(checkpoint: str) -> str:
    """Returns the names of a checkpoint's run and file."""
    path = Path(checkpoint)
    run = path.resolve().parent
    return f"{run.parent.name if run.name == 'checkpoints' else run.name}/{path.name}"


def context_of(model: Any, tokens: int) -> int:
    """Returns so many tokens, or as many as the model's context has."""
    context = getattr(getattr(model, "network", None), "context_length", None)
    return tokens if context is None else min(tokens, context)


def validation_batch(data: Any) -> Any:
    """Returns the first batch of the validation split."""
    data.prepare_data()
    data.setup("validate")
    return next(iter(data.val_dataloader()))


def model_and_data(checkpoint: str, trust: bool, command: str, with_data: bool = True) -> tuple[Any, Any]:
    """Returns the model, and the DataModule of its run; None where there is none or it is not asked for.

    Args:
        checkpoint: A .ckpt file.
        trust: Whether a class outside this package that it names may be imported.
        command: Which command asks.
        with_data: Whether the data are needed.
    """
    model = checkpoints.load(checkpoint, trust)
    configs = [parent / "config.yaml" for parent in list(Path(checkpoint).resolve().parents)[:2]]
    config = next((each for each in configs if each.is_file()), None)
    if not with_data or config is None:
        return model, None
    for path in classes_in(recipes.content(config).get("data")):
        checkpoints.check_trusted(path, trust, f"{config} names")
    data = build_data(["--config", str(config)], command)
    if (tokenizer := getattr(model, "tokenizer", None)) is not None and hasattr(data, "adopt_tokenizer"):
        data.adopt_tokenizer(tokenizer.to_str())
    return model, data
