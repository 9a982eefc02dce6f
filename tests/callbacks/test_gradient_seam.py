"""What the seam shows, held against the gradients themselves, in every way of optimizing and clipping."""

import math

import pytest
import torch
import torch.nn.functional as F
from lightning.pytorch import Callback, LightningModule, seed_everything
from lightning.pytorch.demos.boring_classes import BoringModel, ManualOptimBoringModel
from lightning.pytorch.demos.lstm import SimpleLSTM
from lightning.pytorch.demos.transformer import LightningTransformer, Transformer
from lightning.pytorch.plugins.precision import HalfPrecision, MixedPrecision
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.data import DataLoader

from lightning_seq.callbacks import AutoClip, GradientClippingMonitor, ZClip
from lightning_seq.callbacks.gradients.seam import GradientSeam
from lightning_seq.models import TransformerLanguageModel

VOCAB = 11
METHODS = {"_clip_gradients", "clip_gradients", "clip_grad_by_norm"}


class Second(GradientClippingMonitor):
    """Of another name, so that the trainer can keep both apart in a checkpoint."""


class Step:
    """One optimizer step, as read off the module: by parameters' names, in double precision."""

    def __init__(self, module, optimizer, scale=1.0):
        self.optimizer = optimizer
        self.before = gradients(module, optimizer, scale)
        self.weights = {n: p.detach().double().clone() for n, p in module.named_parameters()}
        self.after = self.moved = None  # gradients after clipping; weights after the step

    def norm(self, which="before"):
        return math.sqrt(sum(float(g.square().sum()) for g in getattr(self, which).values()))

    def norms(self):
        return {name: float(g.norm()) for name, g in self.before.items()}

    def ratio(self, names):
        change = sum(float((self.moved[n] - self.weights[n]).square().sum()) for n in names)
        return math.sqrt(change / sum(float(self.weights[n].square().sum()) for n in names))


def gradients(module, optimizer, scale=1.0):
    own = {id(p) for group in optimizer.param_groups for p in group["params"]}
    named = [(n, p.grad) for n, p in module.named_parameters() if id(p) in own and p.grad is not None]
    named = [(n, g.to_dense() if g.is_sparse else g) for n, g in named]
    return {n: g.detach().double() / scale for n, g in named}


def plain(optimizer):
    return getattr(optimizer, "_optimizer", optimizer)


class Reads:
    """Reads gradients before clipping, after all hooks, and what the optimizer used."""

    def read(self, optimizer, scale=1.0):
        self.seen.append(Step(self, plain(optimizer), scale))

    def configure_optimizers(self):
        self.seen: list[Step] = []
        found = super().configure_optimizers()
        optimizers = found[0] if isinstance(found, tuple) else found
        optimizers = optimizers["optimizer"] if isinstance(optimizers, dict) else optimizers
        for each in optimizers if isinstance(optimizers, list) else [optimizers]:
            each.register_step_post_hook(self._after)
        return found

    def _after(self, optimizer, *_):
        step = next(s for s in reversed(self.seen) if s.optimizer is optimizer)
        step.after = gradients(self, optimizer)

    def on_train_batch_end(self, *args):
        super().on_train_batch_end(*args)
        for step in self.seen:
            if step.moved is None:
                step.moved = {n: p.detach().double().clone() for n, p in self.named_parameters()}


class Automatic(Reads):
    def on_before_optimizer_step(self, optimizer):
        super().on_before_optimizer_step(optimizer)
        scaler = getattr(self.trainer.precision_plugin, "scaler", None)
        fused = getattr(optimizer, "_step_supports_amp_scaling", False)
        self.read(optimizer, scaler.get_scale() if scaler is not None and fused else 1.0)


def automatic(tiny, **options):
    return type("AutomaticTiny", (Automatic, tiny), options)


def fused(tiny):
    def configure_optimizers(self):
        self.seen = []
        optimizer = torch.optim.AdamW(self.parameters(), self.learning_rate, fused=True)
        optimizer.register_step_post_hook(self._after)
        return optimizer

    return automatic(tiny, configure_optimizers=configure_optimizers)


def overflowing(tiny):
    """The third of its steps has a gradient that half precision cannot hold: the scaler skips it."""

    def training_step(self, batch, batch_idx):
        return tiny.training_step(self, batch, batch_idx) * (1e36 if batch_idx == 2 else 1)

    return automatic(tiny, training_step=training_step)


def hooked(tiny):
    """Scales its gradients, as a normalisation over tokens does: in the last hook before clipping."""

    class Hooked(tiny):
        def on_before_optimizer_step(self, optimizer):
            for p in self.parameters():
                if p.grad is not None:
                    p.grad.mul_(3.0)

    return automatic(Hooked)


def partly_frozen(tiny):
    class PartlyFrozen(tiny):
        def __init__(self):
            super().__init__()
            self.unused = nn.Linear(3, 3)
            self.body.requires_grad_(False)

    return automatic(PartlyFrozen)


def mixed_dtypes(tiny):
    class Mixed(tiny):
        def __init__(self):
            super().__init__()
            self.gain = nn.Parameter(torch.ones(8, dtype=torch.bfloat16))
            self.offset = nn.Parameter(torch.zeros(VOCAB, dtype=torch.float64))

        def training_step(self, batch, batch_idx):
            x = self.body(self.embedding(batch["inputs"])) * self.gain
            return F.cross_entropy(
                (self.head(x) + self.offset).float().flatten(0, 1), batch["targets"].flatten()
            )

    return automatic(Mixed)


def changes_and_calls(tiny):
    """Changes gradients in the clipping hook, and has Lightning clip what is left."""

    class ChangesAndCalls(tiny):
        def configure_gradient_clipping(
            self, optimizer, gradient_clip_val=None, gradient_clip_algorithm=None
        ):
            self.head.weight.grad.mul_(0.25)
            self.clip_gradients(optimizer, gradient_clip_val, gradient_clip_algorithm)

    return automatic(ChangesAndCalls)


def clips_with_torch(tiny):
    class ClipsWithTorch(tiny):
        def configure_gradient_clipping(
            self, optimizer, gradient_clip_val=None, gradient_clip_algorithm=None
        ):
            torch.nn.utils.clip_grad_norm_(self.head.parameters(), 0.05)

    return automatic(ClipsWithTorch)


def manual(tiny, clip):
    class Manual(Reads, tiny):
        def __init__(self):
            super().__init__()
            self.automatic_optimization = False

        def training_step(self, batch, batch_idx):
            optimizer = self.optimizers()
            optimizer.zero_grad()
            self.manual_backward(super().training_step(batch, batch_idx))
            scaler = getattr(self.trainer.precision_plugin, "scaler", None)
            self.read(optimizer, 1.0 if scaler is None else scaler.get_scale())
            clip(self, optimizer)
            optimizer.step()

    return Manual


def two_optimizers(tiny):
    class Two(Reads, tiny):
        def __init__(self):
            super().__init__()
            self.automatic_optimization = False

        def configure_optimizers(self):
            body = [*self.embedding.parameters(), *self.body.parameters()]
            return [torch.optim.SGD(body, 0.1), torch.optim.AdamW(self.head.parameters(), 0.01)]

        def training_step(self, batch, batch_idx):
            first, second = self.optimizers()
            self.toggle_optimizer(first)
            first.zero_grad()
            self.manual_backward(super().training_step(batch, batch_idx))
            self.read(first)
            self.clip_gradients(first, 0.1, "norm")
            first.step()
            self.untoggle_optimizer(first)
            self.toggle_optimizer(second)
            second.zero_grad()
            self.manual_backward(super().training_step(batch, batch_idx))
            self.read(second)
            self.clip_gradients(second, 0.01, "value")
            second.step()
            self.untoggle_optimizer(second)

    class Hooked(Two):
        def configure_optimizers(self):
            self.seen = []
            optimizers = Two.configure_optimizers(self)
            for each in optimizers:
                each.register_step_post_hook(self._after)
            return optimizers

    return Hooked


def by_norm(model, optimizer):
    model.clip_gradients(optimizer, 0.28, "norm")


def by_value(model, optimizer):
    model.clip_gradients(optimizer, 0.01, "value")


def scaled_by_norm(model, optimizer):
    model.clip_gradients(optimizer, 0.28 * model.trainer.precision_plugin.scaler.get_scale(), "norm")


def nothing(model, optimizer):
    pass


def half():
    return {"plugins": [MixedPrecision("16-mixed", "cpu")]}


NORM, VALUE = (
    {"gradient_clip_val": 0.28},
    {"gradient_clip_val": 0.01, "gradient_clip_algorithm": "value"},
)
LOW = {"gradient_clip_val": 0.15}
MODES = {
    # name: (model from the tiny one, the trainer's options, algorithm, threshold)
    "norm": (automatic, NORM, "norm", 0.28),
    "value": (automatic, VALUE, "value", 0.01),
    "no clipping": (automatic, {}, None, None),
    "norm, accumulated": (automatic, {**LOW, "accumulate_grad_batches": 3}, "norm", 0.15),
    "no clipping, accumulated": (automatic, {"accumulate_grad_batches": 3}, None, None),
    "norm, bf16-mixed": (automatic, {**NORM, "precision": "bf16-mixed"}, "norm", 0.28),
    "norm, bf16-true": (automatic, {**NORM, "precision": "bf16-true"}, "norm", 0.28),
    "value, bf16-true": (automatic, {**VALUE, "precision": "bf16-true"}, "value", 0.01),
    "norm, 64-true": (automatic, {**NORM, "precision": "64-true"}, "norm", 0.28),
    "norm, 16-mixed": (automatic, {**NORM, **half()}, "norm", 0.28),
    "value, 16-mixed": (automatic, {**VALUE, **half()}, "value", 0.01),
    "no clipping, 16-mixed": (automatic, half(), None, None),
    "norm, fused": (fused, NORM, "norm", 0.28),
    "fused, 16-mixed": (fused, half(), None, None),
    "norm, module scales in a hook": (hooked, NORM, "norm", 0.28),
    "no clipping, module scales in a hook": (hooked, {}, None, None),
    "norm, some without gradients": (partly_frozen, LOW, "norm", 0.15),
    "norm, mixed dtypes": (mixed_dtypes, NORM, "norm", 0.28),
    "no clipping, mixed dtypes": (mixed_dtypes, {}, None, None),
    "own, changes and calls": (changes_and_calls, NORM, "norm", 0.28),
    "own, changes and calls by value": (changes_and_calls, VALUE, "value", 0.01),
    "own, torch": (clips_with_torch, {}, "own", None),
    "manual, norm": (lambda tiny: manual(tiny, by_norm), {}, "norm", 0.28),
    "manual, value": (lambda tiny: manual(tiny, by_value), {}, "value", 0.01),
    "manual, no clipping": (lambda tiny: manual(tiny, nothing), {}, None, None),
    "manual, norm, 16-mixed": (lambda tiny: manual(tiny, scaled_by_norm), half(), "norm", 0.28),
    "manual, no clipping, 16-mixed": (lambda tiny: manual(tiny, nothing), half(), None, None),
}


@pytest.mark.parametrize("mode", MODES)
def test_every_mode_is_seen_as_it_is_and_left_as_it_is(train, tiny, mode):
    make, options, algorithm, threshold = MODES[mode]
    model = make(tiny)
    bf16 = "bf16-true" in mode or "mixed dtypes" in mode
    close = {"rel": 1e-2 if bf16 else 1e-5}
    monitor = GradientClippingMonitor(group_by="parameter")
    options = {**options, "log_every_n_steps": 1, "max_steps": 6}
    _, without = train(model, **options)
    options = {**options, **(half() if "16-mixed" in mode and "bf" not in mode else {})}
    trainer, with_it = train(model, monitor, **options)
    assert torch.equal(without, with_it)

    seen = trainer.lightning_module.seen
    assert len(seen) == len(monitor.history) == monitor.ledgers[0].steps == 6
    assert [row["step"] for row in monitor.history] == [0, 1, 2, 3, 4, 5]
    clipped = 0
    for step, row in zip(seen, monitor.history, strict=True):
        assert row["grad/norm"] == pytest.approx(step.norm(), **close)
        groups = {k.removeprefix("grad/norm/"): v for k, v in row.items() if k.startswith("grad/norm/")}
        assert groups == pytest.approx(step.norms(), **close)
        ratios = {
            k.removeprefix("grad/update_ratio/"): v
            for k, v in row.items()
            if k.startswith("grad/update_ratio/")
        }
        assert set(ratios) == set(step.before)
        for name, ratio in ratios.items():
            if float(step.weights[name].norm()):
                assert ratio == pytest.approx(step.ratio([name]), rel=1e-2 if bf16 else 1e-3, abs=1e-9)
        assert row["grad/update_ratio"] == pytest.approx(step.ratio(step.before), **close)
        if algorithm is None:
            assert not [key for key in row if "clip" in key]
            continue
        expected = step.norm("after")
        assert row["grad/norm_clipped"] == pytest.approx(expected, **close)
        assert row["grad/clip_coefficient"] == pytest.approx(expected / step.norm(), **close)
        assert row.get("grad/clip_threshold") == (threshold and pytest.approx(threshold, **close))
        clipped += any(not torch.allclose(g, step.after[n], rtol=1e-5) for n, g in step.before.items())
        assert row["grad/clipped_share"] == pytest.approx(clipped / (row["step"] + 1))
        assert row["grad/clipped_share_recent"] == pytest.approx(clipped / (row["step"] + 1))
    assert monitor.ledgers[0].algorithm == algorithm
    assert monitor.ledgers[0].clipped == clipped
    if algorithm is not None:
        assert clipped > 0


@pytest.mark.parametrize("clip", [{}, NORM], ids=["no clipping", "norm"])
def test_a_step_that_the_scaler_skips_is_seen_as_not_finite(train, tiny, clip):
    options = {"log_every_n_steps": 1, "val_check_interval": 1.0, "max_epochs": 1, "max_steps": -1}
    monitor = GradientClippingMonitor()
    _, without = train(overflowing(tiny), **options, **clip, **half())
    trainer, with_it = train(overflowing(tiny), monitor, **options, **clip, **half())
    assert torch.equal(without, with_it)
    seen = trainer.lightning_module.seen
    assert [step.after is None for step in seen] == [i == 2 for i in range(8)]  # it skipped that one
    assert [row["grad/nonfinite_steps"] for row in monitor.history] == [0, 0, 1, 1, 1, 1, 1, 1]
    assert not math.isfinite(monitor.history[2]["grad/norm"])
    assert monitor.history[2]["grad/update_ratio"] == 0
    ledger = monitor.ledgers[0]
    assert (ledger.steps, ledger.nonfinite) == (8, 1)
    after = [i for i in range(8) if i != 2]
    assert ledger.clipped == (sum(seen[i].norm() > 0.28 for i in after) if clip else 0)
    for i in after:
        assert monitor.history[i]["grad/norm"] == pytest.approx(seen[i].norm(), rel=1e-5)


def test_two_optimizers_have_books_of_their_own(train, tiny):
    monitor = GradientClippingMonitor(group_by="parameter")
    make = two_optimizers(tiny)
    options = {"log_every_n_steps": 1, "val_check_interval": 1.0, "max_steps": 12}
    _, without = train(make, **options)
    trainer, with_it = train(make, monitor, **options)
    assert torch.equal(without, with_it)
    assert len(monitor.history) == 6
    assert [ledger.algorithm for ledger in monitor.ledgers] == ["norm", "value"]
    for index, optimizer in enumerate(trainer.optimizers):
        seen = [step for step in trainer.lightning_module.seen if step.optimizer is optimizer]
        assert len(seen) == monitor.ledgers[index].steps == 6
        for step, row in zip(seen, monitor.history, strict=True):
            prefix = f"grad/optimizer{index}"
            assert row[f"{prefix}/norm"] == pytest.approx(step.norm(), rel=1e-5)
            assert row[f"{prefix}/norm_clipped"] == pytest.approx(step.norm("after"), rel=1e-5)
            assert row[f"{prefix}/clip_threshold"] == pytest.approx([0.1, 0.01][index])
            assert {k for k in row if k.startswith(f"{prefix}/norm/")} == {
                f"{prefix}/norm/{n}" for n in step.before
            }
            assert row[f"{prefix}/update_ratio"] == pytest.approx(step.ratio(step.before), rel=1e-3)


def test_clipping_by_hand_with_torch_is_not_called_no_clipping(train, tiny):
    """Its norm is only to be seen as the optimizer gets it; so nothing may claim that nothing clips."""

    def clip(model, optimizer):
        torch.nn.utils.clip_grad_norm_(model.parameters(), 0.01)

    make, monitor = manual(tiny, clip), GradientClippingMonitor()
    _, without = train(make)
    trainer, with_it = train(make, monitor)
    assert torch.equal(without, with_it)
    last = trainer.lightning_module.seen[-1]
    assert monitor.history[-1]["grad/norm"] == pytest.approx(last.norm("after"), rel=1e-5)
    assert last.norm("after") < 0.5 * last.norm()
    assert "not clipped" not in monitor.advice()
    assert "no clipping in" not in monitor.summary()


def test_clipping_in_the_last_hook_of_manual_optimization_is_unscaled(train, tiny):
    """Where the scaler has unscaled them: the one place to clip true norms by hand in half precision."""

    class InTheHook(manual(tiny, nothing)):
        def on_before_optimizer_step(self, optimizer):
            self.seen[-1] = Step(self, optimizer)
            self.clip_gradients(optimizer, 0.28, "norm")

    monitor = GradientClippingMonitor()
    options = {"log_every_n_steps": 1, "max_steps": 6}
    _, without = train(InTheHook, **options, **half())
    trainer, with_it = train(InTheHook, monitor, **options, **half())
    assert torch.equal(without, with_it)
    for step, row in zip(trainer.lightning_module.seen, monitor.history, strict=True):
        assert row["grad/norm"] == pytest.approx(step.norm(), rel=1e-5)
        assert row["grad/norm_clipped"] == pytest.approx(step.norm("after"), rel=1e-5)
        assert row["grad/clip_threshold"] == pytest.approx(0.28)


def test_clipping_in_the_last_hook_of_automatic_optimization_is_seen(train, tiny):
    class InTheHook(automatic(tiny)):
        def on_before_optimizer_step(self, optimizer):
            super().on_before_optimizer_step(optimizer)
            self.clip_gradients(optimizer, 0.28, "norm")

    monitor = GradientClippingMonitor()
    trainer, _ = train(InTheHook, monitor, log_every_n_steps=1)
    seen = trainer.lightning_module.seen
    assert sum(step.norm() > 0.28 for step in seen) > 0
    for step, row in zip(seen, monitor.history, strict=True):
        assert row["grad/norm"] == pytest.approx(step.norm(), rel=1e-5)
        assert row["grad/norm_clipped"] == pytest.approx(step.norm("after"), rel=1e-5)


def test_lbfgs_asks_for_gradients_many_times_and_trains_the_same(train, tiny):
    class Lbfgs(Automatic, tiny):
        def configure_optimizers(self):
            self.seen = []
            return torch.optim.LBFGS(self.parameters(), lr=0.1, max_iter=3)

    monitor = GradientClippingMonitor()
    options = {"max_steps": 4, "log_every_n_steps": 1, "val_check_interval": 1.0}
    _, without = train(Lbfgs, **options, **NORM)
    trainer, with_it = train(Lbfgs, monitor, **options, **NORM)
    assert torch.equal(without, with_it)
    seen = trainer.lightning_module.seen
    assert len(seen) > 4  # the closure runs several times in a step
    assert [row.norm for row in monitor.ledgers[0].rows] == pytest.approx(
        [step.norm() for step in seen], rel=1e-5
    )
    assert len(monitor.history) == 4
    for row, step in zip(monitor.history, seen_last(seen), strict=True):
        assert row["grad/norm"] == pytest.approx(step.norm(), rel=1e-5)


def seen_last(seen):
    """The last look of each batch: those of one batch have equal weights after it."""
    return [a for a, b in zip(seen, [*seen[1:], None], strict=True) if b is None or differs(a, b)]


def differs(a, b):
    return any(not torch.equal(a.moved[n], b.moved[n]) for n in a.moved)


def ragged():
    generator = torch.Generator().manual_seed(5)
    batches = []
    for length in (3, 12, 5, 9, 4, 11, 6, 12, 7, 3, 8, 10):
        rows = torch.randint(0, VOCAB, (2, length + 1), generator=generator)
        batches.append({"inputs": rows[:, :-1], "targets": rows[:, 1:]})
    return batches


class Ours(TransformerLanguageModel):
    def train_dataloader(self):
        return DataLoader(ragged(), batch_size=None)


def ours():
    return Ours(VOCAB, embedding_dim=8, num_layers=2, num_heads=2, context_length=12, dropout=0.0)


@pytest.mark.parametrize("options", [{}, NORM], ids=["no clipping", "norm"])
def test_token_normalisation_is_part_of_the_norm(train, options):
    """Against a plain loop over the same ragged batches: the sum of all losses over the number of tokens."""
    options = {**options, "accumulate_grad_batches": 3, "log_every_n_steps": 1, "max_steps": 4}
    options["val_check_interval"] = 1.0
    monitor = GradientClippingMonitor(group_by="parameter")
    _, without = train(ours, **options)
    _, with_it = train(ours, monitor, **options)
    assert torch.equal(without, with_it)
    assert len(monitor.history) == 4

    seed_everything(1, verbose=False)
    network = ours().network
    batches = ragged()[:3]
    tokens = sum(b["targets"].numel() for b in batches)
    for batch in batches:
        network(batch["inputs"], None, batch["targets"])[0].sum().div(tokens).backward()
    named = {f"network.{n}": float(p.grad.double().norm()) for n, p in network.named_parameters()}
    row = monitor.history[0]
    assert row["grad/norm"] == pytest.approx(math.sqrt(sum(v**2 for v in named.values())), rel=1e-5)
    assert {k[10:]: v for k, v in row.items() if k.startswith("grad/norm/")} == pytest.approx(named, rel=1e-4)


class DemoTransformer(LightningTransformer):
    def __init__(self):
        LightningModule.__init__(self)
        self.model = Transformer(vocab_size=VOCAB, ninp=8, nhead=2, nhid=8, nlayers=2)

    def prepare_data(self):
        pass

    def train_dataloader(self):
        rows = torch.randint(0, VOCAB, (6, 13), generator=torch.Generator().manual_seed(3))
        return DataLoader([(row[:-1], row[1:]) for row in rows], batch_size=2)


class DemoLSTM(LightningModule):
    """Lightning's demo LSTM without its download."""

    def __init__(self):
        super().__init__()
        self.model = SimpleLSTM(vocab_size=VOCAB, ninp=8, nhid=8, nlayers=2)

    def training_step(self, batch, batch_idx):
        inputs, target = batch
        output, _ = self.model(inputs, self.model.init_hidden(inputs.size(0)))
        return F.nll_loss(output, target.reshape(-1))

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)

    train_dataloader = DemoTransformer.train_dataloader


DEMOS = {
    "boring": (BoringModel, {"layer"}),
    "boring, manual": (ManualOptimBoringModel, {"layer"}),
    "transformer": (
        DemoTransformer,
        {
            "model.embedding",
            "model.decoder",
            *(f"model.transformer.{part}.layers.{i}" for part in ("encoder", "decoder") for i in range(2)),
            "model.transformer.encoder.norm",
            "model.transformer.decoder.norm",
        },
    ),
    "lstm": (DemoLSTM, {"model.encoder", "model.rnn.l0", "model.rnn.l1", "model.decoder"}),
}


@pytest.mark.parametrize("demo", DEMOS)
@pytest.mark.parametrize("clip", [{}, {"gradient_clip_val": 0.1}], ids=["no clipping", "norm"])
def test_lightnings_own_demos(train, demo, clip):
    kind, layers = DEMOS[demo]
    if kind is ManualOptimBoringModel and clip:
        pytest.skip("Lightning refuses that")
    monitor = GradientClippingMonitor()
    options = {"val_check_interval": 1.0, "log_every_n_steps": 1, "max_steps": 3, **clip}
    base = type("Read", (Automatic, kind), {})
    trainer, with_it = train(base, monitor, **options)
    _, without = train(kind, **options)
    assert torch.equal(without, with_it)
    for row, step in zip(monitor.history, trainer.lightning_module.seen, strict=True):
        assert row["grad/norm"] == pytest.approx(step.norm(), rel=1e-5)
    groups = {k.removeprefix("grad/norm/") for k in monitor.history[0] if k.startswith("grad/norm/")}
    assert groups == layers


def test_sparse_gradients_go_through(train, tiny):
    """Which torch can clip in no way, but without clipping they train."""

    class Sparse(Automatic, tiny):
        def __init__(self):
            super().__init__()
            self.embedding = nn.Embedding(VOCAB, 8, sparse=True)

        def configure_optimizers(self):
            self.seen = []
            return torch.optim.SGD(self.parameters(), 0.1)

    monitor = GradientClippingMonitor()
    _, without = train(Sparse)
    trainer, with_it = train(Sparse, monitor, log_every_n_steps=1)
    assert torch.equal(without, with_it)
    expected = [step.norm() for step in trainer.lightning_module.seen]
    assert [row["grad/norm"] for row in monitor.history] == pytest.approx(expected, rel=1e-5)


# -- what it costs ---------------------------------------------------------------------------------


class Counts(TorchDispatchMode):
    """Counts reads of gradients and values taken off the device, while training runs."""

    NORMS = ("_foreach_norm", "linalg_vector_norm", "norm")
    SYNCS = ("_local_scalar_dense", "_to_copy", "equal", "is_nonzero", "item")

    def __init__(self):
        super().__init__()
        self.norms = self.syncs = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func.__name__.split(".")[0]
        if name == "_foreach_norm":
            self.norms += len(args[0])
        elif name in ("linalg_vector_norm", "norm") and args[0].numel() > 200:
            self.norms += 1
        self.syncs += name in ("_local_scalar_dense", "equal", "is_nonzero")
        return func(*args, **(kwargs or {}))


class Counting(Callback):
    """Has them counted from the backward on: past the loss, which the test's own module logs."""

    def __init__(self):
        self.counts, self.per_batch = Counts(), []

    def on_after_backward(self, trainer, pl_module):
        if not getattr(self, "open", False):
            self.open = True
            self.before = self.counts.norms, self.counts.syncs
            self.counts.__enter__()

    def on_train_batch_end(self, trainer, *args):
        if getattr(self, "open", False):
            self.open = False
            self.counts.__exit__(None, None, None)
            norms, syncs = self.before
            self.per_batch.append((self.counts.norms - norms, self.counts.syncs - syncs))


def counted(train, make, *callbacks, **options):
    counting = Counting()
    options = {"log_every_n_steps": 4, "val_check_interval": 1.0, "max_steps": 8, **options}
    train(make, *callbacks, counting, **options)  # the last: what the others do at the batch's end counts
    return counting.per_batch


@pytest.mark.parametrize("watch", ["monitor", "two monitors", "autoclip", "zclip"])
@pytest.mark.parametrize("clip", [{}, NORM, VALUE], ids=["no clipping", "norm", "value"])
def test_gradients_are_read_once_and_nothing_waits_for_the_device(train, tiny, clip, watch):
    class Sgd(tiny):  # AdamW takes the number of its step off the device
        def training_step(self, batch, batch_idx):
            return F.cross_entropy(self(batch["inputs"]).flatten(0, 1), batch["targets"].flatten())

        def configure_optimizers(self):
            return torch.optim.SGD(self.parameters(), 0.1)

    if "clip" in watch and clip:
        pytest.skip("refused")
    watchers = {
        "monitor": lambda: [GradientClippingMonitor()],
        "two monitors": lambda: [GradientClippingMonitor(), Second("parameter")],
        "autoclip": lambda: [GradientClippingMonitor(), AutoClip()],
        "zclip": lambda: [GradientClippingMonitor(), ZClip()],
    }[watch]()
    count = len(list(Sgd().parameters()))
    without = counted(train, Sgd, **clip)
    with_it = counted(train, Sgd, *watchers, **clip)
    reads = {"norm": (count, count), "value": (0, 2 * count), None: (0, count)}
    expected = reads[(clip and clip.get("gradient_clip_algorithm", "norm")) or None]
    assert [norms for norms, _ in without] == [expected[0]] * 8
    assert [norms for norms, _ in with_it] == [expected[1]] * 8
    checks = Counts()
    with checks:  # some versions of torch look at the percentile on a CPU
        torch.rand(3).nanquantile(0.1)
    own = checks.syncs if watch == "autoclip" else 0
    between = [i for i in range(8) if (i + 1) % 4]
    assert [with_it[i][1] for i in between] == [without[i][1] + own for i in between]


def test_the_way_to_the_device_is_counted_by_the_test_above():
    counts = Counts()
    with counts:
        torch.ones(300).norm()
        torch._foreach_norm([torch.ones(3)] * 4)
        torch.ones(2).sum().item()
    assert (counts.norms, counts.syncs) == (5, 1)


# -- opening and closing ---------------------------------------------------------------------------


class Plugin(Callback):
    """Notes what is hidden on the precision plugin while training, and the order of events."""

    def __init__(self):
        self.hidden, self.order = [], []

    def on_train_batch_start(self, trainer, *_):
        self.hidden.append(METHODS & vars(trainer.precision_plugin).keys())

    def on_before_optimizer_step(self, *_):
        self.order.append("callback")


def test_the_seam_is_closed_after_training(train, tiny):
    plugin = Plugin()
    trainer, _ = train(tiny, GradientClippingMonitor(), AutoClip(), plugin)
    assert plugin.hidden == [METHODS] * 6
    assert not METHODS & vars(trainer.precision_plugin).keys()


@pytest.mark.parametrize("make", [GradientClippingMonitor, AutoClip, ZClip])
@pytest.mark.parametrize("error", [ZeroDivisionError, KeyboardInterrupt])
def test_the_seam_is_closed_after_an_exception(train, tiny, make, error):
    class Breaks(tiny):
        def training_step(self, batch, batch_idx):
            if self.global_step == 3:
                self.plugin = self.trainer.precision_plugin
                assert vars(self.plugin).keys() >= METHODS
                raise error
            return super().training_step(batch, batch_idx)

    model, callback = Breaks(), make()
    expected = SystemExit if error is KeyboardInterrupt else error
    with pytest.raises(expected):
        train(lambda: model, callback)
    assert not METHODS & vars(model.plugin).keys()
    if isinstance(callback, GradientClippingMonitor):
        assert callback.ledgers[0].steps == 3  # nothing seen is lost
    trainer, _ = train(tiny, callback)  # and it can be used again
    assert not METHODS & vars(trainer.precision_plugin).keys()
    if isinstance(callback, GradientClippingMonitor):
        assert callback.ledgers[0].steps == 6  # of this training


def test_a_refusal_closes_what_others_have_opened(train, tiny):
    plugin = MixedPrecision("bf16-mixed", "cpu")
    with pytest.raises(ValueError, match="which both clip"):
        train(tiny, GradientClippingMonitor(), AutoClip(), plugins=[plugin], gradient_clip_val=1.0)
    assert not METHODS & vars(plugin).keys()


def test_listeners_come_after_all_hooks_and_before_the_optimizer(train, tiny):
    order = []

    class Ordered(tiny):
        def on_before_optimizer_step(self, optimizer):
            order.append("module")

        def configure_gradient_clipping(
            self, optimizer, gradient_clip_val=None, gradient_clip_algorithm=None
        ):
            order.append("clipping")

        def configure_optimizers(self):
            optimizer = super().configure_optimizers()
            optimizer.register_step_post_hook(lambda *_: order.append("updated"))
            return optimizer

    class Listens(Callback):
        def setup(self, trainer, pl_module, stage):
            seam = GradientSeam.of(trainer)
            seam.listen(self.last, last=True)
            seam.listen(self.first)

        def first(self, step):
            order.append("listener")
            self.norm = float(step.norm)

        def last(self, step):
            order.append("last")
            for parameter in step.parameters:
                parameter.grad.zero_()

        def on_before_optimizer_step(self, *_):
            order.append("callback")

        def teardown(self, trainer, pl_module, stage):
            seam = GradientSeam.of(trainer)
            seam.leave(self.first)
            assert vars(trainer.precision_plugin).keys() >= METHODS
            seam.leave(self.last)
            assert not METHODS & vars(trainer.precision_plugin).keys()

    listens = Listens()
    train(Ordered, listens, max_steps=1)
    assert order == ["callback", "module", "clipping", "listener", "last", "updated"]
    assert listens.norm > 0


def test_plugins_with_a_way_of_their_own_have_no_seam(quiet_trainer):
    class Own(HalfPrecision):
        def clip_grad_by_norm(self, *_):
            pass

    assert GradientSeam.of(quiet_trainer(plugins=[Own("bf16-true")])) is None
    trainer = quiet_trainer()
    trainer.precision_plugin.clip_gradients = print  # somebody else was here
    assert GradientSeam.of(trainer) is None
    trainer = quiet_trainer()
    seam = GradientSeam.of(trainer)
    assert GradientSeam.of(trainer) is seam
