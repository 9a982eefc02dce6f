"""``lightning-seq fit``, ``validate``, ``test`` and ``predict``: LightningCLI over recipes."""

from lightning_seq.commands import find_own_modules, importing

COMMANDS = {
    "fit": "train: --config RECIPE [--trainer.max_steps 100 ...]",
    "validate": "score the validation text: --config RECIPE --ckpt_path FILE",
    "test": "score the test text: --config RECIPE --ckpt_path FILE",
    "predict": "the loss of every token of the test text, as losses.npy",
}


def main(argv: list[str]) -> int:
    """Runs the command."""
    with importing():
        from lightning_seq.cli import run  # Lightning takes seconds: nothing else waits for it

    find_own_modules()
    run(argv)
    return 0
