"""One architecture, GPT-2's, as this package, transformers and nanoGPT build it."""

import importlib.util
import sys

import torch

from lightning_seq.models import TransformerLanguageModel

LAYERS, WIDTH, HEADS = 6, 384, 6


def ours(vocab_size, context, **options):
    torch.manual_seed(0)
    return TransformerLanguageModel(
        vocab_size,
        embedding_dim=WIDTH,
        num_layers=LAYERS,
        num_heads=HEADS,
        context_length=context,
        feedforward_dim=4 * WIDTH,
        norm="layer",
        activation="gelu_tanh",
        positions="learned",
        bias=True,
        initialization="gpt2",
        **options,
    )


def of_transformers(vocab_size, context):
    from transformers import GPT2Config, GPT2LMHeadModel

    torch.manual_seed(0)
    none = {"bos_token_id": None, "eos_token_id": None, "pad_token_id": None}
    shape = {"n_embd": WIDTH, "n_layer": LAYERS, "n_head": HEADS, "n_positions": context}
    dropout = {"resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0}
    return GPT2LMHeadModel(GPT2Config(vocab_size=vocab_size, **shape, **dropout, **none))


def of_nanogpt(directory, vocab_size, context):
    spec = importlib.util.spec_from_file_location("nanogpt_model", directory / "model.py")
    module = sys.modules["nanogpt_model"] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    torch.manual_seed(0)
    shape = {"n_embd": WIDTH, "n_layer": LAYERS, "n_head": HEADS, "block_size": context}
    return module.GPT(module.GPTConfig(vocab_size=vocab_size, dropout=0.0, bias=True, **shape))


def same_size(models):
    """All have as many parameters, or somebody is given an easier task."""
    sizes = {name: sum(p.numel() for p in model.parameters()) for name, model in models.items()}
    assert len(set(sizes.values())) == 1, sizes
    return next(iter(sizes.values()))
