"""FSDP2 and tensor parallelism through ModelParallelStrategy: the same training on every mesh."""

import pickle
import shutil
import warnings
from pathlib import Path

import lightning.pytorch as pl
import pytest
import torch
from lightning.pytorch.strategies import ModelParallelStrategy
from torch import nn
from torch.distributed.tensor import DTensor

from lightning_seq import checkpoints
from lightning_seq.distributed_checkpoints import consolidate
from lightning_seq.errors import InputError
from lightning_seq.models import (
    GRULanguageModel,
    LanguageModel,
    LSTMLanguageModel,
    MinGRULanguageModel,
    MinLSTMLanguageModel,
    RNNLanguageModel,
    TransformerLanguageModel,
)
from lightning_seq.networks.spreading import whole
from tests.models.training import SMALL, VOCAB, Batches, lanes, ragged, rows_of, trainer
from tests.ranks import run_ranks

FSDP, TENSOR, BOTH = (2, 1), (1, 2), (2, 2)
SGD = {"optimizer": "sgd", "learning_rate": 0.1}
# Models are trained in double precision, whose rounding is 2e-16 of a value. AdamW divides by 1e-8 at least
# and multiplies by learning_rate, 1e-3: gradients that are zero but for rounding move a weight by 1e-10 in
# six steps. torch 2.9 rounds the norm of spread gradients to fp32: 6e-8 of six steps of at most 0.1 x 0.5.
ROUNDING = 1e-7
WIDE = {"embedding_dim": 32, "num_heads": 4}


class ScaledNetwork(nn.Module):
    """With a buffer that no checkpoint has: rank 0's is everybody's."""

    def __init__(self, vocab_size):
        super().__init__()
        self.embedding, self.out = nn.Embedding(vocab_size, 8), nn.Linear(8, vocab_size)
        self.register_buffer("scale", torch.rand(8), persistent=False)

    def forward(self, tokens, state=None, targets=None):
        return self.out(self.embedding(tokens) * self.scale), None


class Scaled(LanguageModel):
    """A user's own model, which says nothing of how it is spread."""

    def __init__(self, vocab_size):
        super().__init__(ScaledNetwork(vocab_size), **SGD)
        self.save_hyperparameters()


SMALL = {**SMALL, Scaled: {}}


class Shared(pl.LightningDataModule):
    """Each rank that reads data gets its rows of every batch; ranks that share layers get the same."""

    def __init__(self, batches):
        super().__init__()
        self.batches = batches

    def train_dataloader(self):
        ranks = self.trainer.distributed_sampler_kwargs or {"num_replicas": 1, "rank": 0}
        count, rank = ranks["num_replicas"], ranks["rank"]
        return Batches(
            [
                rows_of(b, len(b["inputs"]) * rank // count, len(b["inputs"]) * (rank + 1) // count)
                for b in self.batches
            ]
        )

    val_dataloader = train_dataloader


class Kinds(pl.Callback):
    """How many parameters there are, and how many of them are spread over the ranks."""

    def on_train_start(self, trainer, pl_module):
        parameters = list(pl_module.parameters())
        self.spread, self.parameters = sum(isinstance(p, DTensor) for p in parameters), len(parameters)


def fit(cls, options, mesh, batches, settings=None, steps=6, resume=None, save=None, whole_file=True):
    """Trains, and returns losses, weights and what kind of parameters there were."""
    warnings.simplefilter("ignore")  # in a process of its own
    data_ranks, layer_ranks = mesh
    ranks = data_ranks * layer_ranks
    settings = {"strategy": "auto", "gradient_clip_val": 0.5, **(settings or {})}
    spread = ranks > 1 and settings["strategy"] == "auto"
    if spread:
        settings["strategy"] = ModelParallelStrategy(
            data_ranks, layer_ranks, save_distributed_checkpoint=whole_file is False
        )
    run = trainer(
        devices=ranks,
        max_steps=steps,
        check_val_every_n_epoch=None,
        val_check_interval=3,
        **settings,
    )
    torch.manual_seed(run.global_rank)
    with torch.device("meta" if spread and run.global_rank else "cpu"):  # what others begin with
        model = cls(VOCAB, **{**SMALL[cls], **options})
    if "precision" not in settings:
        model.double()  # see ROUNDING
    kinds = Kinds()
    run.callbacks.append(kinds)
    run.fit(model, Shared(batches), ckpt_path=resume, weights_only=bool(resume) or None)
    if save:
        run.save_checkpoint(save)
    return {
        "train_loss": float(run.callback_metrics["train_loss"]),
        "val_loss": float(run.callback_metrics["val_loss"]),
        "weights": {name: whole(p.detach()).clone() for name, p in model.named_parameters()},
        "spread": kinds.spread,
        "parameters": kinds.parameters,
    }


def compare(one, other, tolerance=ROUNDING):
    for name in ("train_loss", "val_loss"):  # Lightning keeps them in fp32, whose rounding is 1.2e-7
        assert other[name] == pytest.approx(one[name], rel=1e-6, abs=10 * tolerance)
    assert other["weights"].keys() == one["weights"].keys()
    for name, weight in one["weights"].items():
        torch.testing.assert_close(other["weights"][name], weight, atol=tolerance, rtol=0, msg=name)


def same_on_every_mesh(cls, options, meshes, batches, tolerance=ROUNDING, settings=None, **more):
    arguments = {"settings": settings, **more}
    (alone,) = run_ranks(fit, cls, options, (1, 1), batches, world=1, **arguments)
    for mesh in meshes:
        for found in run_ranks(fit, cls, options, mesh, batches, world=mesh[0] * mesh[1], **arguments):
            assert found["spread"] == found["parameters"] == alone["parameters"]
            compare(alone, found, tolerance)


SLOW = pytest.mark.slow
EVERY_FAMILY = [
    (LSTMLanguageModel, {"num_layers": 2, "layer_norm": True, "last_hidden_size": 6}),
    (TransformerLanguageModel, {}),
    pytest.param(RNNLanguageModel, {}, marks=SLOW),
    pytest.param(GRULanguageModel, {"tie_weights": True}, marks=SLOW),
    pytest.param(MinGRULanguageModel, {}, marks=SLOW),
    pytest.param(MinLSTMLanguageModel, {"tie_weights": True}, marks=SLOW),
]


@pytest.mark.parametrize(("cls", "options"), EVERY_FAMILY)
def test_ddp_trains_every_family_over_text_that_goes_on(cls, options):
    batches = lanes().batches
    (alone,) = run_ranks(fit, cls, options, (1, 1), batches, world=1)
    for found in run_ranks(fit, cls, options, (2, 1), batches, {"strategy": "ddp"}):
        assert found["spread"] == 0
        compare(alone, found)


@pytest.mark.parametrize(("cls", "options"), EVERY_FAMILY)
def test_fsdp2_trains_every_family_over_text_that_goes_on(cls, options):
    same_on_every_mesh(cls, options, [FSDP], lanes().batches)


@pytest.mark.parametrize(
    "options",
    [
        {"qk_norm": True, "num_layers": 2},
        {"tie_weights": False, "num_key_value_heads": 2, **WIDE},
        {"norm": "layer", "activation": "gelu_tanh", "positions": "learned", "bias": True},
        {"tie_weights": False, "bias": True, "feedforward_dim": 0, "initialization": "gpt2"},
    ],
)
def test_layers_are_shared_out_whatever_their_parts(options):
    same_on_every_mesh(TransformerLanguageModel, options, [TENSOR], lanes(continues=False).batches)


@pytest.mark.slow
def test_data_and_layers_are_shared_out_together():
    batches = lanes(continues=False).batches
    same_on_every_mesh(TransformerLanguageModel, {"num_layers": 2, **WIDE}, [BOTH], batches)


@pytest.mark.parametrize("mesh", [FSDP, TENSOR])
def test_rows_of_different_lengths_weigh_the_same(mesh):
    """Accumulated, clipped, over ranks: by tokens, as in one process."""
    batches = [ragged(4, seed=n) for n in range(12)]
    settings = {"accumulate_grad_batches": 2}
    same_on_every_mesh(TransformerLanguageModel, {}, [mesh], batches, settings=settings)


@pytest.mark.slow
@pytest.mark.parametrize("mesh", [FSDP, TENSOR])
@pytest.mark.parametrize("more", [{}, {"activation_checkpointing": True}])
def test_packed_documents_have_positions_of_their_own(mesh, more):
    documents = {"document_ids": torch.tensor([[0] * 3 + [1] * 5, [0] * 8] * 2)}
    batches = [{**each, **documents} for each in lanes(continues=False).batches]
    same_on_every_mesh(TransformerLanguageModel, {"positions": "learned", **SGD, **more}, [mesh], batches)


@pytest.mark.parametrize("mesh", [FSDP, TENSOR])
def test_penalties_are_those_of_one_process(mesh):
    options = {"label_smoothing": 0.1, "z_loss": 1e-2}
    same_on_every_mesh(TransformerLanguageModel, options, [mesh], lanes(continues=False).batches)


@pytest.mark.parametrize("clip", [{"gradient_clip_val": 0.05}, {"gradient_clip_algorithm": "value"}])
def test_gains_shared_by_all_heads_are_clipped_as_in_one_process(clip):
    settings = {"gradient_clip_val": 5e-4, **clip}
    batches = lanes(continues=False).batches
    same_on_every_mesh(
        TransformerLanguageModel, {"qk_norm": True, **SGD}, [TENSOR], batches, settings=settings
    )


def test_an_adaptive_softmax_and_buffers_of_ones_own():
    options = {"adaptive_cutoffs": [4, 8], "tie_weights": False}
    same_on_every_mesh(TransformerLanguageModel, options, [FSDP], lanes(continues=False).batches)
    same_on_every_mesh(Scaled, {}, [FSDP], lanes(continues=False).batches)


def test_muon_on_whole_matrices():
    batches = lanes(continues=False).batches
    same_on_every_mesh(TransformerLanguageModel, {"optimizer": "muon"}, [FSDP], batches, 1e-3)  # in bfloat16


@pytest.mark.slow
@pytest.mark.parametrize("mesh", [FSDP, TENSOR])
@pytest.mark.parametrize("options", [{"compile": True}, {"activation_checkpointing": True}])
def test_compiled_and_recomputed(mesh, options):
    batches = lanes(continues=False).batches
    # torch's compiler rounds some constants to fp32, on any CPU alike
    tolerance = 1e-6 if "compile" in options else ROUNDING
    same_on_every_mesh(TransformerLanguageModel, {"num_layers": 2, **options}, [mesh], batches, tolerance)


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["bf16-mixed", "bf16-true"])
def test_half_precision(precision):
    settings = {"precision": precision}
    for cls in (LSTMLanguageModel, TransformerLanguageModel):
        same_on_every_mesh(cls, {}, [FSDP], lanes().batches, 2e-2, settings=settings)


@pytest.mark.parametrize(
    ("cls", "options", "mesh", "said"),
    [
        (LSTMLanguageModel, {}, TENSOR, "LSTM has no tensor_parallel_plan"),
        (MinGRULanguageModel, {}, TENSOR, "MinGRU has no tensor_parallel_plan"),
        (LSTMLanguageModel, {"learn_initial_state": True}, FSDP, "learn_initial_state is True, and FSDP2"),
        (
            GRULanguageModel,
            {"optimizer": "muon"},
            FSDP,
            "optimizer 'muon' of a recurrent network needs whole weights",
        ),
        (TransformerLanguageModel, {"optimizer": "nt_asgd"}, FSDP, "optimizer 'nt_asgd' of a network needs"),
        (TransformerLanguageModel, {"num_heads": 1}, TENSOR, "does not divide num_heads 1"),
        (TransformerLanguageModel, {"feedforward_dim": 15}, TENSOR, "does not divide feedforward_dim 15"),
        (
            TransformerLanguageModel,
            {"adaptive_cutoffs": [4], "tie_weights": False},
            TENSOR,
            "an adaptive softmax cannot be shared out",
        ),
        (TransformerLanguageModel, {}, TENSOR, "memory_length 0"),
    ],
)
def test_what_cannot_be_spread_is_refused(cls, options, mesh, said):
    with pytest.raises(AssertionError, match=said):
        run_ranks(fit, cls, options, mesh, lanes().batches)


CHECKPOINTED = (TransformerLanguageModel, {"num_layers": 2, "qk_norm": True})
BLOCKS = lanes(continues=False).batches
MESHES = {"alone": (1, 1), "fsdp": FSDP, "tensor": TENSOR}
GOING_ON = [(f"{first}.ckpt", then) for first in MESHES for then in MESHES]
# of many files, which no strategy of one process reads
GOING_ON += [(f"{first}.parts", then) for first in ("fsdp", "tensor") for then in ("fsdp", "tensor")]


@pytest.fixture(scope="module")
def checkpoints_of(tmp_path_factory):
    """Three steps on each mesh, in one file and in many."""
    folder = tmp_path_factory.mktemp("checkpoints")
    for name, mesh in MESHES.items():
        for kind in ("ckpt", "parts") if name != "alone" else ("ckpt",):
            whole_file, path = kind == "ckpt", str(folder / f"{name}.{kind}")
            run_ranks(
                fit, *CHECKPOINTED, mesh, BLOCKS, world=max(mesh), steps=3, save=path, whole_file=whole_file
            )
    return folder


@pytest.fixture(scope="module")
def gone_on(checkpoints_of):
    resume = str(checkpoints_of / "alone.ckpt")
    return run_ranks(fit, *CHECKPOINTED, (1, 1), BLOCKS, world=1, resume=resume)[0]


@pytest.mark.slow
@pytest.mark.parametrize(("first", "then"), GOING_ON)
def test_a_checkpoint_goes_on_on_any_mesh(first, then, checkpoints_of, gone_on):
    mesh, resume = MESHES[then], str(checkpoints_of / first)
    (found, *_) = run_ranks(fit, *CHECKPOINTED, mesh, BLOCKS, world=max(mesh), resume=resume)
    compare(gone_on, found)


@pytest.mark.slow
@pytest.mark.parametrize("first", ["fsdp", "tensor"])
def test_one_file_of_a_distributed_checkpoint_loads_anywhere(first, checkpoints_of, gone_on, tmp_path):
    path = tmp_path / "one.ckpt"
    consolidate(checkpoints_of / f"{first}.parts", path)
    assert [each.name for each in tmp_path.iterdir()] == ["one.ckpt"]
    for mesh in MESHES.values():
        (found, *_) = run_ranks(fit, *CHECKPOINTED, mesh, BLOCKS, world=max(mesh), resume=str(path))
        compare(gone_on, found)
    model = checkpoints.load(path)
    assert model.network.head.linear.weight is model.network.embedding.weight
    assert checkpoints.read(path)["global_step"] == 3


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
def test_what_is_no_whole_distributed_checkpoint_is_refused(checkpoints_of, tmp_path):
    with pytest.raises(InputError, match=r"nowhere is no distributed checkpoint: expected a directory"):
        consolidate(tmp_path / "nowhere", tmp_path / "one.ckpt")
    (tmp_path / "there.ckpt").touch()
    with pytest.raises(InputError, match=r"there\.ckpt exists already"):
        consolidate(checkpoints_of / "fsdp.parts", tmp_path / "there.ckpt")
    cut = shutil.copytree(checkpoints_of / "fsdp.parts", tmp_path / "cut")
    (cut / "__1_0.distcp").write_bytes(b"")
    with pytest.raises(InputError, match=r"cut is no whole distributed checkpoint"):
        consolidate(cut, tmp_path / "one.ckpt")
    bomb = shutil.copytree(checkpoints_of / "fsdp.parts", tmp_path / "bomb")
    for name in (".metadata", "meta.pt"):
        before = (bomb / name).read_bytes()
        for payload in (
            pickle.dumps(Bomb(tmp_path / "exploded"), protocol=2),
            reaching(tmp_path / "exploded"),
        ):
            (bomb / name).write_bytes(payload)
            with pytest.raises(InputError, match=r"bomb is no whole distributed checkpoint"):
                consolidate(bomb, tmp_path / "one.ckpt")
        (bomb / name).write_bytes(before)
    assert sorted(each.name for each in tmp_path.iterdir()) == ["bomb", "cut", "there.ckpt"]


def reaching(path):
    """A pickle that names a function of another module inside one that it may name."""

    def word(text):
        return b"\x8c" + bytes([len(text)]) + text

    module = word(b"torch.distributed.checkpoint.metadata")
    return b"\x80\x04" + module + word(b"os.mkdir") + b"\x93" + word(str(path).encode()) + b"\x85R."


class Bomb:
    """Makes a file when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)
