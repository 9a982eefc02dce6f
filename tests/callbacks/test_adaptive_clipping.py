"""AutoClip and ZClip against their papers, written once more in plain Python."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from lightning.pytorch import Callback
from lightning.pytorch.demos.boring_classes import ManualOptimBoringModel
from lightning.pytorch.plugins.precision import MixedPrecision, Precision

from lightning_seq.callbacks import AutoClip, GradientClippingMonitor, ZClip
from lightning_seq.errors import InputError


def autoclip(norms, percentile=10.0, window=None):
    """The thresholds of Seetharaman et al. 2020: a percentile of all norms so far, this one included."""
    thresholds, seen = [], []
    for norm in norms:
        seen.append(norm)
        finite = [each for each in (seen[-window:] if window else seen) if math.isfinite(each)]
        thresholds.append(float(np.percentile(finite, percentile)) if finite else math.inf)
    return thresholds


def zclip(norms, alpha=0.97, z=2.5, warmup=25, max_norm=math.inf):
    """The thresholds of Kumar et al. 2025, the reciprocal kind: mean + z^2 / score * deviation."""
    thresholds, first = [], []
    mean = variance = None
    for norm in norms:
        if not math.isfinite(norm):
            thresholds.append(math.inf)  # nothing is clipped and nothing learnt
            continue
        if mean is None:
            first.append(norm)
            thresholds.append(max_norm)
            if len(first) == warmup:
                mean, variance = float(np.mean(first)), float(np.var(first))
            continue
        deviation = math.sqrt(variance)
        score = (norm - mean) / (deviation + 1e-6)
        kept, threshold = norm, max_norm
        if score > z:
            kept = mean + z**2 / score * deviation
            threshold = min(kept, max_norm)
        thresholds.append(threshold)
        mean = alpha * mean + (1 - alpha) * kept
        variance = alpha * variance + (1 - alpha) * (kept - mean) ** 2
    return thresholds


def run(policy, norms):
    return [float(policy.threshold(torch.tensor(norm))) for norm in norms]


def same(found, expected, norms, rel=1e-4):
    """What is left of each norm, where it is finite."""
    for got, wanted, norm in zip(found, expected, norms, strict=True):
        if math.isfinite(norm):
            assert min(norm, got) == pytest.approx(min(norm, wanted), rel=rel)


finite = st.floats(0.0078125, 128, width=32)
anything = st.one_of(finite, finite, finite, st.sampled_from([math.inf, math.nan]))


@settings(max_examples=60, deadline=None)
@given(
    norms=st.lists(anything, min_size=1, max_size=40),
    percentile=st.integers(0, 100),
    window=st.sampled_from([None, 1, 5, 39]),
)
def test_autoclip_is_the_papers(norms, percentile, window):
    found = run(AutoClip(percentile, window or 10_000), norms)
    same(found, autoclip(norms, percentile, window), norms)


@settings(max_examples=60, deadline=None)
@given(
    norms=st.lists(anything, min_size=1, max_size=60),
    alpha=st.sampled_from([0.5, 0.9, 0.97]),
    z=st.sampled_from([0.5, 1.0, 2.5]),
    warmup=st.integers(2, 25),
    max_norm=st.sampled_from([None, 1.0, 20.0]),
)
def test_zclip_is_the_papers(norms, alpha, z, warmup, max_norm):
    found = run(ZClip(alpha, z, warmup, max_norm), norms)
    same(found, zclip(norms, alpha, z, warmup, max_norm or math.inf), norms, rel=2e-3)


@pytest.mark.parametrize("broken", [math.inf, math.nan, -math.inf])
@pytest.mark.parametrize("at", [3, 30])
def test_zclip_learns_nothing_from_what_is_not_finite(broken, at):
    norms = np.random.default_rng(0).lognormal(size=60).astype(np.float32).tolist()
    policy = ZClip()
    found = run(policy, [*norms[:at], broken, *norms[at:]])
    expected = zclip(norms)
    del found[at]
    assert found == pytest.approx(expected, rel=1e-3)


def test_zclips_default_warm_up_is_the_papers():
    norms = [1.0, 2.0] * 12 + [100.0, 1.5, 1000.0, 1.5]
    found = run(ZClip(), norms)
    assert found[:25] == [math.inf] * 25
    assert found == pytest.approx(zclip(norms), rel=1e-4)
    assert math.isfinite(found[26])


# -- in a training ---------------------------------------------------------------------------------


def make(tiny, base=(), scale=None, every=None):
    """A model that notes norms before and after clipping; every so many-th batch has a larger loss."""

    class Noted(*base, tiny):
        def training_step(self, batch, batch_idx):
            loss = super().training_step(batch, batch_idx)
            return loss * (scale if every and batch_idx % every == every - 1 else 1)

        def on_before_optimizer_step(self, optimizer):
            super().on_before_optimizer_step(optimizer)
            scaler = getattr(self.trainer.precision_plugin, "scaler", None)
            fused = getattr(optimizer, "_step_supports_amp_scaling", False)
            self.unit = scaler.get_scale() if scaler is not None and fused else 1.0
            self.before.append(self.norm() / self.unit)

        def configure_optimizers(self):
            self.before, self.after = [], []
            optimizer = super().configure_optimizers()
            optimizer.register_step_post_hook(lambda *_: self.after.append(self.norm()))
            return optimizer

        def norm(self):
            grads = [p.grad for p in self.parameters() if p.grad is not None]
            return math.sqrt(sum(float(g.double().square().sum()) for g in grads))

    return Noted


class Fused:
    def configure_optimizers(self):
        return torch.optim.AdamW(self.parameters(), self.learning_rate, fused=True)


POLICIES = {
    "autoclip": (lambda: AutoClip(40), lambda norms: autoclip(norms, 40)),
    "zclip": (
        lambda: ZClip(0.9, 0.5, 3),
        lambda norms: zclip(norms, 0.9, 0.5, 3),
    ),
}


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("mode", ["plain", "accumulated", "16-mixed", "fused, 16-mixed", "bf16-true"])
def test_gradients_are_clipped_to_the_threshold_and_the_monitor_sees_it(train, tiny, policy, mode):
    callback, truth = POLICIES[policy]
    options = {"max_steps": 12, "log_every_n_steps": 1, "val_check_interval": 1.0}
    options["accumulate_grad_batches"] = 2 if mode == "accumulated" else 1
    if "16-mixed" in mode:
        options["plugins"] = [MixedPrecision("16-mixed", "cpu")]
    if mode == "bf16-true":
        options["precision"] = mode
    model = make(tiny, (Fused,) if "fused" in mode else (), scale=10.0, every=3)
    monitor = GradientClippingMonitor()
    trainer, with_monitor = train(model, monitor, callback(), **options)
    noted = trainer.lightning_module
    close = {"rel": 2e-2 if mode == "bf16-true" else 1e-4}
    expected = truth(noted.before)
    cut = [min(n, t) for n, t in zip(noted.before, expected, strict=True)]
    assert 2 <= sum(t < n for n, t in zip(noted.before, expected, strict=True)) < 12
    assert noted.after == pytest.approx(cut, **close)
    for row, before, after, threshold in zip(monitor.history, noted.before, cut, expected, strict=True):
        assert row["grad/norm"] == pytest.approx(before, **close)
        assert row["grad/norm_clipped"] == pytest.approx(after, **close)
        assert row["grad/clip_threshold"] == pytest.approx(threshold, **close)
    if mode != "bf16-true":
        truly = sum(n > t * (1 + 1e-4) for n, t in zip(noted.before, expected, strict=True))
        assert monitor.ledgers[0].clipped == truly  # the first of AutoClip's is its own threshold

    if "16-mixed" in mode:
        options["plugins"] = [MixedPrecision("16-mixed", "cpu")]
    _, without_monitor = train(model, callback(), **options)
    assert torch.equal(with_monitor, without_monitor)


@pytest.mark.parametrize("policy", POLICIES)
def test_steps_that_the_scaler_skips_teach_nothing(train, tiny, policy):
    callback, truth = POLICIES[policy]
    model = make(tiny, scale=1e36, every=6)
    options = {"max_steps": -1, "max_epochs": 2, "val_check_interval": 1.0}
    trainer, _ = train(model, callback(), plugins=[MixedPrecision("16-mixed", "cpu")], **options)
    noted = trainer.lightning_module
    broken = [not math.isfinite(norm) for norm in noted.before]
    assert sum(broken) == 2
    norms = [n for n in noted.before if math.isfinite(n)]
    cut = [min(n, t) for n, t in zip(norms, truth(norms), strict=True)]
    assert noted.after == pytest.approx(cut, rel=1e-4)


class Saves(Callback):
    def __init__(self, path, at):
        self.path, self.at = path, at

    def on_train_batch_end(self, trainer, *_):
        if trainer.global_step == self.at:
            trainer.save_checkpoint(self.path)


@pytest.fixture
def steady(tiny):
    """Trains the same, resumed or not: without random numbers, always on the same rows."""

    class Steady(tiny):
        def on_train_start(self):
            for module in self.modules():
                if isinstance(module, torch.nn.Dropout):
                    module.p = 0.0

        def forward(self, tokens):
            x = self.embedding(tokens)
            x = torch.tanh(self.body[0].project(x))[..., :8]
            return self.head(x)

        def training_step(self, batch, batch_idx):
            rows, first = self.trainer.train_dataloader.dataset, 3 * self.global_step
            rows = [rows[i % 24] for i in range(first, first + 3)]
            return super().training_step(torch.utils.data.default_collate(rows), batch_idx)

    return Steady


@pytest.mark.filterwarnings("ignore:You're resuming from a checkpoint that ended before the epoch")
@pytest.mark.parametrize(
    "make_callback",
    [lambda: AutoClip(30), lambda: AutoClip(30, window=5), lambda: ZClip(0.9, 0.3, 4)],
    ids=["autoclip", "short window", "zclip"],
)
@pytest.mark.parametrize("at", [3, 8])
def test_a_resumed_training_is_the_uninterrupted_one(
    train, steady, quiet_trainer, tmp_path, make_callback, at
):
    path = tmp_path / "a.ckpt"
    options = {"max_steps": 12, "limit_val_batches": 0, "val_check_interval": 1.0}
    first = make_callback()
    _, through = train(steady, first, Saves(path, at), **options)
    assert path.exists()
    torch.load(path, weights_only=True)
    second = make_callback()
    resumed = quiet_trainer(callbacks=[second], **options)
    model = steady()
    resumed.fit(model, ckpt_path=path, weights_only=True)
    assert resumed.global_step == 12
    assert torch.equal(through, torch.cat([p.detach().flatten() for p in model.parameters()]))
    for one, other in zip(first.state_dict().values(), second.state_dict().values(), strict=True):
        assert torch.equal(torch.as_tensor(one), torch.as_tensor(other))


@given(
    norms=st.lists(finite, min_size=2, max_size=30),
    at=st.integers(1, 29),
    window=st.integers(1, 12),
    kind=st.sampled_from(["autoclip", "zclip"]),
)
@settings(max_examples=60, deadline=None)
def test_state_goes_on_to_the_bit(norms, at, window, kind):
    def new():
        return AutoClip(25, window) if kind == "autoclip" else ZClip(0.9, 1.0, 3)

    through, first, second = new(), new(), new()
    expected = run(through, norms)
    run(first, norms[:at])
    second.load_state_dict(first.state_dict())
    assert run(second, norms[at:]) == expected[at:]


def test_a_shorter_window_takes_the_last_norms_of_a_checkpoint():
    long, short = AutoClip(0, 6), AutoClip(0, 2)
    run(long, [1.0, 5.0, 6.0, 7.0])
    short.load_state_dict(long.state_dict())
    assert run(short, [8.0, 9.0]) == [7.0, 8.0]
    longer = AutoClip(0, 9)
    longer.load_state_dict(long.state_dict())
    assert run(longer, [8.0]) == [1.0]


# -- refusals --------------------------------------------------------------------------------------


@pytest.mark.parametrize("callback", [AutoClip, ZClip])
def test_what_clips_already_is_refused(train, tiny, callback):
    class Own(tiny):
        def configure_gradient_clipping(self, *_, **__):
            pass

    engine = type("Engine", (Precision,), {"clip_gradients": lambda *_: None})()
    name = callback.__name__
    for model, options, others, message in (
        (tiny, {"gradient_clip_val": 0.5}, [], f"{name} and gradient_clip_val=0.5, which both clip"),
        (ManualOptimBoringModel, {}, [], f"{name} and ManualOptimBoringModel, which optimizes manually"),
        (Own, {}, [], f"{name} and Own.configure_gradient_clipping, which both clip"),
        (tiny, {"plugins": [engine]}, [], f"{name} under Engine, which clips in its own way"),
        (
            tiny,
            {},
            [ZClip()] if callback is AutoClip else [AutoClip()],
            "which both clip: remove one of them",
        ),
    ):
        with pytest.raises(InputError, match=message):
            train(model, callback(), *others, **options)


def test_validation_alone_needs_nothing_of_that(train, tiny, quiet_trainer):
    trainer = quiet_trainer(callbacks=[AutoClip(), GradientClippingMonitor()], gradient_clip_val=1.0)
    trainer.validate(tiny(), verbose=False)


@pytest.mark.parametrize(
    ("make_callback", "message"),
    [
        (lambda: AutoClip(101), "percentile=101, expected 0 to 100"),
        (lambda: AutoClip(-1), "percentile=-1"),
        (lambda: AutoClip(window=0), "window=0, expected at least 1"),
        (lambda: ZClip(alpha=1.0), "alpha=1.0, expected between 0 and 1"),
        (lambda: ZClip(alpha=0.0), "alpha=0.0"),
        (lambda: ZClip(z=0), "z=0, expected above 0"),
        (lambda: ZClip(warmup_steps=1), "warmup_steps=1, expected at least 2"),
        (lambda: ZClip(max_norm=0), "max_norm=0, expected above 0 or None"),
        (lambda: AutoClip(math.nan), "percentile=nan"),
        (lambda: ZClip(z=math.nan), "z=nan"),
    ],
)
def test_impossible_options_are_refused(make_callback, message):
    with pytest.raises(InputError, match=message):
        make_callback()
