"""What ``lightning-seq attention`` does: trained models, each on the same text."""

import math
from argparse import Namespace
from pathlib import Path
from typing import Any

from lightning_seq.callbacks.heads import head_numbers
from lightning_seq.callbacks.heads.example import text_example
from lightning_seq.callbacks.heads.look import look, view_of
from lightning_seq.callbacks.heads.page import write_page
from lightning_seq.callbacks.probe import Example, call_of, inputs_of
from lightning_seq.cli.trained import context_of, label, model_and_data, validation_batch
from lightning_seq.data import SequenceDataModule
from lightning_seq.data.scored_text import scored_text
from lightning_seq.data.sources.files import read_text
from lightning_seq.errors import InputError
from lightning_seq.networks.base import evaluating
from lightning_seq.networks.network_call import NetworkCall
from lightning_seq.prompts import written

HEAD_THRESHOLD = 0.5


def look_at(options: Namespace) -> tuple[list[dict[str, Any]], str]:
    """Looks at every model, writes the page, and returns what is to be said of each, and the text.

    Args:
        options: As ``commands/attention.py`` parses them.
    """
    text = None if options.text is None else _given(options.text)
    views, results = [], []
    for checkpoint in options.checkpoint:
        model, data = model_and_data(checkpoint, options.trust, "attention", with_data=text is None)
        text = _beginning(model, data, checkpoint, options.tokens) if text is None else text
        example = _example(model, text, options.tokens)
        saliency = True if options.saliency or len(options.checkpoint) > 1 else None
        with evaluating(model):
            looked = look(model, example, with_saliency=saliency, call=_call(model, data, example))
        if not looked.layers:
            raise InputError(
                f"{checkpoint}: {type(model).__name__} shows no attention (unseen: "
                f"{', '.join(looked.unseen)}): give --saliency"
            )
        views.append(view_of(label(checkpoint), example, looked, _tokenizer(model)))
        measures = head_numbers.summary(looked.layers, HEAD_THRESHOLD) | head_numbers.of_heads(looked.layers)
        results.append(
            {
                "checkpoint": checkpoint,
                "label": label(checkpoint),
                "heads": sum(len(layer.heads) for layer in looked.layers if layer.module),
                "tokens": len(example["inputs"][0]),
                "measures": {key: each for key, each in measures.items() if math.isfinite(each)},
            }
        )
    options.output.write_text(write_page(views, "Attention"), encoding="utf-8")
    return results, text or ""


def _call(model: Any, data: Any, example: Example) -> NetworkCall | None:
    """Returns how the model is called for the tokens, as far as its data tell."""
    if data is None or isinstance(data, SequenceDataModule):
        return None
    call = call_of("attention", model, validation_batch(data))
    return None if call is None else call.with_inputs(example["inputs"])


def _given(text: str) -> str:
    """Returns the words of the command line, or the content of the file that they name."""
    try:
        named = Path(text).is_file()
    except OSError:  # too long for a name
        named = False
    return read_text(Path(text)) if named else text


def _beginning(model: Any, data: Any, checkpoint: str, tokens: int) -> str:
    """Returns the beginning of the validation split, as text or, where the data are none, as names of ids."""
    if data is None:
        raise InputError(f"{checkpoint} has no config.yaml of its run beside it: give --text")
    if isinstance(data, SequenceDataModule):
        ids = scored_text(data.encoded("validation"), data.tokenizer, tokens).ids.tolist()
    else:
        inputs = inputs_of(validation_batch(data))
        if inputs is None:
            raise InputError(f"{type(data).__name__} has no batches with `inputs`: give --text")
        ids = inputs[0, :tokens].tolist()
    return written(ids, _tokenizer(model))


def _example(model: Any, text: str, tokens: int) -> Example:
    vocab_size = model.hparams.get("vocab_size")
    return text_example(text, _tokenizer(model), vocab_size, context_of(model, tokens))


def _tokenizer(model: Any) -> Any:
    return getattr(model, "tokenizer", None)
