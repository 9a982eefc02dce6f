import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from lightning.pytorch import LightningModule, Trainer, seed_everything
from lightning.pytorch.strategies import ModelParallelStrategy
from torch import nn
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor
from torch.distributed.tensor.parallel import ColwiseParallel, RowwiseParallel, parallelize_module
from torch.utils.data import DataLoader

from lightning_seq.callbacks import AutoClip, GradientClippingMonitor, ZClip
from tests.ranks import run_ranks

SCRIPT = """
import importlib.util, sys, warnings
import torch
from lightning.pytorch import Trainer, seed_everything
from lightning.pytorch.loggers import CSVLogger
from lightning_seq.callbacks import AttentionLogger, GradientClippingMonitor, ProgressBar, SampleLogger

warnings.filterwarnings("error", message=".*attention.*sync_dist.*")
spec = importlib.util.spec_from_file_location("tiny", sys.argv[1])
tiny = importlib.util.module_from_spec(spec)
sys.modules["tiny"] = tiny
spec.loader.exec_module(tiny)

def fit(callbacks, folder):
    seed_everything(1)
    trainer = Trainer(
        accelerator="cpu", devices=2, strategy="ddp_fork", max_steps=4, val_check_interval=2,
        logger=CSVLogger(folder, "", ""), log_every_n_steps=1, enable_checkpointing=False,
        gradient_clip_val=0.2, default_root_dir=folder, callbacks=callbacks,
    )
    model = tiny.Writer()
    trainer.fit(model)
    return torch.cat([p.detach().flatten() for p in model.parameters()])

watchers = [AttentionLogger(), GradientClippingMonitor(), SampleLogger(), ProgressBar()]
assert torch.equal(fit([], sys.argv[2] + "/without"), fit(watchers, sys.argv[2] + "/with"))
"""


@pytest.mark.slow
def test_two_ranks_train_the_same_and_one_of_them_writes(tmp_path):
    conftest = Path(__file__).with_name("conftest.py")
    command = [sys.executable, "-c", SCRIPT, str(conftest), str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=200, cwd=tmp_path, check=False)
    assert done.returncode == 0, done.stderr
    folder = tmp_path / "with"
    assert (folder / "samples.txt").read_text(encoding="utf-8").count("===\n") == 2
    assert len(list((folder / "figures").glob("attention_heads-*.png"))) == 2
    assert len(list((folder / "figures").glob("grad_clipping-*.png"))) == 1
    header = (folder / "metrics.csv").read_text().splitlines()[0].split(",")
    assert {"grad/norm", "grad/clipped_share", "attention/entropy"} <= set(header)


# -- gradients that are spread over ranks ----------------------------------------------------------

STEPS, ROWS = 6, 8


class Layers(LightningModule):
    """Layers whose weights are whole, sharded (FSDP2), or half of them tensor parallel, as the mesh says."""

    def __init__(self, sizes=(12, 16, 16, 5)):
        super().__init__()
        self.sizes, self.net, self.seen = sizes, None, []

    def configure_model(self):
        if self.net is not None:
            return
        torch.manual_seed(0)
        pairs = zip(self.sizes, self.sizes[1:], strict=False)
        self.net = nn.Sequential(*(nn.Linear(a, b) for a, b in pairs))
        mesh = getattr(self, "_device_mesh", None)
        if mesh is None:
            return
        if mesh["tensor_parallel"].size() > 1:  # and the last layer stays as it is
            plan = {"0": ColwiseParallel(), "1": RowwiseParallel()}
            parallelize_module(self.net, mesh["tensor_parallel"], plan)
        if mesh["data_parallel"].size() > 1:
            for layer in self.net:
                fully_shard(layer, mesh=mesh["data_parallel"])
            fully_shard(self.net, mesh=mesh["data_parallel"])

    def train_dataloader(self):
        return DataLoader(range(100), batch_size=1)

    def training_step(self, batch, batch_idx):
        generator = torch.Generator().manual_seed(int(batch))
        x, y = (torch.randn(ROWS, size, generator=generator) for size in (self.sizes[0], self.sizes[-1]))
        share = self.trainer.distributed_sampler_kwargs or {"num_replicas": 1, "rank": 0}
        mesh = getattr(self, "_device_mesh", None)
        if mesh is not None and mesh["tensor_parallel"].size() > 1:
            share = {"num_replicas": 1, "rank": 0}
        x, y = (each.chunk(share["num_replicas"])[share["rank"]] for each in (x, y))
        for layer in self.net[:-1]:
            x = torch.tanh(layer(x))
        return F.mse_loss(self.net[-1](x), y) * (3 if int(batch) % 2 else 1)

    def on_train_batch_end(self, *_):
        self.seen.append({n: whole(p) for n, p in self.named_parameters()})

    def configure_optimizers(self):
        self.seen = [{n: whole(p) for n, p in self.named_parameters()}]
        return torch.optim.SGD(self.parameters(), 0.1, momentum=0.5)


def whole(parameter):
    parameter = parameter.detach()
    return (parameter.full_tensor() if isinstance(parameter, DTensor) else parameter).clone()


def make_callbacks(kind):
    monitor = GradientClippingMonitor(group_by="parameter")
    return {
        "none": [],
        "monitor": [monitor],
        "autoclip": [AutoClip(40), monitor],
        "autoclip alone": [AutoClip(40)],
        "zclip": [monitor, ZClip(0.9, 0.5, 3)],
    }[kind]


def fit(strategy, kinds, sizes=(12, 16, 16, 5), tensor_parallel=False, **options):
    """Trains once for each kind of callbacks; returns weights, what was logged, and weights at each step."""
    found = {}
    for kind in kinds:
        world = torch.distributed.get_world_size() if torch.distributed.is_initialized() else None
        made = strategy
        if strategy == "fsdp2":
            parallel = {"data_parallel_size": 2, "tensor_parallel_size": 1}
            if tensor_parallel:
                parallel = {"data_parallel_size": 1, "tensor_parallel_size": 2}
            made = ModelParallelStrategy(**parallel, save_distributed_checkpoint=False)
        seed_everything(1, verbose=False)
        callbacks = make_callbacks(kind)
        trainer = Trainer(
            accelerator="cpu",
            devices=1 if strategy == "auto" else 2,
            strategy=made,
            max_steps=STEPS,
            log_every_n_steps=1,
            use_distributed_sampler=False,  # every rank takes its rows of the same batch
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            callbacks=callbacks,
            **options,
        )
        model = Layers(sizes)
        trainer.fit(model)
        histories = [c.history for c in callbacks if isinstance(c, GradientClippingMonitor)]
        found[kind] = {
            "weights": model.seen[-1],
            "seen": model.seen,
            "history": histories[0] if histories else None,
            "sharded": any(isinstance(p, DTensor) for p in model.parameters()),
            "world": world,
        }
    return found


def close(history, other, **tolerance):
    assert len(history) == len(other) == STEPS
    for one, two in zip(history, other, strict=True):
        assert one == pytest.approx(two, **tolerance)


MODES = {
    "norm": {"gradient_clip_val": 0.5},
    "value": {"gradient_clip_val": 0.05, "gradient_clip_algorithm": "value"},
    "no clipping": {},
    "accumulated": {"gradient_clip_val": 0.5, "accumulate_grad_batches": 2},
}
KINDS = ["none", "monitor", "autoclip", "autoclip alone", "zclip"]


def fit_all(strategy, modes, **options):
    return {
        mode: fit(strategy, KINDS if mode == "no clipping" else KINDS[:2], **MODES[mode], **options)
        for mode in modes
    }


@pytest.mark.slow
@pytest.mark.parametrize("strategy", ["ddp", "fsdp2"])
@pytest.mark.filterwarnings("ignore:The '.*_dataloader' does not have many workers")
def test_norms_of_two_ranks_are_those_of_one_process(strategy):
    modes = [mode for mode in MODES if (strategy, mode) != ("fsdp2", "value")]
    ranks = run_ranks(fit_all, strategy, modes)
    alone = fit_all("auto", modes)
    for mode in modes:
        for kind in ("monitor", "autoclip", "zclip"):
            if kind not in alone[mode]:
                continue
            first, second = (rank[mode][kind] for rank in ranks)
            assert first["sharded"] == (strategy == "fsdp2")
            assert first["history"] == second["history"]
            close(first["history"], alone[mode][kind]["history"], rel=1e-5, abs=1e-7)
            assert mode == "no clipping" or 0 < first["history"][-1]["grad/clipped_share"] <= 1
            for step, row in enumerate(first["history"]):  # the truth: weights before and after, put together
                before, after = (
                    first["seen"][-STEPS - 1 :][step : step + 2]
                    if mode != "accumulated"
                    else (
                        first["seen"][2 * step],
                        first["seen"][2 * step + 2],
                    )
                )
                for name in before:
                    moved = float((after[name] - before[name]).norm() / before[name].norm())
                    assert row[f"grad/update_ratio/{name}"] == pytest.approx(moved, rel=1e-3)
        for rank in ranks:
            for name, weight in rank[mode]["none"]["weights"].items():
                assert torch.equal(weight, rank[mode]["monitor"]["weights"][name])
            if mode == "no clipping":
                for name, weight in rank[mode]["autoclip alone"]["weights"].items():
                    assert torch.equal(weight, rank[mode]["autoclip"]["weights"][name])
                    assert not torch.equal(weight, rank[mode]["none"]["weights"][name])


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:The '.*_dataloader' does not have many workers")
def test_weights_that_some_ranks_share_and_others_hold_in_part(tmp_path):
    """Tensor parallel with a layer that stays whole: torch cannot clip that, but it trains unclipped."""
    ranks = run_ranks(fit, "fsdp2", ["none", "monitor"], tensor_parallel=True)
    alone = fit("auto", ["monitor"])
    for rank in ranks:
        assert rank["monitor"]["sharded"]
        for name, weight in rank["none"]["weights"].items():
            assert torch.equal(weight, rank["monitor"]["weights"][name])
        close(rank["monitor"]["history"], alone["monitor"]["history"], rel=1e-4, abs=1e-6)


@pytest.mark.filterwarnings("ignore:The '.*_dataloader' does not have many workers")
def test_shards_that_are_uneven_or_empty_are_measured():
    """A last layer of one output: one rank holds its only row."""
    options = {"sizes": (12, 15, 1), "gradient_clip_val": 0.5}
    first, second = run_ranks(fit, "fsdp2", ["monitor"], **options)
    alone = fit("auto", ["monitor"], **options)
    assert first["monitor"]["history"] == second["monitor"]["history"]
    close(first["monitor"]["history"], alone["monitor"]["history"], rel=1e-5, abs=1e-7)
