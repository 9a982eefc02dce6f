"""Weights & Biases from the command line: where it writes, whether it can, and which run goes on."""

import os
from pathlib import Path
from typing import Any

from lightning.pytorch.utilities import rank_zero_only

from lightning_seq.callbacks.wandb_run import WandbRun
from lightning_seq.cli.parts import as_list
from lightning_seq.errors import InputError

_PATIENCE = 5  # seconds to wait for the server
_OFFLINE = "stay off the network by --trainer.logger.offline true"


def prepare(loggers: Any, run_directory: Path, checkpoint: dict[str, Any] | None, log_text: bool) -> None:
    """Settles what W&B is told, before there is a logger.

    Args:
        loggers: The loggers' configuration; it is changed.
        run_directory: Where W&B writes unless it names another place.
        checkpoint: What a training goes on from: then its W&B runs go on, too.
        log_text: Whether text may leave the run's directory.

    Raises:
        InputError: There is no key, or the server does not answer, and W&B is not offline.
    """
    chosen = [each for each in as_list(loggers) if "WandbLogger" in str(_get(each, "class_path"))]
    ids = WandbRun.ids_in(checkpoint or {})
    for logger, known in zip(chosen, [*ids, *[None] * len(chosen)], strict=False):
        arguments = _get(logger, "init_args")
        if arguments.get("save_dir") in (None, "."):
            arguments["save_dir"] = str(run_directory)
        if known and arguments.get("id") is None and arguments.get("version") is None:
            arguments["id"] = known
    if chosen and not log_text:  # neither what is printed nor the command line, where prompts are
        os.environ |= {"WANDB_CONSOLE": "off", "WANDB_X_DISABLE_META": "true"}
    if any(not _get(logger, "init_args").get("offline") for logger in chosen):
        _check_server()


def _get(value: Any, key: str) -> Any:
    return value.get(key) if hasattr(value, "get") else None


@rank_zero_only
def _check_server() -> None:
    """Finds out in seconds what W&B itself would ask for, or try to reach for minutes."""
    import requests

    settings = _settings()
    if settings.mode in ("offline", "dryrun", "disabled"):
        return
    address = settings.base_url
    known = settings.api_key or settings.identity_token_file or requests.utils.get_netrc_auth(address)
    if not known:
        raise InputError(f"W&B has no key for {address}: run `wandb login`, set WANDB_API_KEY, or {_OFFLINE}")
    try:
        requests.head(address, timeout=_PATIENCE)
    except requests.RequestException as error:
        raise InputError(f"W&B at {address} does not answer ({type(error).__name__}): {_OFFLINE}") from error


def _settings() -> Any:
    """What W&B takes from its environment and its files."""
    import wandb

    return wandb.setup().settings
