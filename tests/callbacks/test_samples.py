import pytest
import torch
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger

from lightning_seq.callbacks import SampleLogger
from lightning_seq.errors import InputError


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
    assert event.step == 4
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
