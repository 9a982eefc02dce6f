from lightning_seq.data.summary import summary
from lightning_seq.data.token_store import Counts
from lightning_seq.data.tokenization.id_names import names_tokenizer
from lightning_seq.data.tokenization.tokenizers import build_tokenizer


def counts(scale, tokens_per_character=1):
    sizes = {"train": 90 * scale, "validation": 5 * scale, "test": 5 * scale}
    return {split: Counts(size * tokens_per_character, 1, size, size, 0) for split, size in sizes.items()}


def test_says_text_sizes_and_vocabulary():
    said = summary(
        "python-docs (Python 3.11)", "12345678abc", counts(3495), build_tokenizer("character", ["abc"])
    )
    assert said.splitlines() == [
        "data: python-docs (Python 3.11), sha256 12345678",
        "      train 314,550 characters, validation 17,475, test 17,475",
        "      vocabulary 4 (character)",
    ]


def test_says_tokens_where_they_are_not_characters():
    said = summary("text", "12345678abc", counts(10, 2), build_tokenizer("byte", []))
    assert (
        "train 900 characters (1,800 tokens), validation 50 (100 tokens), test 50 (100 tokens)"
        in " ".join(said.split())
    )


def test_says_tokens_and_sequences_where_there_is_no_text():
    sizes = {"train": (9000, 20), "validation": (1, 1), "test": (0, 0)}
    ids = {split: Counts(*size, 0, 0, 0) for split, size in sizes.items()}
    said = summary("notes.npy", "12345678abc", ids, names_tokenizer(["a", "b"]))
    assert said.splitlines()[1:] == [
        "      train 9,000 tokens in 20 sequences, validation 1 token in 1 sequence, test",
        "      0 tokens in 0 sequences",
        "      vocabulary 2",
    ]


def test_says_how_many_documents_there_are_and_what_else_is_to_be_said():
    sizes = {"train": Counts(900, 20, 900, 900, 0), "validation": Counts(10, 1, 10, 10, 0)}
    said = summary("a/b.txt, test held out", "1", sizes, build_tokenizer("byte", []))
    assert said.splitlines()[1:3] == [
        "      test held out",
        "      train 900 characters in 20 documents, validation 10",
    ]


def test_fits_a_terminal():
    large = Counts(10**12, 10**9, 0, 0, 0)
    ids = {"train": large, "validation": large, "test": large}
    for sizes in (counts(10**10, 3), ids):
        said = summary("/long" * 30 + "/name.txt", "12345678abc", sizes, build_tokenizer("byte", []))
        assert max(map(len, said.splitlines())) <= 80
        assert "/name.txt, sha256" in said
