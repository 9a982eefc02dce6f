"""What ``lightning-seq export`` does: a checkpoint's Transformer as a directory that transformers loads."""

import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer
from torch import Tensor

from lightning_seq import checkpoints, prompts
from lightning_seq.errors import InputError
from lightning_seq.networks import hugging_face_weights as weights
from lightning_seq.networks.transformer import Transformer

RELATIVE_TOLERANCE = 1e-4
"""Of the largest logit. In fp32 two orders of the same sums differ by 1e-6 of it, and two ways to compute a
rotary angle by 1e-7 of a radian for each position; weights in the wrong place differ by its whole size."""

MOST_LOGITS = 1 << 27  # half a GiB; fewer sequences, and then fewer tokens, over large vocabularies
SEQUENCES = 4
TEXT_IDS = 256
ACTIVATIONS = {"gelu_tanh": "gelu_new", "gelu": "gelu", "relu_squared": "relu2"}


def transformers_library() -> Any:
    """Returns transformers, told to be quiet.

    Raises:
        InputError: It is not installed.
    """
    try:
        import transformers
    except ImportError as error:
        raise InputError(
            f'transformers cannot be imported ({error}): pip install "lightning-seq[transformers]"'
        ) from error
    logging: Any = transformers.utils.logging
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    return transformers


def export_checkpoint(checkpoint: str, output: Path, trust: bool) -> dict[str, Any]:
    """Writes the directory, loads it back, compares, and returns what is to be said.

    Args:
        checkpoint: A .ckpt file.
        output: A directory that does not exist.
        trust: Whether a class outside this package that the checkpoint names may be imported.

    Raises:
        InputError: transformers has no shape for the model, or the directory would exist already.
    """
    check_new(output)
    library = transformers_library()
    model = checkpoints.load(checkpoint, trust)
    network = getattr(model, "network", None)
    if not isinstance(network, Transformer):
        raise InputError(
            f"{checkpoint}: the network of {type(model).__name__} is {type(network).__name__}, which "
            "transformers has no class for: export a model whose network is a Transformer"
        )
    network = network.float().eval()
    with unfinished(output) as directory:
        directory.mkdir()
        _write(library, directory, network, model.tokenizer)
        theirs = read_model(library, directory)
        found = compared(network, theirs)
        _compare_tokenizers(library, directory, model.tokenizer)
    found["tokenizer"] = "tokenizer.json" if model.tokenizer is not None else None
    return {"class": type(theirs).__name__, **found, "output": str(output)}


def check_new(output: Path) -> None:
    """Refuses what exists, and a place in a directory that does not."""
    if output.exists() or output.is_symlink():
        raise InputError(f"--output {output} exists, and nothing is overwritten: give a new name")
    if not output.absolute().parent.is_dir():
        raise InputError(
            f"--output is {output}, and {output.absolute().parent} is no directory: make it first"
        )


@contextmanager
def unfinished(output: Path) -> Iterator[Path]:
    """Gives a temporary name beside ``output``: renamed if all goes well, and else nothing stays there."""
    temporary = output.absolute().with_name(f".{output.absolute().name}.{os.getpid()}")
    try:
        yield temporary
        check_new(output)
        temporary.rename(output)
    finally:
        if temporary.is_dir():
            shutil.rmtree(temporary)
        else:
            temporary.unlink(missing_ok=True)


def read_model(library: Any, directory: Path) -> Any:
    """Returns the model of a directory in fp32 and evaluation mode; nothing is downloaded, no code is run."""
    local: dict[str, Any] = {"local_files_only": True, "trust_remote_code": False}
    try:  # eager attention heeds all arguments of a configuration; torch's fused one leaves some out
        model = library.AutoModelForCausalLM.from_pretrained(directory, attn_implementation="eager", **local)
    except (OSError, ValueError, RuntimeError, KeyError) as error:
        said = str(error).strip().splitlines()[0]
        raise InputError(f"transformers cannot load {directory} ({said}): give a whole directory") from error
    return model.float().eval()


@torch.no_grad()
def compared(network: Transformer, theirs: Any) -> dict[str, Any]:
    """Compares the logits of random tokens over the whole context.

    Raises:
        InputError: They differ by more than rounding.
    """
    vocab_size = network.embedding.num_embeddings
    length = min(network.context_length, max(1, MOST_LOGITS // vocab_size))
    rows = max(1, min(SEQUENCES, MOST_LOGITS // (vocab_size * length)))
    generator = torch.Generator().manual_seed(0)
    tokens = torch.randint(vocab_size, (rows, length), generator=generator)
    difference, largest = 0.0, 0.0
    for row in tokens:
        ours, other = network(row[None])[0], theirs(row[None]).logits
        difference = max(difference, _largest(ours - other))
        largest = max(largest, _largest(ours))
    allowed = RELATIVE_TOLERANCE * largest
    if not difference <= allowed:  # a NaN is no agreement
        raise InputError(
            f"the logits differ by {difference:.2g}, of up to {largest:.2g}, where rounding alone would stay "
            f"under {allowed:.2g}, so nothing was written: the two models do not compute the same"
        )
    sizes = {
        "parameters": sum(p.numel() for p in theirs.parameters()),
        "compared": rows * length * vocab_size,
    }
    return {**sizes, "difference": difference, "largest": largest, "allowed": allowed}


def _largest(x: Tensor) -> float:
    return float(x.abs().max())


def _write(library: Any, directory: Path, network: Transformer, tokenizer: Tokenizer | None) -> None:
    exported = weights.to_hugging_face(network)
    with torch.device("meta"):  # no second copy of the weights, and no random numbers
        model = getattr(library, weights.CLASSES[weights.shape_of(network)])(_config(library, network))
    model.to_empty(device="cpu").tie_weights()
    model.load_state_dict(exported)
    model.save_pretrained(directory)
    if tokenizer is not None:
        save_tokenizer(library, directory, tokenizer, network.context_length)


def _config(library: Any, network: Transformer) -> Any:
    got = weights.arguments_of(network)
    shared = {
        "vocab_size": got["vocab_size"],
        "tie_word_embeddings": got["tie_weights"] and network.embedding_scale == 1.0,
        "bos_token_id": None,  # ours begins and ends nothing by itself
        "eos_token_id": None,
    }
    if got["norm"] == "layer":
        return library.GPT2Config(
            **shared,
            n_positions=got["context_length"],
            n_embd=got["embedding_dim"],
            n_layer=got["num_layers"],
            n_head=got["num_heads"],
            n_inner=got["feedforward_dim"],
            activation_function=ACTIVATIONS[got["activation"]],
            layer_norm_epsilon=got["norm_epsilon"],
            **dict.fromkeys(("resid_pdrop", "embd_pdrop", "attn_pdrop"), got["dropout"]),
        )
    return library.LlamaConfig(
        **shared,
        max_position_embeddings=got["context_length"],
        hidden_size=got["embedding_dim"],
        intermediate_size=got["feedforward_dim"],
        num_hidden_layers=got["num_layers"],
        num_attention_heads=got["num_heads"],
        num_key_value_heads=got["num_key_value_heads"],
        rope_theta=got["rope_base"],
        rms_norm_eps=got["norm_epsilon"],
        attention_bias=got["bias"],
        mlp_bias=got["bias"],
        attention_dropout=got["dropout"],
    )


def save_tokenizer(library: Any, directory: Path, tokenizer: Tokenizer, context_length: int) -> None:
    """Writes the tokenizer so that AutoTokenizer of any release gives the same ids and texts as ours."""
    fast = library.PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer.from_str(tokenizer.to_str()),
        model_max_length=context_length,
        clean_up_tokenization_spaces=False,  # that would drop spaces before punctuation
    )
    fast.save_pretrained(directory)
    path = directory / "tokenizer_config.json"
    config = json.loads(path.read_text(encoding="utf-8"))
    config["tokenizer_class"] = "PreTrainedTokenizerFast"  # releases before 5 know no other name of it
    path.write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")


def _compare_tokenizers(library: Any, directory: Path, tokenizer: Tokenizer | None) -> None:
    if tokenizer is None:
        return
    theirs = library.AutoTokenizer.from_pretrained(directory, local_files_only=True)
    known = torch.tensor(sorted(tokenizer.get_vocab().values()))
    picked = torch.randint(len(known), (TEXT_IDS,), generator=torch.Generator().manual_seed(0))
    ids = known[picked].tolist()
    text = prompts.written(ids, tokenizer)
    encoded = prompts.read(text, tokenizer)
    got = theirs(text, add_special_tokens=False)["input_ids"]
    if got != encoded or theirs.decode(ids, skip_special_tokens=False) != text:
        raise InputError(
            "transformers reads the tokenizer otherwise than this package does, so nothing was written: "
            "use the .ckpt itself as tokenizer, or train with another kind"
        )
