import pytest
import torch
from lightning.pytorch import LightningDataModule
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger
from torch.utils.data import DataLoader

from lightning_seq.__main__ import main
from lightning_seq.callbacks import AttentionLogger, SampleLogger
from lightning_seq.data.tokenization.id_names import names_tokenizer
from lightning_seq.errors import InputError
from lightning_seq.models import TransformerLanguageModel


def test_appends_every_sample_under_its_step_and_loss(train, writer, tmp_path):
    callback = SampleLogger("Once ", max_new_tokens=7, top_k=3)
    trainer, _ = train(writer, callback, max_steps=8, logger=CSVLogger(tmp_path, "", ""))
    text = (tmp_path / "samples.txt").read_text(encoding="utf-8")
    assert text.count("Once ünd so weiter\n\n") == 2
    assert text.startswith("=== step 4, val_loss ")
    assert f"=== step 8, val_loss {trainer.callback_metrics['val_loss']:.3f} ===\nOnce " in text
    assert callback.last == "Once ünd so weiter"
    assert trainer.lightning_module.options == {
        "max_new_tokens": 7,
        "temperature": 0.8,
        "top_k": 3,
        "top_p": None,
        "seed": 0,
    }


def test_without_a_logger_the_root_directory_keeps_them(train, writer, tmp_path):
    train(writer, SampleLogger())
    assert (tmp_path / "samples.txt").exists()


def test_a_validation_without_a_loss_is_named_by_its_step(train, writer, tmp_path):
    class Lossless(writer):
        def validation_step(self, batch, batch_idx):
            pass

    train(Lossless, SampleLogger())
    assert (tmp_path / "samples.txt").read_text(encoding="utf-8").startswith("=== step 4 ===\n")


def test_weights_are_bit_identical(train, writer):
    _, without = train(writer)
    _, with_it = train(writer, SampleLogger())
    assert torch.equal(without, with_it)


def test_tensorboard_gets_the_lines_as_they_are(train, writer, tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    logger = TensorBoardLogger(tmp_path, "", "")
    train(writer, SampleLogger("a\nb "), logger=logger)
    events = EventAccumulator(logger.log_dir).Reload()
    (event,) = events.Tensors("samples/text_summary")
    assert event.step == 3  # where Lightning logs the loss of that validation
    assert event.tensor_proto.string_val[0].decode() == "    a\n    b ünd so weiter\n"
    assert (tmp_path / "samples.txt").exists()


def test_a_model_that_cannot_write_is_refused_by_name(train, tiny):
    with pytest.raises(InputError, match="SampleLogger got TinyModel, which has no generate"):
        train(tiny, SampleLogger())


def test_fast_dev_run_leaves_no_file(train, writer, tmp_path):
    train(writer, SampleLogger(), fast_dev_run=True)
    assert not (tmp_path / "samples.txt").exists()


@pytest.mark.parametrize(
    "options", [{"max_new_tokens": 0}, {"temperature": -1.0}, {"top_k": 0}, {"top_p": 0.0}, {"top_p": 1.5}]
)
def test_impossible_options_are_refused(options):
    (name,) = options
    with pytest.raises(InputError, match=f"{name}(=| is )"):
        SampleLogger(**options)


class IdsAlone(LightningDataModule):
    """Somebody's data: ids, and no way to write them."""

    def train_dataloader(self):
        rows = torch.arange(200).reshape(8, 25) % 7
        rows = [{"inputs": row[:-1], "targets": row[1:]} for row in rows]
        return DataLoader(rows, batch_size=2)

    val_dataloader = train_dataloader


@pytest.fixture
def model():
    return TransformerLanguageModel(7, embedding_dim=8, num_layers=1, num_heads=2, context_length=24)


@pytest.fixture
def fit(quiet_trainer, tmp_path):
    def fit(model, *callbacks):
        trainer = quiet_trainer(
            max_steps=2,
            val_check_interval=1,
            callbacks=list(callbacks),
            logger=CSVLogger(tmp_path, "", ""),
            log_every_n_steps=1,
        )
        trainer.fit(model, IdsAlone())
        return trainer

    return fit


@pytest.mark.filterwarnings("ignore:The '.*_dataloader' does not have many workers")
def test_without_a_tokenizer_ids_are_written_as_numbers(fit, model, tmp_path, caplog, capsys):
    caplog.set_level("INFO", "lightning.pytorch")
    sampler = SampleLogger(max_new_tokens=5)
    trainer = fit(model, sampler, AttentionLogger())
    trainer.save_checkpoint(tmp_path / "a.ckpt")
    _, first, _, _, second, *_ = (tmp_path / "samples.txt").read_text().splitlines()
    for line in (first, second):
        assert line.startswith("0 1 2 3 4 5 6 0 ")
        assert len(line.split()) == 13
        assert all(0 <= int(word) < 7 for word in line.split())
    assert caplog.text.count("cannot read the prompt") == 1
    assert len(list((tmp_path / "figures").glob("attention_heads-*.png"))) == 2
    line = ["generate", "--checkpoint", str(tmp_path / "a.ckpt"), "--max_new_tokens=3"]
    assert main([*line, "--prompt=3 4"]) == 0
    said = capsys.readouterr().out.split()
    assert (said[:2], len(said)) == (["3", "4"], 5)
    assert main([*line, "--prompt=3 7"]) == 1
    assert capsys.readouterr().err == (
        "error: the prompt has '7', and this model has no tokenizer: give ids from 0 to 6, such as '0 1 0'\n"
    )
    assert main(line) == 1
    assert "the prompt has no token" in capsys.readouterr().err


@pytest.mark.filterwarnings("ignore:The '.*_dataloader' does not have many workers")
def test_ids_may_be_the_prompt(fit, model, tmp_path):
    fit(model, SampleLogger("6 5", max_new_tokens=2))
    assert (tmp_path / "samples.txt").read_text().splitlines()[1].startswith("6 5 ")


@pytest.mark.filterwarnings("ignore:The '.*_dataloader' does not have many workers")
def test_names_of_ids_are_known_to_the_prompt(fit, model, tmp_path, caplog, capsys):
    caplog.set_level("INFO", "lightning.pytorch")
    model.tokenizer = names_tokenizer(["do", "re", "mi", "fa", "sol", "la", "si"])
    trainer = fit(model, SampleLogger("ut re", max_new_tokens=2))
    assert "cannot read the prompt 'ut re'; samples go on from the validation data: do re mi" in caplog.text
    assert (tmp_path / "samples.txt").read_text().splitlines()[1].startswith("do re mi fa sol la si do ")
    trainer.save_checkpoint(tmp_path / "a.ckpt")
    line = ["generate", "--checkpoint", str(tmp_path / "a.ckpt"), "--max_new_tokens=3"]
    assert main([*line, "--prompt=re si"]) == 0
    assert capsys.readouterr().out.startswith("re si ")
    assert main([*line, "--prompt=do ut"]) == 1
    assert capsys.readouterr().err == (
        "error: the prompt has 'ut', which names no id; there are 7 names, such as do re mi fa sol la si\n"
    )
