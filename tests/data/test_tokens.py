from itertools import chain

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import lightning_seq
from lightning_seq.callbacks import AttentionLogger, LastCheckpoint, SampleLogger
from lightning_seq.data import TextDataModule, TokenDataModule
from lightning_seq.data.sources.documents import SPLITS
from lightning_seq.data.sources.token_sources import from_file, from_python, pieces
from lightning_seq.errors import InputError
from lightning_seq.models import LSTMLanguageModel, TransformerLanguageModel

DTYPES = ["int8", "uint8", "int16", "uint16", "int32", "uint32", "int64", "uint64", ">i4"]
SEQUENCES = [[1, 2, 3], [4], [5, 6, 7, 8], [], *([9, 10, 11] for _ in range(6))]


@pytest.fixture
def make(tmp_path):
    def make(path, **options):
        path = path if isinstance(path, list | np.ndarray) else str(path)
        return TokenDataModule(path, **{"cache_dir": str(tmp_path / "cache"), **options})

    return make


def flat(sequences):
    return list(chain.from_iterable(sequences))


def stored(data, split="train"):
    """What is in the store, sequence by sequence."""
    data.prepare_data()
    store = data._store(split)
    return [part.tolist() for part in np.split(store.tokens, store.documents[1:-1])] if len(store) else []


def everything(data):
    return [sequence for split in SPLITS for sequence in stored(data, split)]


def write_parquet(path, sequences, type_=None, **options):
    pq.write_table(
        pa.table({"other": [0] * len(sequences), "tokens": pa.array(sequences, type_)}), path, **options
    )


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=30)
@given(
    st.lists(st.lists(st.integers(0, 100), max_size=6), min_size=1, max_size=8).filter(any),
    st.sampled_from(DTYPES),
)
def test_ids_in_are_ids_out(make, sequences, dtype):
    data = make([np.array(each, dtype) for each in sequences], vocab_size=101)
    out = everything(data)
    assert flat(out) == flat(sequences)
    if len(list(filter(None, sequences))) >= 3:
        assert out == list(filter(None, sequences))


@pytest.mark.parametrize("dtype", DTYPES)
def test_every_dtype_comes_out_of_the_loader(make, tmp_path, dtype):
    ids = np.arange(100).astype(dtype)
    np.save(tmp_path / "ids.npy", ids)
    data = make(tmp_path / "ids.npy", batch_size=2, context_length=5, batching="blocks", vocab_size=100)
    assert flat(everything(data)) == list(range(100))
    batches = list(data.train_dataloader())
    seen = sorted(torch.cat([batch["inputs"].flatten() for batch in batches]).tolist())
    assert all(torch.equal(batch["inputs"] + 1, batch["targets"]) for batch in batches)
    assert len(set(seen)) == len(seen) == 80
    assert batches[0]["inputs"].dtype == torch.int64


def test_large_vocabularies_are_stored_in_32_bits(make):
    data = make([[0, 70_000, 3], [1], [2]])
    assert data.vocab_size == 70_001
    assert everything(data) == [[0, 70_000, 3], [1], [2]]


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(
    st.lists(st.lists(st.integers(0, 9), max_size=4), min_size=1, max_size=9),
    st.integers(1, 4),
    st.data(),
)
def test_any_part_of_any_file_is_read_with_its_place(tmp_path, sequences, group, data):
    write_parquet(tmp_path / "a.parquet", sequences, pa.list_(pa.int16()), row_group_size=group)
    sources = [from_file(tmp_path / "a.parquet", "tokens"), from_python(sequences, "path")]
    ids = flat(sequences) * 2
    stop = data.draw(st.integers(0, len(ids)))
    start = data.draw(st.integers(0, stop))
    found = list(pieces(sources, start, stop))
    assert flat(piece.ids.tolist() for piece in found) == ids[start:stop]
    for piece in found:
        part = sequences[piece.sequence][piece.position :]
        assert piece.ids.tolist() == part[: len(piece.ids)]


def test_rows_of_an_array(make, tmp_path):
    rows = np.arange(40).reshape(8, 5)
    np.save(tmp_path / "rows.npy", np.asfortranarray(rows))
    data = make(tmp_path / "rows.npy", vocab_size=40)
    assert everything(data) == everything(make(rows, vocab_size=40)) == rows.tolist()
    assert [len(stored(data, split)) for split in SPLITS] == [6, 1, 1]
    assert data.vocab_size == 40


def test_directories_and_globs(make, tmp_path):
    for i in range(4):
        np.save(tmp_path / f"{i}.npy", np.array([i, i, i], np.uint8))
    write_parquet(tmp_path / "4.parquet", [[4], [4, 4]])
    (tmp_path / "notes.txt").write_text("no ids")
    expected = [[0] * 3, [1] * 3, [2] * 3, [3] * 3, [4], [4] * 2]
    assert everything(make(tmp_path, vocab_size=5)) == expected
    assert everything(make(tmp_path / "*.npy", vocab_size=5)) == expected[:4]
    with pytest.raises(InputError, match=r"notes\.txt' is neither a \.npy nor a \.parquet file"):
        _ = make(tmp_path / "notes.txt").vocab_size


@pytest.mark.parametrize(
    "type_", [pa.list_(pa.uint8()), pa.large_list(pa.int64()), pa.list_(pa.int32(), 3)], ids=str
)
def test_columns_of_lists(make, tmp_path, type_):
    sequences = [[i, i + 1, i + 2] for i in range(20)]
    pq.write_table(pa.table({"events": pa.array(sequences, type_)}), tmp_path / "a.parquet", row_group_size=7)
    data = make(tmp_path / "a.parquet", column="events", vocab_size=22)
    assert everything(data) == sequences
    with pytest.raises(InputError, match=r"no column 'event' \(did you mean 'events'\?\)"):
        _ = make(tmp_path / "a.parquet", column="event").vocab_size


def test_a_single_sequence_is_cut(make):
    data = make([list(range(1000))], vocab_size=1000)
    assert [flat(stored(data, split)) for split in SPLITS] == [
        list(range(900)),
        list(range(900, 950)),
        list(range(950, 1000)),
    ]


def test_splits_of_their_own(make, tmp_path):
    for i in range(4):
        np.save(tmp_path / f"{i}.npy", np.array([i, i]))
    data = make(tmp_path, val_path=str(tmp_path / "1.npy"), test_path=[[0], [3, 2]], vocab_size=4)
    assert [stored(data, split) for split in SPLITS] == [[[0, 0], [2, 2], [3, 3]], [[1, 1]], [[0], [3, 2]]]
    with pytest.raises(InputError, match="is left for training"):
        _ = make(tmp_path / "1.npy", val_path=str(tmp_path / "1.npy")).vocab_size
    file = str(tmp_path / "1.npy")
    with pytest.raises(InputError, match=r"val_path and test_path both have '.*1\.npy'"):
        _ = make(tmp_path, val_path=file, test_path=file).vocab_size


def test_only_the_training_sequences_make_the_vocabulary(make):
    data = make([[0, 1], [1, 2]], val_path=[[0], [2, 7, 8]], test_path=[[0]])
    assert data.vocab_size == 3
    said = (
        "the id at position 1 of sequence 1 of 'val_path' is 7; ids are from 0 to 2: mend it, or give a "
        "larger vocab_size, by default one more than the largest training id"
    )
    with pytest.raises(InputError, match=said):
        data.prepare_data()
    make([[0, 1], [1, 2]], val_path=[[2, 7, 8]], test_path=[[0]], vocab_size=9).prepare_data()


@pytest.mark.parametrize(
    ("sequences", "said"),
    [
        ([[0, 1], [2, -1]], "position 1 of sequence 1 of 'path' is -1; ids are from 0"),
        ([[0], [1.5]], r"position 0 of sequence 1 of 'path' is 1.5 \(float\); ids are integers"),
        ([[0], [1, True]], r"position 1 of sequence 1 of 'path' is True \(bool\)"),
        ([np.array([True])], r"position 0 of sequence 0 of 'path' is True \(bool\)"),
        ([[0], [3, None]], r"position 1 of sequence 1 of 'path' is None \(NoneType\); ids are integers"),
        ([[3, "a"]], r"position 1 of sequence 0 of 'path' is 'a' \(str\); ids are integers"),
        ([[3, 4, 1.5]], r"position 2 of sequence 0 of 'path' is 1.5 \(float\); ids are integers"),
        ([(3, np.True_)], r"position 1 of sequence 0 of 'path' is True \(bool\)"),
        ([np.array([3, None])], r"position 1 of sequence 0 of 'path' is None \(NoneType\)"),
        ([[2**70]], r"position 0 of sequence 0 of 'path' is 11805\d+; ids are from 0 to 4,194,303"),
        ([[1, 2**70]], r"position 1 of sequence 0 of 'path' is 11805\d+; ids are from 0 to 4,194,303"),
        ([[1, 2**63, -1]], r"position 1 of sequence 0 of 'path' is 9223372036854775808; ids are from 0"),
        (
            [[10**12]],
            "position 0 of sequence 0 of 'path' is 1000000000000; ids are from 0 to 4,194,303: renumber",
        ),
        ([["a"]], "position 0 of sequence 0 of 'path' is 'a'"),
        ([1, 2], "sequence 0 of 'path' is '1', no sequence of ids; give a list of sequences"),
        ([[1], [[2]]], r"sequence 1 of 'path' is '\[\[2\]\]', no sequence"),
        ([[1], [2, [3]]], r"sequence 1 of 'path' is '\[2, \[3\]\]', no sequence"),
        ([[], []], "there is no id in 2 sequences from Python"),
        ([], "there is no id in 0 sequences from Python"),
    ],
)
def test_what_is_no_id_is_refused_with_its_place(make, sequences, said):
    with pytest.raises(InputError, match=said) as raised:
        _ = make(sequences).vocab_size
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("given", [{"vocab_size": 4}, {"names": ["a", "b", "c", "d"]}])
def test_an_id_outside_a_given_vocabulary(make, given):
    with pytest.raises(
        InputError, match="position 2 of sequence 0 of 'path' is 4; ids are from 0 to 3: mend"
    ):
        make([[0, 1, 4]], **given).prepare_data()


@pytest.mark.parametrize(
    ("save", "said"),
    [
        (lambda file: np.save(file, np.zeros(3)), r"0 of sequence 0 of '.*ids\.npy' is 0.0 \(float\)"),
        (lambda file: np.save(file, np.zeros(3, bool)), r"ids\.npy' is False \(bool\)"),
        (lambda file: np.save(file, np.array(3)), "holds 0 dimensions; give one sequence"),
        (lambda file: np.save(file, np.zeros((1, 1, 1), int)), "holds 3 dimensions"),
        (lambda file: np.save(file, np.array([{}]), allow_pickle=True), "holds no array of numbers"),
        (lambda file: file.write_bytes(b"hello"), "holds no array of numbers, or is cut short"),
        (lambda file: file.write_bytes(b""), "holds no array of numbers, or is cut short"),
        (lambda file: np.save(file, np.zeros(0, int)), r"there is no id in .*ids\.npy; give sequences"),
    ],
)
def test_bad_arrays(make, tmp_path, save, said):
    save(tmp_path / "ids.npy")
    with pytest.raises(InputError, match=said):
        _ = make(tmp_path / "ids.npy").vocab_size


def test_bad_tables(make, tmp_path):
    file = tmp_path / "ids.parquet"
    file.write_bytes(b"hello")
    with pytest.raises(InputError, match=r"cannot read '.*ids\.parquet' \(.*\); give a whole \.parquet file"):
        _ = make(file).vocab_size
    for sequences, said in (
        ([[1.5]], "holds list<.*: double>, not lists of integers; column can be one of"),
        ([1, 2], "holds int64, not lists of integers"),
        ([[1], None, [2]], r"sequence 1 of '.*ids\.parquet' has a null"),
        ([[1], [2], [3, None]], r"sequence 2 of '.*ids\.parquet' has a null"),
        ([[1], [2], [3, -4]], r"position 1 of sequence 2 of '.*ids\.parquet' is -4"),
    ):
        write_parquet(file, sequences)
        with pytest.raises(InputError, match=said):
            everything(make(file, vocab_size=5))


def test_names(make, tmp_path):
    (tmp_path / "names.txt").write_text("A\r\nC\r\nG\r\nT\r\n", newline="")
    for names in (["A", "C", "G", "T"], str(tmp_path / "names.txt")):
        data = make([[0, 1], [2, 3], [1, 1], [2]], names=names)
        assert data.vocab_size == 4
        assert data.tokenizer.encode("G A T C").ids == [2, 0, 3, 1]
        assert list(data.documents("train")) == ["A C", "G T"]
        assert data.characters_per_token is None
    assert make([[0, 11]]).tokenizer.decode([11, 0]) == "11 0"
    with pytest.raises(InputError, match="the list has 2 names and vocab_size is 3; give a name for each id"):
        _ = make([[0]], names=["a", "b"], vocab_size=3).tokenizer
    with pytest.raises(InputError, match=r"no file 'nowhere\.txt' with the names of ids"):
        _ = make([[0]], names="nowhere.txt").vocab_size
    with pytest.raises(InputError, match="ids 0 and 1 are both named 'a'"):
        _ = make([[0]], names=["a", "a"]).tokenizer


@pytest.mark.parametrize("newline", ["\n", "\r\n"])
def test_a_name_is_a_line_and_nothing_else_parts_names(make, tmp_path, newline):
    file = tmp_path / "names.txt"
    for end in ("", newline):
        file.write_text(newline.join(["A", "C", "G"]) + end, encoding="utf-8", newline="")
        assert make([[0, 1]], names=str(file)).tokenizer.decode([2, 1, 0]) == "G C A"
    for separator in ("\u2028", "\x85", "\x0b", "\x1c"):
        file.write_text(newline.join(["A", f"C{separator}D", "G"]), encoding="utf-8", newline="")
        with pytest.raises(InputError, match=r"the name of id 1 is 'C.*D', more than one word"):
            _ = make([[0, 1]], names=str(file)).vocab_size
    file.write_text("", encoding="utf-8")
    with pytest.raises(InputError, match="there are no names of ids"):
        _ = make([[0, 1]], names=str(file)).vocab_size


def test_names_that_are_no_strings_are_refused_before_anything_is_read(make):
    with pytest.raises(InputError, match=r"the name of id 0 is 1 \(int\), no string; give '1'"):
        make("nowhere.npy", names=[1, 2]).prepare_data()


def test_paths_are_taken_as_strings(tmp_path):
    np.save(tmp_path / "ids.npy", np.arange(4)[None])
    np.save(tmp_path / "held_out.npy", np.arange(2))
    (tmp_path / "names.txt").write_text("A\nC\nG\nT\n")
    paths = {"path": "ids.npy", "val_path": "held_out.npy", "names": "names.txt"}
    paths = {name: tmp_path / file for name, file in paths.items()}
    data = TokenDataModule(**paths, cache_dir=str(tmp_path / "cache"))
    assert {name: data.hparams[name] for name in paths} == {name: str(path) for name, path in paths.items()}
    assert stored(data, "validation") == [[0, 1]]
    assert data.tokenizer.decode([3]) == "T"
    again = TokenDataModule(**data.hparams)  # as from a checkpoint
    assert again.describe() == data.describe()


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"path": None}, r"path is None \(NoneType\); give a path, or a list of sequences of integers"),
        ({"path": 5}, r"path is 5 \(int\); give a path"),
        ({"path": {"a": [1]}}, r"path is {'a': \[1\]} \(dict\); give a path"),
        ({"path": np.array(5)}, r"path is 5 \(ndarray\); give a path"),
        ({"path": (each for each in [[1]])}, r"path is <generator .* \(generator\); give a path"),
        ({"val_path": {1, 2}}, r"val_path is {1, 2} \(set\); give a path"),
        (
            {"tokenizer": "byte"},
            "tokenizer is 'byte', and TokenDataModule has ids, no text to tokenize; leave",
        ),
        ({"num_proc": 2}, "num_proc is 2, and TokenDataModule has ids"),
        ({"vocab_size": 3.0}, r"vocab_size is 3\.0 \(float\); it must be an int, at least 1"),
    ],
)
def test_natural_mistakes_are_refused_at_once(options, said):
    with pytest.raises(InputError, match=said) as refusal:
        TokenDataModule(**{"path": [[1]], **options})
    assert "\n" not in str(refusal.value)


def test_a_checkpoint_with_other_ids_is_refused(make):
    data = make([[0, 1]], vocab_size=3)
    data.adopt_tokenizer(make([[2, 0]]).tokenizer.to_str())
    with pytest.raises(
        InputError, match=r"on other ids \(2: 0 1\) than those of .* \(3: 0 1 2\); give the names"
    ):
        data.adopt_tokenizer(make([[1, 0]]).tokenizer.to_str())


def test_the_fingerprint_is_of_ids_and_of_sequences(make, tmp_path):
    np.save(tmp_path / "ids.npy", np.array([[1, 2], [3, 4], [5, 6]], np.uint8))
    same = [make(tmp_path / "ids.npy"), make([[1, 2], [3, 4], [5, 6]])]
    assert same[0].fingerprint("train") == same[1].fingerprint("train")
    first = make([[1, 2], [3, 4], [5], [6]], val_path=[[1]], test_path=[[1]]).fingerprint("train")
    other = make([[1, 2, 3], [4], [5], [6]], val_path=[[1]], test_path=[[1]]).fingerprint("train")
    assert first != other


def test_sequences_stay_out_of_the_hyperparameters(make):
    data = make([[0, 1], [2]], val_path=np.zeros((1, 3), int), names=["a", "b", "c"], batch_size=3)
    assert {"path", "val_path"}.isdisjoint(data.hparams)
    assert (data.hparams["batch_size"], data.hparams["names"]) == (3, ["a", "b", "c"])
    assert make("somewhere.npy").hparams["path"] == "somewhere.npy"


def test_nothing_is_read_before_it_is_needed(make, tmp_path):
    data = make(tmp_path / "nowhere.npy", names=str(tmp_path / "nowhere.txt"))
    assert not (tmp_path / "cache").exists()
    with pytest.raises(InputError, match="nowhere"):
        data.prepare_data()


def test_text_takes_a_tokenizer(tmp_path):
    with pytest.raises(InputError, match="TextDataModule has text, and its tokenizer is None; give one"):
        _ = TextDataModule(tokenizer=None, cache_dir=str(tmp_path)).vocab_size


def test_the_command_line_reaches_the_arguments(tmp_path):
    from jsonargparse import ArgumentError, ArgumentParser

    parser = ArgumentParser(exit_on_error=False)
    parser.add_subclass_arguments(TokenDataModule, "data")
    line = ["--data=TokenDataModule", "--data.path=a.npy", "--data.batch_size=8", "--data.names=names.txt"]
    data = parser.instantiate(parser.parse_args(line)).data
    assert (data.batch_size, data.names, data.describe()) == (8, "names.txt", "a.npy")
    data = parser.instantiate(parser.parse_args([*line[:2], "--data.names=[a,b]"])).data
    assert data.names == ["a", "b"]
    for hidden in ("tokenizer=byte", "num_proc=2", "max_vocab_size=3"):
        with pytest.raises(ArgumentError):
            parser.parse_args([*line, f"--data.{hidden}"])


OPTIONS = {"batch_size": 2, "context_length": 8, "vocab_size": 12}


@pytest.mark.parametrize("batching", ["contiguous", "blocks", "documents"])
def test_resumes_exactly(make, quiet_trainer, tmp_path, batching):
    sequences = [[(i * k) % 12 for k in range(5 + i % 9)] for i in range(60)]

    def fit(steps, checkpoint=None):
        torch.manual_seed(0)
        separate = batching != "blocks"  # where recurrent networks cannot
        data = make(sequences, batching=batching, separate_documents=separate, **OPTIONS)
        model = LSTMLanguageModel(vocab_size=12, embedding_dim=4, hidden_size=4)
        saver = LastCheckpoint(str(tmp_path / str(steps)))
        trainer = quiet_trainer(
            max_steps=steps, limit_val_batches=0, callbacks=[saver], enable_checkpointing=True
        )
        trainer.fit(model, data, ckpt_path=checkpoint, weights_only=True)
        return torch.cat([p.detach().flatten() for p in model.parameters()]), data.consumed_hash

    weights, consumed = fit(7)
    fit(3)
    again, consumed_again = fit(7, tmp_path / "3" / "last.ckpt")
    assert torch.equal(weights, again)
    assert consumed == consumed_again


@pytest.mark.filterwarnings("ignore:The `srun` command is available")
def test_a_checkpoint_is_all_that_is_needed_to_generate(make, quiet_trainer, tmp_path, caplog):
    caplog.set_level("INFO", "lightning.pytorch")
    data = make(np.arange(400)[None] % 12, **OPTIONS)
    model = TransformerLanguageModel(12, embedding_dim=8, num_layers=1, num_heads=2, context_length=16)
    callbacks = [SampleLogger(max_new_tokens=5), AttentionLogger()]
    trainer = quiet_trainer(
        max_steps=2, val_check_interval=2, check_val_every_n_epoch=None, callbacks=callbacks
    )
    trainer.fit(model, data)
    trainer.save_checkpoint(tmp_path / "a.ckpt")
    said = caplog.text
    assert "train 360 tokens in 1 sequence, validation 20 tokens in 1 sequence" in said
    assert "cannot read the prompt '\\n'; samples go on from the validation data: 0 1 2 3 4 5 6 7" in said
    samples = (tmp_path / "samples.txt").read_text().splitlines()
    assert samples[1].startswith("0 1 2 3 4 5 6 7 ")
    assert len(samples[1].split()) == 13
    assert {"val_loss", "attention/entropy"} <= trainer.callback_metrics.keys()
    assert "val_bits_per_character" not in trainer.callback_metrics
    loaded = lightning_seq.load(tmp_path / "a.ckpt")
    assert len(loaded.generate("11 0", max_new_tokens=3, seed=0).split()) == 5
    with pytest.raises(InputError, match="trained on other ids"):
        quiet_trainer().validate(model, make([[1] * 40], vocab_size=5), verbose=False)
