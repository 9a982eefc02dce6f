"""What ``lightning-seq import`` does: a directory of transformers as a checkpoint."""

from pathlib import Path
from typing import Any

import lightning
import torch
from tokenizers import Tokenizer

from lightning_seq import checkpoints
from lightning_seq.cli.hugging_face import (
    ACTIVATIONS,
    check_new,
    compared,
    read_model,
    transformers_library,
    unfinished,
)
from lightning_seq.data.tokenization.tokenizers import vocabulary_size
from lightning_seq.errors import InputError
from lightning_seq.models import TransformerLanguageModel
from lightning_seq.networks import hugging_face_weights as weights

TOKENIZER_FILES = ("tokenizer.json", "vocab.json", "tokenizer.model")


def import_directory(directory: Path, output: Path) -> dict[str, Any]:
    """Writes the checkpoint, loads it back, compares, and returns what is to be said.

    Args:
        directory: What ``save_pretrained`` wrote.
        output: A .ckpt file that does not exist.

    Raises:
        InputError: The directory holds no model that a Transformer can express.
    """
    check_new(output)
    if output.suffix != ".ckpt":
        raise InputError(f"--output is {output}: give a name that ends in .ckpt")
    if not (directory / "config.json").is_file():
        raise InputError(f"{directory} has no config.json: give a directory that save_pretrained wrote")
    library = transformers_library()
    theirs = read_model(library, directory)
    shape = _shape(theirs)
    arguments = _from_gpt2(theirs.config) if shape == "gpt2" else _from_llama(theirs.config)
    model: Any = TransformerLanguageModel(initialization="gpt2", **arguments).eval()
    model.network.load_state_dict(weights.from_hugging_face(_weights_of(theirs), shape, model.network))
    tokenizer = _tokenizer(library, directory)
    if tokenizer is not None and vocabulary_size(tokenizer) > arguments["vocab_size"]:
        raise _unlike(
            "vocab_size", arguments["vocab_size"], f"the tokenizer's {vocabulary_size(tokenizer)} ids"
        )
    with unfinished(output) as temporary:
        _save(model, tokenizer, temporary)
        found = compared(checkpoints.load(temporary).network, theirs)
    found["tokenizer"] = None if tokenizer is None else f"a tokenizer of {tokenizer.get_vocab_size():,} ids"
    return {"class": type(theirs).__name__, **found, "output": str(output)}


def _shape(theirs: Any) -> weights.Shape:
    name = type(theirs).__name__
    for shape, class_name in weights.CLASSES.items():
        if name == class_name:
            return shape
    raise InputError(f"the directory holds a {name}: give a {' or a '.join(weights.CLASSES.values())}")


def _weights_of(theirs: Any) -> weights.Weights:
    """Returns the parameters, a shared one under both names; buffers are none of ours."""
    return dict(theirs.named_parameters(remove_duplicate=False))


def _from_gpt2(config: Any) -> dict[str, Any]:
    names = {theirs: ours for ours, theirs in ACTIVATIONS.items()} | {"gelu_pytorch_tanh": "gelu_tanh"}
    if config.activation_function not in names:
        raise _unlike("activation_function", config.activation_function, f"one of {', '.join(names)}")
    return {
        "vocab_size": config.vocab_size,
        "embedding_dim": config.n_embd,
        "num_layers": config.n_layer,
        "num_heads": config.n_head,
        "context_length": config.n_positions,
        "feedforward_dim": config.n_inner or 4 * config.n_embd,
        "dropout": config.resid_pdrop,
        "tie_weights": config.tie_word_embeddings,
        "norm": "layer",
        "activation": names[config.activation_function],
        "positions": "learned",
        "bias": True,
        "norm_epsilon": config.layer_norm_epsilon,
    }


def _from_llama(config: Any) -> dict[str, Any]:
    if config.hidden_act not in ("silu", "swish"):
        raise _unlike("hidden_act", config.hidden_act, "silu")
    head_dim = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    if head_dim * config.num_attention_heads != config.hidden_size:
        raise _unlike("head_dim", head_dim, f"{config.hidden_size // config.num_attention_heads}")
    return {
        "vocab_size": config.vocab_size,
        "embedding_dim": config.hidden_size,
        "num_layers": config.num_hidden_layers,
        "num_heads": config.num_attention_heads,
        "context_length": config.max_position_embeddings,
        "feedforward_dim": config.intermediate_size,
        "dropout": config.attention_dropout,
        "rope_base": _rope_base(config),
        "tie_weights": config.tie_word_embeddings,
        "num_key_value_heads": config.num_key_value_heads,
        "bias": config.attention_bias or config.mlp_bias,
        "norm_epsilon": config.rms_norm_eps,
    }


def _rope_base(config: Any) -> float:
    """Reads rope_parameters, or what releases before 5 have: rope_theta and rope_scaling."""
    rope = getattr(config, "rope_parameters", None) or getattr(config, "rope_scaling", None) or {}
    kind = rope.get("rope_type", rope.get("type", "default"))
    if kind != "default":
        raise _unlike("rope_type", kind, "default")
    return float(rope.get("rope_theta") or config.rope_theta)


def _unlike(name: str, got: Any, expected: str) -> InputError:
    return InputError(
        f"{name} of the directory's config.json is {got!r}, and a Transformer has {expected}: "
        "such a model cannot be imported"
    )


def _tokenizer(library: Any, directory: Path) -> Tokenizer | None:
    """Returns the fast tokenizer; transformers makes one of GPT-2's vocab.json and merges.txt."""
    if (path := directory / "tokenizer.json").is_file():
        return Tokenizer.from_file(str(path))
    if not any((directory / name).is_file() for name in TOKENIZER_FILES):
        return None
    local: dict[str, Any] = {"local_files_only": True, "trust_remote_code": False}
    try:
        tokenizer = library.AutoTokenizer.from_pretrained(directory, **local)
    except (OSError, ValueError, ImportError) as error:
        said = str(error).strip().splitlines()[0]
        raise InputError(f"transformers cannot load the tokenizer of {directory} ({said})") from error
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if not isinstance(backend, Tokenizer):
        raise InputError(f"{directory} has no fast tokenizer: save one as tokenizer.json")
    return backend


def _save(model: Any, tokenizer: Tokenizer | None, path: Path) -> None:
    content = {
        "state_dict": model.state_dict(),
        "hyper_parameters": dict(model.hparams),
        "hparams_name": "kwargs",
        "epoch": 0,
        "global_step": 0,
        "pytorch-lightning_version": lightning.__version__,
        checkpoints.KEY: checkpoints.describe(model, None if tokenizer is None else tokenizer.to_str()),
    }
    torch.save(content, path)
