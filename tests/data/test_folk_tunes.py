from itertools import chain

import pytest

from lightning_seq.__main__ import main
from lightning_seq.data import FolkTunes
from lightning_seq.data.folk_tunes import split_of, tunes_of
from lightning_seq.data.sources.documents import SPLITS
from lightning_seq.errors import InputError

NOTES = "ABcdefga"


def tune(number, title="A tune"):
    """A tune whose notes are the number, so that no two are the same."""
    notes = "".join(NOTES[int(digit)] for digit in f"{number:05o}")
    return f"X:{number}\nT:{title}\nM:6/8\nL:1/8\nK:D\n{notes} d|{notes} e|{notes} f:|\n"


@pytest.fixture
def make(tmp_path):
    def make(text, **options):
        file = tmp_path / "tunes.abc"
        file.write_bytes(text.encode())
        return FolkTunes(str(file), **{"cache_dir": str(tmp_path / "cache"), **options})

    return make


def texts(data):
    return {split: list(data.documents(split)) for split in SPLITS}


MANY = "\n".join(map(tune, range(300)))


def test_tunes_stay_whole_and_about_one_in_ten_is_held_out_for_each(make):
    data = make(MANY)
    found = texts(data)
    assert sorted(chain(*found.values())) == sorted(f"{tune(n).rstrip()}\n\n" for n in range(300))
    held_out = len(found["validation"]), len(found["test"])
    assert all(15 <= count <= 45 for count in held_out)
    counts = f"{300 - sum(held_out)} + {held_out[0]} + {held_out[1]}"
    assert data.describe().endswith(f"tunes.abc (300 tunes: {counts})")


def test_what_is_printed_of_them(make, quiet_trainer, caplog):
    caplog.set_level("INFO", "lightning.pytorch")
    data = make(MANY)
    data.setup("fit")
    assert "tunes.abc (300 tunes: " in caplog.text
    assert f"in {len(list(data.documents('train')))} documents" in " ".join(caplog.text.split())


def test_a_tune_is_where_it_was_when_others_come_and_go(make):
    before = texts(make(MANY))
    after = texts(make("\n".join(map(tune, range(400, 100, -1)))))
    for split in SPLITS:
        kept = {each for each in before[split] if int(each[2:].split()[0]) > 100}
        assert kept
        assert kept <= set(after[split])


def test_equal_notes_are_in_one_split_under_any_title_and_however_they_are_laid_out():
    for number in range(100):
        same = tune(number, "Title, The").replace("|", " |\n").replace(f"X:{number}", "X:7")
        same = same.replace("M:6/8", "M:3/4").replace(":|\n", ":|!\n")
        assert same != tune(number)
        assert split_of(same) == split_of(tune(number))
    assert {split_of(tune(number)) for number in range(100)} == set(SPLITS)


COPIES = {
    "a comment": (" d|", " d|%by ear\n"),
    "a line of comment": (":|\n", ":|\n% AGE\n"),
    "words below the notes": (":|\n", ":|\nw: a-mong the beds\n"),
    "words below the notes, continued": (":|\n", ":|\nw: a-mong\n+: the beds\n"),
    "words behind the tune": (":|\n", ":|\nW: a faded edge\n"),
    "a note": (":|\n", ":|\nN: also in G, Bb and D\n"),
    "a directive": ("K:D\n", "K:D\n%%MIDI program 73\n"),
    "a block of words": (":|\n", ":|\n%%begintext\nDance of a bad age\n%%endtext\n"),
    "a field in a line": (" d|", " d|[P:B][r: bad edge]"),
    "a chord symbol": (" d|", ' "Am/C"d|'),
    "an annotation": (" d|", ' "^fade"d|'),
    "decorations": (" d|", " ~.!fermata!vd|"),
    "a grace note": (" d|", " {ag}d|"),
    "a slur and a tie": (" d|", " (d)-|"),
    "bar lines": (":|\n", "||\n"),
    "a length": (" d|", " d2|"),
    "an accidental that says what the key says": (" d|", " =d|"),
}


@pytest.mark.parametrize("kind", COPIES)
def test_what_is_no_note_puts_no_copy_into_another_split(kind):
    copies = [tune(number).replace(*COPIES[kind]) for number in range(60)]
    assert all(copy != tune(number) for number, copy in enumerate(copies))
    assert list(map(split_of, copies)) == [split_of(tune(number)) for number in range(60)]
    assert tunes_of("".join(copies)) == [f"{copy.strip()}\n\n" for copy in copies]


def test_another_note_or_octave_is_another_tune():
    for other in ("e", "D", "d'", "d,"):
        splits = [split_of(tune(number).replace(" d|", f" {other}|")) for number in range(60)]
        assert splits != [split_of(tune(number)) for number in range(60)]


def test_files_named_for_splits_are_those_splits(tmp_path, recwarn):
    parts = {"train": range(200), "valid": range(200, 220), "test": range(220, 240)}
    for name, numbers in parts.items():
        (tmp_path / f"session.{name}.abc").write_text("".join(map(tune, numbers)))
    data = FolkTunes(tmp_path, cache_dir=str(tmp_path / "cache"))
    assert data.describe().endswith("(240 tunes: 200 + 20 + 20)")
    found = texts(data)
    assert [len(found[split]) for split in SPLITS] == [200, 20, 20]
    assert found["test"] == [f"{tune(n).strip()}\n\n" for n in parts["test"]]
    (tmp_path / "session.test.abc").unlink()
    held_out = [split_of(tune(n)) for n in parts["train"]].count("test")
    counts = [len(some) for some in texts(FolkTunes(tmp_path)).values()]
    assert counts == [200 - held_out, 20, held_out]
    assert not recwarn


def test_tunes_that_are_in_two_named_files_are_counted(tmp_path):
    (tmp_path / "train.abc").write_text("".join(map(tune, range(20))))
    (tmp_path / "test.abc").write_text("".join(tune(n, "Other title") for n in range(15, 30)))
    with pytest.warns(UserWarning, match=r"^5 tunes of .* are in files of two splits, by their notes"):
        _ = FolkTunes(tmp_path).describe()
    (tmp_path / "test.abc").write_text("Once upon a time\n")
    with pytest.raises(InputError, match=r"test\.abc' has no tune in ABC notation"):
        _ = FolkTunes(tmp_path).describe()


def test_what_is_a_tune():
    first, second = f"{tune(1).strip()}\n\n", f"{tune(2).strip()}\n\n"
    assert tunes_of(tune(1) + tune(2)) == [first, second]  # by their X:
    assert tunes_of(f"%abc-2.1\nH:of the file\n\n{tune(1)}\n \t\nwords about it\n\n\n{tune(2)}") == [
        first,
        second,
    ]
    assert tunes_of((tune(1) + "\n" + tune(2)).replace("\n", "\r\n")) == [first, second]
    without_numbers = [each.partition("\n")[2] for each in (first, second)]
    assert tunes_of("".join(without_numbers)) == without_numbers  # by the empty lines
    assert tunes_of("X:1\nT:no key\nABc\n\nX:2\nT:no notes\nK:D\n") == []


def test_a_directory_and_a_glob(tmp_path):
    for name, number in (("a.abc", 1), ("b.txt", 2), ("c.md", 3)):
        (tmp_path / name).write_text(tune(number))
    both = [f"{tune(number).strip()}\n\n" for number in (1, 2)]
    assert sorted(chain(*texts(FolkTunes(tmp_path)).values())) == both
    assert list(chain(*texts(FolkTunes(tmp_path / "*.abc")).values())) == both[:1]


def test_what_is_wrong_is_said(make):
    with pytest.raises(InputError, match=r"FolkTunes has no path; give --data\.path FILE, .*irish\.abc"):
        FolkTunes()
    with pytest.raises(InputError, match=r"tunes\.abc' has no tune in ABC notation; give a file of tunes"):
        _ = make("Once upon a time\n").vocab_size
    only = next(tune(number) for number in range(100) if split_of(tune(number)) == "train")
    data = make(only * 30, batch_size=1, context_length=8)
    with pytest.raises(
        InputError, match=r"the validation split of .*\(30 tunes: 30 \+ 0 \+ 0\) is empty: a hash"
    ):
        data.val_dataloader()
    assert len(data.train_dataloader()) > 1


def test_the_state_begins_anew_with_each_tune_if_asked_to(make):
    data = make(MANY, batch_size=2, context_length=16, separate_documents=True)
    batch = next(iter(data.train_dataloader()))
    decoded = data.tokenizer.decode(batch["inputs"][0].tolist())
    assert decoded.startswith("X:")
    assert not batch["continues"].any()


def test_the_recipe_trains_on_a_file_and_says_what_it_lacks_without(make, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    make(MANY)
    short = ["--trainer.max_steps=2", "--trainer.val_check_interval=2", "--trainer.enable_progress_bar=false"]
    line = [
        "fit",
        "--config",
        "irish_folk_lstm",
        "--trainer.accelerator=cpu",
        "--model.hidden_size=8",
        *short,
    ]
    assert main([*line, "--data.path", "tunes.abc"]) == 0
    assert (tmp_path / "runs" / "irish_folk_lstm-1" / "tunes.abc").exists()
    capsys.readouterr()
    assert main(line) == 1
    assert (
        capsys.readouterr()
        .err.splitlines()[-1]
        .startswith("error: FolkTunes has no path; give --data.path FILE")
    )
    assert not (tmp_path / "runs" / "irish_folk_lstm-2").exists()
