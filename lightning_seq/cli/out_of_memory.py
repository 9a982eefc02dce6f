"""What a training that ran out of memory needs, in one line."""

from contextlib import suppress

import torch

from lightning_seq.errors import InputError

_MENDING = (
    "lower data.batch_size and raise trainer.accumulate_grad_batches, shorten data.context_length, or give a "
    "Transformer model.activation_checkpointing true"
)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether a device, or this machine, has no more memory."""
    allocator = isinstance(error, RuntimeError) and "can't allocate memory" in str(error)
    return allocator or isinstance(error, torch.OutOfMemoryError | MemoryError)


def explained(words: list[str]) -> InputError:
    """Returns the error with the numbers of ``doctor``.

    Args:
        words: The options of ``fit``.
    """
    from lightning_seq.cli.doctor.examination import examine  # which no other training has to wait for
    from lightning_seq.cli.doctor.report import size

    needs = ""
    with suppress(Exception):  # what doctor cannot find out is no reason to hide this
        sections, _ = examine(words)
        values = next(section.values for section in sections if section.title == "memory")
        total = values.pop("total")
        named = {name.replace("_", " "): count for name, count in values.items() if name in _PARTS}
        parts = ", ".join(f"{name} {size(count)}" for name, count in named.items() if count)
        needs = f": a step needs about {size(total)} ({parts})"
    return InputError(f"out of memory{needs}; {_MENDING}")


_PARTS = ("weights", "gradients", "optimizer_state", "ddp_buckets", "activations", "logits_and_others")
