"""A decoder-only Transformer: pre-norm blocks of attention and a feed-forward layer, parts by arguments."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Literal, TypedDict

import torch
from torch import Tensor, nn
from torch.distributed.tensor.parallel import ParallelStyle
from torch.utils.checkpoint import checkpoint

from lightning_seq.errors import InputError
from lightning_seq.networks.attention import Append, CausalSelfAttention
from lightning_seq.networks.base import Network, check_choice, check_dropout, check_sizes
from lightning_seq.networks.feedforward import Activation, build_feedforward
from lightning_seq.networks.heads import LinearHead, build_head
from lightning_seq.networks.positions import Rotation, positions_in_documents, rotary_angles, sinusoids
from lightning_seq.networks.reading import ReadingCache
from lightning_seq.networks.spreading import plain_zeros
from lightning_seq.networks.tensor_parallel import plan_by_name

Positions = Literal["rotary", "learned", "sinusoidal", "none"]
Norm = Literal["rms", "layer"]
Initialization = Literal["unit", "gpt2"]

_INTO_RESIDUAL = ("attention.out.weight", "feedforward.down.weight")


class KeyValueCache(TypedDict):
    """The Transformer's state: room for a fixed number of past tokens, newest last.

    Its room is the tensors' own size, so that a state stays a tree of tensors; ``length`` says how much of
    it each lane has filled, and setting it to 0 forgets that lane's past.
    """

    keys: list[Tensor]  # one a layer: (batch, key_value_heads, slots, head_dim)
    values: list[Tensor]
    length: Tensor  # (batch,)


class Block(nn.Module):
    """Attention and mostly a feed-forward layer, each on a normalised input, added to the residual stream."""

    def __init__(
        self,
        attention: CausalSelfAttention,
        feedforward: nn.Module | None,
        new_norm: Callable[[], nn.Module],
        dropout: float,
    ) -> None:
        super().__init__()
        self.attention_norm = new_norm()
        self.feedforward_norm = new_norm() if feedforward is not None else None
        self.attention, self.feedforward = attention, feedforward
        self.dropout = nn.Dropout(dropout)

    def forward(
        self,
        x: Tensor,
        rotation: Rotation | None = None,
        cache: tuple[Tensor, Tensor] | Append | None = None,
        mask: Tensor | None = None,
    ) -> tuple[Tensor, tuple[Tensor, Tensor] | None]:
        """``(batch, time, embedding_dim)`` in and out, and the layer's cache."""
        attended, new_cache = self.attention(self.attention_norm(x), rotation, cache, mask)
        x = x + self.dropout(attended)
        if self.feedforward is not None and self.feedforward_norm is not None:
            x = x + self.dropout(self.feedforward(self.feedforward_norm(x)))
        return x, new_cache


class Transformer(Network):
    """Decoder-only Transformer (Vaswani et al. 2017, https://arxiv.org/abs/1706.03762) in today's form.

    Without a state it attends to all of ``tokens`` and carries nothing on. From ``initial_state`` on it keeps
    keys and values of the last ``length`` tokens: in generation, and in training over text that goes on from
    batch to batch, where they are the memory of Transformer-XL (Dai et al. 2019,
    https://arxiv.org/abs/1901.02860), through which no gradient flows.

    GPT-2's architecture is ``norm="layer", activation="gelu_tanh", positions="learned", bias=True,
    initialization="gpt2"``.

    Args:
        vocab_size: Number of tokens.
        embedding_dim: Width of the model.
        num_layers: Number of blocks.
        num_heads: Attention heads in each block; 2 x num_heads must divide ``embedding_dim``.
        context_length: Longest past that is kept in generation, and the longest window to train on.
        feedforward_dim: Width inside the feed-forward layers (default: 4 x ``embedding_dim``; with swiglu
            8/3, rounded up to a multiple of 8); 0 for blocks of attention alone (Elhage et al. 2021,
            https://transformer-circuits.pub/2021/framework/index.html).
        dropout: Probability of dropping an embedding, an attention weight or a layer's output.
        rope_base: Base of the rotary wavelengths.
        tie_weights: Whether embedding and output layer share one matrix.
        num_key_value_heads: Heads of keys and values, shared by the others (grouped-query attention).
        norm: ``rms`` (Zhang and Sennrich 2019, https://arxiv.org/abs/1910.07467) or ``layer``.
        activation: ``swiglu``, ``gelu``, ``gelu_tanh`` or ``relu_squared``.
        positions: ``rotary``, ``learned``, ``sinusoidal``, or ``none``: causality alone tells some order.
        qk_norm: Whether queries and keys are normalised.
        sliding_window: The most tokens that each one sees, itself included (default: all).
        memory_length: Tokens of the past that training carries on where the text goes on (default:
            ``context_length``, and 0 for learned and sinusoidal positions, which know no past).
        bias: Whether linear layers and norms have biases; the output layer, where its matrix is its own.
        norm_epsilon: What the norms add to the mean square, or the variance, before its root.
        initialization: ``unit``: embedded tokens and all layers' outputs of unit size (a tied embedding is
            scaled up for that, as in Vaswani et al.); ``gpt2``: as in GPT-2, with a deviation of 0.02.
        activation_checkpointing: Whether training computes each block's activations twice, to keep only what
            comes in.
        adaptive_cutoffs: Makes the output an adaptive softmax: the first id of each cluster of rarer words.
        label_smoothing: Share of each target that is spread over the vocabulary in training.
        z_loss: Factor of log(Z)^2 in the training loss, Z being the softmax's denominator.
    """

    def __init__(
        self,
        vocab_size: int,
        embedding_dim: int = 256,
        num_layers: int = 4,
        num_heads: int = 4,
        context_length: int = 256,
        feedforward_dim: int | None = None,
        dropout: float = 0.0,
        rope_base: float = 10_000.0,
        tie_weights: bool = True,
        num_key_value_heads: int | None = None,
        norm: Norm = "rms",
        activation: Activation = "swiglu",
        positions: Positions = "rotary",
        qk_norm: bool = False,
        sliding_window: int | None = None,
        memory_length: int | None = None,
        bias: bool = False,
        norm_epsilon: float = 1e-5,
        initialization: Initialization = "unit",
        activation_checkpointing: bool = False,
        adaptive_cutoffs: Sequence[int] | None = None,
        label_smoothing: float = 0.0,
        z_loss: float = 0.0,
    ) -> None:
        super().__init__()
        check_dropout(dropout)
        check_sizes(context_length=context_length, num_layers=num_layers, num_heads=num_heads)
        check_sizes(vocab_size=vocab_size, embedding_dim=embedding_dim)
        optional = {"num_key_value_heads": num_key_value_heads, "sliding_window": sliding_window}
        check_sizes(**{name: size for name, size in optional.items() if size is not None})
        check_sizes(0, feedforward_dim=feedforward_dim or 0)
        positive = (("rope_base", rope_base, "10000"), ("norm_epsilon", norm_epsilon, "1e-5"))
        for name, number, usual in positive:
            if not 0 < number < float("inf"):
                raise InputError(f"{name} is {number}: give a number above 0, such as {usual}")
        check_choice("norm", norm, Norm)
        check_choice("activation", activation, Activation)
        check_choice("positions", positions, Positions)
        check_choice("initialization", initialization, Initialization)
        self.absolute_positions = positions in ("learned", "sinusoidal")
        if self.absolute_positions and memory_length:
            raise InputError(
                f"memory_length is {memory_length} and positions {positions!r}, which count from the first "
                'token of a window and know none before it: give memory_length 0, or positions "rotary"'
            )
        default = 0 if self.absolute_positions else context_length
        self.memory_length: int = default if memory_length is None else memory_length
        check_sizes(0, memory_length=self.memory_length)
        self.context_length: int = context_length
        self.head_dim, self.rope_base = embedding_dim // num_heads, rope_base
        self.sliding_window, self.positions = sliding_window, positions
        self.activation_checkpointing = activation_checkpointing

        def new_norm() -> nn.Module:
            if norm == "rms":
                return nn.RMSNorm(embedding_dim, norm_epsilon)
            return nn.LayerNorm(embedding_dim, norm_epsilon, bias=bias)

        def new_block() -> Block:
            attention = CausalSelfAttention(
                embedding_dim, num_heads, dropout, num_key_value_heads, qk_norm, bias
            )
            feedforward = build_feedforward(embedding_dim, feedforward_dim, activation, bias)
            return Block(attention, feedforward, new_norm, dropout)

        self.embedding = nn.Embedding(vocab_size, embedding_dim)
        if positions == "learned":
            self.position_embedding = nn.Embedding(context_length, embedding_dim)
        self.dropout = nn.Dropout(dropout)
        self.blocks = nn.ModuleList(new_block() for _ in range(num_layers))
        self.norm = new_norm()
        self.head = build_head(
            embedding_dim,
            vocab_size,
            self.embedding if tie_weights else None,
            bias and not tie_weights,
            adaptive_cutoffs,
            label_smoothing,
            z_loss,
        )
        self.embedding_scale = embedding_dim**0.5 if tie_weights and initialization == "unit" else 1.0
        self._initialise(initialization)

    @torch.no_grad()
    def _initialise(self, initialization: Initialization) -> None:
        """Embedded tokens and all layers' outputs of unit size, but for what is added up over the depth.

        So a token weighs as much as what the layers add to it; with small embeddings two layers do not learn
        to recall. A matrix shared with the head is smaller, and its embeddings are scaled up again, as in
        Vaswani et al.; what writes to the residual stream is scaled down by depth, as in GPT-2.
        """
        residual = [name for name, _ in self.named_parameters() if name.endswith(_INTO_RESIDUAL)]
        for name, parameter in self.named_parameters():
            if parameter.dim() < 2:
                if initialization == "gpt2" and name.endswith("bias"):
                    nn.init.zeros_(parameter)
                continue
            scale = len(residual) ** -0.5 if name in residual else 1.0
            std = 0.02 if initialization == "gpt2" else parameter.size(1) ** -0.5
            nn.init.normal_(parameter, std=scale * std)
        if initialization == "unit" and self.embedding_scale == 1.0:
            nn.init.normal_(self.embedding.weight)
        if initialization == "unit" and self.positions == "learned":
            nn.init.normal_(self.position_embedding.weight)

    def initial_state(self, batch_size: int, length: int | None = None) -> KeyValueCache | None:
        """Returns an empty cache for the last ``length`` tokens (default: ``memory_length``; None if 0)."""
        slots = self.memory_length if length is None else length
        if slots == 0:
            return None
        weight, layers = self.embedding.weight, len(self.blocks)
        attention: Any = self.blocks[0].attention
        empty = plain_zeros(weight, batch_size, attention.num_key_value_heads, slots, self.head_dim)
        return KeyValueCache(
            keys=[empty] * layers,
            values=[empty] * layers,
            length=torch.zeros(batch_size, dtype=torch.long, device=weight.device),
        )

    def forward(
        self,
        tokens: Tensor,
        state: KeyValueCache | ReadingCache | None = None,
        targets: Tensor | None = None,
        document_ids: Tensor | None = None,
    ) -> tuple[Tensor, KeyValueCache | ReadingCache | None]:
        """See :class:`~lightning_seq.networks.base.Network`.

        Args:
            tokens: ``(batch, time)``.
            state: What an earlier call returned.
            targets: ``(batch, time)``.
            document_ids: Which document each token belongs to, ``(batch, time)``: tokens see those of their
                own document alone, and positions are counted from its first one. Not together with a state.
        """
        if isinstance(state, ReadingCache):
            return self._read_on(tokens, state, targets), state
        slots = 0 if state is None else state["keys"][0].size(2)
        start = None if state is None else state["length"][:, None]
        x = self._embed(tokens, start, document_ids)
        rotation = None
        if self.positions == "rotary":
            rotation = rotary_angles(slots + tokens.size(1), self.head_dim, self.rope_base, x.device)
        mask = self._mask(tokens, state, slots, document_ids)
        keys, values = [], []
        for i, block in enumerate(self.blocks):
            past = None if state is None else (state["keys"][i], state["values"][i])
            x, new = self._run(block, x, rotation, past, mask)
            if new is not None:
                keys.append(new[0])
                values.append(new[1])
        if state is not None:
            length = (state["length"] + tokens.size(1)).clamp(max=slots)
            state = KeyValueCache(keys=keys, values=values, length=length)
        return self.head(self.norm(x), targets), state

    def reading_state(self, length: int) -> ReadingCache | None:
        """Returns a state to read a text of up to ``length`` tokens with; None if not all are to be seen."""
        fits = length <= min(self.context_length, self.sliding_window or length)
        return ReadingCache(length) if fits else None

    def _read_on(self, tokens: Tensor, cache: ReadingCache, targets: Tensor | None) -> Tensor:
        time, device = tokens.size(1), tokens.device
        x = self._embed(tokens, cache.length)  # (batch, time, embedding_dim)
        rotation = None
        if self.positions == "rotary":
            angles = rotary_angles(cache.length + time, self.head_dim, self.rope_base, device)
            rotation = (angles[0][-time:], angles[1][-time:])
        mask = cache.mask(time, device)
        for i, block in enumerate(self.blocks):
            x, _ = block(x, rotation, partial(cache.append, i), mask)
        cache.length += time
        return self.head(self.norm(x), targets)  # type: ignore[no-any-return]

    def tensor_parallel_plan(self, ranks: int) -> dict[str, ParallelStyle]:
        """Prepares for ``ranks`` that share each layer: see :func:`~lightning_seq.networks.spreading.spread`.

        Raises:
            InputError: Heads or hidden units cannot be shared out evenly, or the softmax is adaptive.
        """
        first: Any = self.blocks[0]
        sizes = {
            "num_heads": first.attention.num_heads,
            "num_key_value_heads": first.attention.num_key_value_heads,
        }
        if first.feedforward is not None:
            sizes["feedforward_dim"] = first.feedforward.up.out_features
        for name, size in sizes.items():
            if size % ranks:
                raise InputError(
                    f"tensor_parallel_size is {ranks}, which does not divide {name} {size}: give a divisor"
                )
        if not isinstance(self.head, LinearHead):
            raise InputError(
                f"tensor_parallel_size is {ranks}, and an adaptive softmax cannot be shared out: leave "
                "adaptive_cutoffs out, or give tensor_parallel_size 1"
            )
        for block in self.blocks:
            attention: Any = block.attention
            attention.num_heads //= ranks  # what each rank has of them
            attention.num_key_value_heads //= ranks
        return plan_by_name(self)

    def _run(self, block: nn.Module, *inputs: Any) -> Any:
        if self.activation_checkpointing and self.training and torch.is_grad_enabled():
            return checkpoint(block, *inputs, use_reentrant=False)
        return block(*inputs)

    def _embed(
        self, tokens: Tensor, start: Tensor | int | None, document_ids: Tensor | None = None
    ) -> Tensor:
        x = self.embedding(tokens) * self.embedding_scale
        if self.absolute_positions:
            positions = torch.arange(tokens.size(1), device=tokens.device)
            if self.positions == "learned" and tokens.size(1) > self.context_length:
                raise InputError(
                    f"got {tokens.size(1)} tokens, and context_length {self.context_length} positions were "
                    "learned: give shorter sequences, or build the network with a larger context_length"
                )
            if document_ids is not None:
                positions = positions_in_documents(document_ids)
            elif start is not None:
                positions = start + positions
            if self.positions == "learned":
                x = x + self.position_embedding(positions)
            else:
                x = x + sinusoids(positions, x.size(-1)).type_as(x)
        return self.dropout(x)  # type: ignore[no-any-return]

    def _mask(
        self, tokens: Tensor, state: KeyValueCache | None, slots: int, document_ids: Tensor | None
    ) -> Tensor | None:
        """Which keys each query sees, (batch or 1, 1, time, slots + time); None for plain causality."""
        time, device = tokens.size(1), tokens.device
        window = self.sliding_window if (self.sliding_window or 0) < slots + time else None
        if state is None and document_ids is None and window is None:
            return None
        query, key = (
            slots + torch.arange(time, device=device)[:, None],
            torch.arange(slots + time, device=device),
        )
        seen = key <= query  # (time, slots + time)
        if window is not None:
            seen = seen & (key > query - window)
        seen = seen[None]
        if state is not None:
            seen = seen & (key >= slots - state["length"][:, None])[:, None]  # the filled slots of each lane
        if document_ids is not None:
            if state is not None:
                raise InputError(
                    "got document_ids together with a state: documents that are packed into windows carry "
                    "no state on, give one of the two"
                )
            seen = seen & (document_ids[:, :, None] == document_ids[:, None])
        return seen[:, None]
