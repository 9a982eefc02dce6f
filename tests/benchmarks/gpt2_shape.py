"""One architecture, GPT-2's, as this package, transformers and nanoGPT build it."""

import importlib.util
import sys

import torch

from lightning_seq.models import TransformerLanguageModel

SHAPE = (6, 384, 6)  # layers, width, heads


def ours(vocab_size, context, shape=SHAPE, **options):
    layers, width, heads = shape
    torch.manual_seed(0)
    return TransformerLanguageModel(
        vocab_size,
        embedding_dim=width,
        num_layers=layers,
        num_heads=heads,
        context_length=context,
        feedforward_dim=4 * width,
        norm="layer",
        activation="gelu_tanh",
        positions="learned",
        bias=True,
        initialization="gpt2",
        **options,
    )


def of_transformers(vocab_size, context, shape=SHAPE):
    from transformers import GPT2Config, GPT2LMHeadModel

    torch.manual_seed(0)
    none = {"bos_token_id": None, "eos_token_id": None, "pad_token_id": None}
    layers, width, heads = shape
    sizes = {"n_embd": width, "n_layer": layers, "n_head": heads, "n_positions": context}
    dropout = {"resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0}
    return GPT2LMHeadModel(GPT2Config(vocab_size=vocab_size, **sizes, **dropout, **none))


def of_nanogpt(directory, vocab_size, context, shape=SHAPE):
    spec = importlib.util.spec_from_file_location("nanogpt_model", directory / "model.py")
    module = sys.modules["nanogpt_model"] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    torch.manual_seed(0)
    layers, width, heads = shape
    sizes = {"n_embd": width, "n_layer": layers, "n_head": heads, "block_size": context}
    return module.GPT(module.GPTConfig(vocab_size=vocab_size, dropout=0.0, bias=True, **sizes))


def same_size(models):
    """All have as many parameters, or somebody is given an easier task."""
    sizes = {name: sum(p.numel() for p in model.parameters()) for name, model in models.items()}
    assert len(set(sizes.values())) == 1, sizes
    return next(iter(sizes.values()))
