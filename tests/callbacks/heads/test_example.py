import pytest
import torch
from torch import nn

from lightning_seq.callbacks.heads.example import example_of, run, text_example
from lightning_seq.data.tokenization.id_names import names_tokenizer
from lightning_seq.errors import InputError
from lightning_seq.networks.base import IGNORE_INDEX

IDS = torch.arange(12).view(2, 6)


@pytest.mark.parametrize(
    "batch",
    [IDS, (IDS, 1), [IDS], {"inputs": IDS}, {"input_ids": IDS, "labels": IDS}, {"inputs": IDS, "x": 1}],
)
def test_takes_the_first_tokens_of_the_first_rows(batch):
    example = example_of(batch, 1, 4)
    assert example.keys() == {"inputs"}
    assert torch.equal(example["inputs"], IDS[:1, :4])
    assert example_of(batch, 9, 99)["inputs"].shape == (2, 6)


def test_is_a_copy():
    batch = IDS.clone()
    example = example_of(batch, 2, 6)
    batch.zero_()
    assert torch.equal(example["inputs"], IDS)


def test_left_padding_is_left_out_where_all_rows_have_it():
    mask = torch.tensor([[0, 0, 0, 1, 1, 1], [0, 0, 1, 1, 1, 1]])
    example = example_of({"input_ids": IDS, "attention_mask": mask}, 2, 3)
    assert torch.equal(example["inputs"], IDS[:, 2:5])
    assert example["attention_mask"].tolist() == [[0, 1, 1], [1, 1, 1]]
    assert example["valid"].tolist() == [[False, True, True], [True, True, True]]
    alone = example_of({"input_ids": IDS, "attention_mask": mask}, 1, 3)
    assert torch.equal(alone["inputs"], IDS[:1, 3:])
    assert "valid" not in alone


def test_targets_that_end_in_ignored_ones_are_padding_and_those_between_are_not():
    targets = torch.full((2, 6), IGNORE_INDEX)
    targets[0, 3] = targets[1, 1] = 1
    example = example_of({"inputs": IDS, "targets": targets}, 2, 6)
    assert torch.equal(example["inputs"], IDS[:, :4])
    assert example["valid"].tolist() == [[True] * 4, [True, True, False, False]]
    nothing_scored = {"inputs": IDS, "targets": torch.full((2, 6), IGNORE_INDEX)}
    assert example_of(nothing_scored, 2, 6)["inputs"].shape == (2, 6)


def test_features_and_pictures_are_taken_as_they_are():
    series, images = torch.randn(4, 9, 3), torch.randn(4, 3, 8, 8)
    assert torch.equal(example_of(series, 2, 5)["inputs"], series[:2, :5])
    assert torch.equal(example_of((images, 1), 2, 5)["inputs"], images[:2])


@pytest.mark.parametrize(
    ("batch", "got"), [({"words": IDS}, "got dict"), (3, "got int"), (IDS[0], r"inputs of shape \(6,\)")]
)
def test_other_batches_are_refused(batch, got):
    with pytest.raises(InputError, match=f"expected batches .*{got}"):
        example_of(batch, 1, 4)


class Takes(nn.Module):
    def __init__(self, forward):
        super().__init__()
        self.forward = forward


def test_a_model_gets_the_mask_if_it_takes_one():
    example = {"inputs": IDS, "attention_mask": IDS > 3}
    assert run(Takes(lambda tokens: tokens), example) is IDS
    tokens, mask = run(Takes(lambda input_ids, attention_mask=None: (input_ids, attention_mask)), example)
    assert tokens is IDS
    assert mask is example["attention_mask"]
    named = run(Takes(lambda **batch: batch), example)
    assert named.keys() == {"input_ids", "attention_mask"}
    assert run(Takes(lambda input_ids, attention_mask=None: attention_mask), {"inputs": IDS}) is None


def test_a_text_is_read_by_the_tokenizer():
    tokenizer = names_tokenizer(["a", "b", "c"])
    assert text_example("c a b a", tokenizer, None, 3)["inputs"].tolist() == [[2, 0, 1]]
    assert text_example("7 5", None, 8, 3)["inputs"].tolist() == [[7, 5]]
    with pytest.raises(InputError, match=r"has 1 token\(s\): give one of 2 or more"):
        text_example("c", tokenizer, None, 3)
    with pytest.raises(InputError, match="has 'x', which names no id"):
        text_example("c x", tokenizer, None, 3)
