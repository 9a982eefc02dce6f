"""A Transformer's weights by the names that transformers gives them, in GPT-2's shape and in Llama's."""

from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn

from lightning_seq.errors import InputError
from lightning_seq.networks.feedforward import Activation, SwiGLU, build_feedforward
from lightning_seq.networks.heads import LinearHead
from lightning_seq.networks.transformer import Transformer

Shape = Literal["gpt2", "llama"]
Weights = dict[str, Tensor]

CLASSES: dict[Shape, str] = {"gpt2": "GPT2LMHeadModel", "llama": "LlamaForCausalLM"}

_OUTER: dict[Shape, dict[str, str]] = {
    "gpt2": {
        "embedding": "transformer.wte",
        "position_embedding": "transformer.wpe",
        "norm": "transformer.ln_f",
        "head.linear": "lm_head",
    },
    "llama": {"embedding": "model.embed_tokens", "norm": "model.norm", "head.linear": "lm_head"},
}
_BLOCK: dict[Shape, dict[str, str]] = {
    "gpt2": {
        "attention_norm": "ln_1",
        "feedforward_norm": "ln_2",
        "attention.out": "attn.c_proj",
        "feedforward.up": "mlp.c_fc",
        "feedforward.down": "mlp.c_proj",
    },
    "llama": {
        "attention_norm": "input_layernorm",
        "feedforward_norm": "post_attention_layernorm",
        "attention.query": "self_attn.q_proj",
        "attention.key": "self_attn.k_proj",
        "attention.value": "self_attn.v_proj",
        "attention.out": "self_attn.o_proj",
        "feedforward.gate": "mlp.gate_proj",
        "feedforward.up": "mlp.up_proj",
        "feedforward.down": "mlp.down_proj",
    },
}
_BLOCKS: dict[Shape, str] = {"gpt2": "transformer.h", "llama": "model.layers"}
_QUERY_KEY_VALUE = ("query", "key", "value")


def arguments_of(network: Transformer) -> dict[str, Any]:
    """Returns the arguments that make a network of this one's architecture, read from its modules."""
    block: Any = network.blocks[0]
    head: Any = network.head
    attention, feedforward = block.attention, block.feedforward
    linear = head.linear if isinstance(head, LinearHead) else None
    return {
        "vocab_size": network.embedding.num_embeddings,
        "embedding_dim": network.embedding.embedding_dim,
        "num_layers": len(network.blocks),
        "num_heads": attention.num_heads,
        "context_length": network.context_length,
        "feedforward_dim": 0 if feedforward is None else feedforward.up.out_features,
        "dropout": network.dropout.p,
        "rope_base": network.rope_base,
        "tie_weights": linear is not None and linear.weight is network.embedding.weight,
        "num_key_value_heads": attention.num_key_value_heads,
        "norm": "layer" if isinstance(network.norm, nn.LayerNorm) else "rms",
        "activation": None if feedforward is None else _activation_of(feedforward),
        "positions": network.positions,
        "qk_norm": not isinstance(attention.query_norm, nn.Identity),
        "sliding_window": network.sliding_window,
        "bias": attention.query.bias is not None,
        "norm_epsilon": network.norm.eps,
        "adaptive_cutoffs": None if linear is not None else head.softmax.cutoffs[:-1],
    }


def _activation_of(feedforward: nn.Module) -> str:
    if isinstance(feedforward, SwiGLU):
        return "swiglu"
    plain = [name for name in get_args(Activation) if name != "swiglu"]
    built: dict[str, Any] = {name: build_feedforward(1, 1, name, bias=False) for name in plain}
    return next(str(name) for name in plain if built[name].activation is feedforward.activation)


def shape_of(network: Transformer) -> Shape:
    """Returns which of the two shapes expresses the network.

    Raises:
        InputError: Neither does; the message names the argument.
    """
    got = arguments_of(network)
    shape: Shape = "gpt2" if got["norm"] == "layer" else "llama"
    expected: dict[str, Any] = {"adaptive_cutoffs": None, "qk_norm": False, "sliding_window": None}
    if got["feedforward_dim"] == 0:
        raise InputError(_refusal("feedforward_dim", 0, shape, "1 or more"))
    if shape == "gpt2":
        expected |= {"positions": "learned", "num_key_value_heads": got["num_heads"]}
        if got["activation"] == "swiglu":
            raise InputError(_refusal("activation", "swiglu", shape, "'gelu_tanh'"))
    else:
        expected |= {"positions": "rotary", "activation": "swiglu"}
    for name, value in expected.items():
        if got[name] != value:
            raise InputError(_refusal(name, got[name], shape, repr(value)))
    head: Any = network.head
    if head.linear.bias is not None and bool(head.linear.bias.any()):
        raise InputError(
            f"the output layer has a bias, which {CLASSES[shape]} has not: train with tie_weights true, "
            "or with bias false"
        )
    return shape


def _refusal(name: str, got: Any, shape: Shape, expected: str) -> str:
    norm = "layer" if shape == "gpt2" else "rms"
    return (
        f"{name} is {got!r}, and {CLASSES[shape]}, the shape for norm {norm!r}, knows {expected} alone: "
        "such a model cannot be exported"
    )


@torch.no_grad()
def to_hugging_face(network: Transformer) -> Weights:
    """Returns the network's weights by the names of transformers; its shape is :func:`shape_of` it.

    What scales a shared embedding goes into the embedding, which is then another matrix than the head's.
    Biases that GPT-2's shape has and the network has not are zeros.

    Raises:
        InputError: The network has weights that the shape has no place for.
    """
    shape = shape_of(network)
    weights = {name: value.detach().float() for name, value in network.state_dict().items()}
    if network.embedding_scale != 1.0:
        weights["embedding.weight"] = weights["embedding.weight"] * network.embedding_scale
    weights.pop("head.linear.bias", None)
    if shape == "gpt2":
        _add_biases(weights, network)
        _join_attention(weights, len(network.blocks))
    renamed = _names(shape, len(network.blocks))
    if unknown := [name for name in weights if name not in renamed]:
        raise InputError(
            f"the network has weights {unknown[0]!r}, which {CLASSES[shape]} has no place for: "
            "export one whose `network` is a plain Transformer"
        )
    found = {renamed[name]: value for name, value in weights.items()}
    return {name: _turned(name, value, shape).contiguous() for name, value in found.items()}


@torch.no_grad()
def from_hugging_face(weights: Weights, shape: Shape, network: Transformer) -> Weights:
    """Returns weights of transformers by the names of ``network``, whose architecture is theirs.

    Biases that the network has and they have not are zeros.

    Raises:
        InputError: A weight is missing, or there is one that the network has no place for.
    """
    theirs = {new: old for old, new in _names(shape, len(network.blocks)).items()}
    if unknown := [name for name in weights if name not in theirs]:
        raise InputError(f"the directory has weights {unknown[0]!r}, which a Transformer has no place for")
    found = {theirs[name]: _turned(name, value, shape) for name, value in weights.items()}
    if shape == "gpt2":
        _split_attention(found, len(network.blocks))
    wanted = network.state_dict()
    missing = {name for name in wanted if name not in found}
    if lost := sorted(name for name in missing if not name.endswith("bias")):
        raise InputError(f"the directory has no weights for {lost[0]!r} of a Transformer")
    return {**found, **{name: torch.zeros_like(wanted[name]) for name in missing}}


def _names(shape: Shape, layers: int) -> dict[str, str]:
    """Our names and theirs."""
    pairs = dict(_OUTER[shape])
    for i in range(layers):
        block = dict(_BLOCK[shape]) | ({"attention.joint": "attn.c_attn"} if shape == "gpt2" else {})
        pairs |= {f"blocks.{i}.{ours}": f"{_BLOCKS[shape]}.{i}.{theirs}" for ours, theirs in block.items()}
    kinds = ("weight", "bias")
    return {f"{ours}.{kind}": f"{theirs}.{kind}" for ours, theirs in pairs.items() for kind in kinds}


def _turned(name: str, weight: Tensor, shape: Shape) -> Tensor:
    """GPT-2's own linear layers hold the matrix transposed."""
    return weight.T if shape == "gpt2" and ".c_" in name and weight.dim() == 2 else weight


def _add_biases(weights: Weights, network: Transformer) -> None:
    for name, module in network.named_modules():
        inner = isinstance(module, nn.Linear | nn.LayerNorm) and not name.startswith("head.")
        if inner and module.bias is None:
            weights[f"{name}.bias"] = torch.zeros(module.weight.size(0))


def _join_attention(weights: Weights, layers: int) -> None:
    for i in range(layers):
        for kind in ("weight", "bias"):
            parts = [weights.pop(f"blocks.{i}.attention.{name}.{kind}") for name in _QUERY_KEY_VALUE]
            weights[f"blocks.{i}.attention.joint.{kind}"] = torch.cat(parts)


def _split_attention(weights: Weights, layers: int) -> None:
    for i in range(layers):
        for kind in ("weight", "bias"):
            joint = weights.pop(f"blocks.{i}.attention.joint.{kind}")
            for name, part in zip(_QUERY_KEY_VALUE, joint.chunk(3), strict=True):
                weights[f"blocks.{i}.attention.{name}.{kind}"] = part
