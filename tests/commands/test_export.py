"""``lightning-seq export`` and ``import``: transformers and this package compute the same."""

import json
import sys

import pytest
import torch

from lightning_seq import checkpoints
from lightning_seq.cli import hugging_face, hugging_face_import
from lightning_seq.data.tokenization.tokenizers import build_tokenizer
from lightning_seq.models import LanguageModel, LSTMLanguageModel, TransformerLanguageModel
from lightning_seq.networks import Transformer
from tests.cli.conftest import TEXT, TINY, command, here  # noqa: F401

transformers = pytest.importorskip("transformers")

GPT2 = {"norm": "layer", "activation": "gelu_tanh", "positions": "learned", "bias": True}
SIZES = {"vocab_size": 270, "embedding_dim": 16, "num_layers": 2, "num_heads": 4, "context_length": 32}
UNUSUAL = "it 's the sun , isn't it ?  two  spaces\n\n the owl sees ."
BPE = {"bpe": (268,)}


class OwnLanguageModel(LanguageModel):
    """What users write."""

    def __init__(self, vocab_size, width=16):
        super().__init__(Transformer(vocab_size, width, num_layers=1, num_heads=2, context_length=8))
        self.save_hyperparameters()


class Doubled(Transformer):
    """Computes something else, with the same weights."""

    def forward(self, *inputs, **options):
        output, state = super().forward(*inputs, **options)
        return 2 * output, state


def written(path, kind="byte", **arguments):
    """Writes a checkpoint of random weights, and returns its model."""
    torch.manual_seed(0)
    model = TransformerLanguageModel(**(SIZES | arguments)).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    model.tokenizer = None if kind is None else build_tokenizer(kind, [TEXT, UNUSUAL], *BPE.get(kind, ()))
    hugging_face_import._save(model, model.tokenizer, path)
    return model


def names(here):  # noqa: F811
    return sorted(path.name for path in here.iterdir())


@pytest.mark.parametrize(
    ("arguments", "kind", "name"),
    [
        ({}, "byte", "LlamaForCausalLM"),
        ({"num_key_value_heads": 2, "rope_base": 500.0, "initialization": "gpt2"}, "bpe", "LlamaForCausalLM"),
        ({"bias": True, "feedforward_dim": 24}, "word", "LlamaForCausalLM"),
        ({"tie_weights": False, "norm_epsilon": 0.1}, "bpe", "LlamaForCausalLM"),
        (GPT2 | {"initialization": "gpt2", "norm_epsilon": 0.1}, "bpe", "GPT2LMHeadModel"),
        (GPT2 | {"bias": False, "activation": "relu_squared"}, "character", "GPT2LMHeadModel"),
        (GPT2 | {"activation": "gelu"}, None, "GPT2LMHeadModel"),
    ],
)
def test_a_model_goes_there_and_back(command, here, arguments, kind, name):  # noqa: F811
    ours = written(here / "a.ckpt", kind, **arguments)
    status, said = command("export", "--checkpoint", "a.ckpt", "--output", "there", "--json")
    assert status == 0, said
    found = json.loads(said)
    assert found["class"] == name
    assert found["difference"] <= 1e-6 * max(1.0, found["largest"])
    theirs = transformers.AutoModelForCausalLM.from_pretrained(here / "there")
    tokens = torch.randint(270, (3, 32))
    with torch.no_grad():
        torch.testing.assert_close(theirs(tokens).logits, ours(tokens), atol=1e-5, rtol=1e-5)

    assert command("import", "--directory", "there", "--output", "b.ckpt")[0] == 0
    again = checkpoints.load(here / "b.ckpt")
    with torch.no_grad():
        torch.testing.assert_close(again(tokens), ours(tokens), atol=1e-6, rtol=1e-6)
    if kind is None:
        assert again.tokenizer is None
    else:
        assert again.tokenizer.encode(UNUSUAL).ids == ours.tokenizer.encode(UNUSUAL).ids


def test_a_model_of_ones_own_on_our_transformer_is_exported(command, here, monkeypatch):  # noqa: F811
    hugging_face_import._save(OwnLanguageModel(7), None, here / "own.ckpt")
    assert command("export", "--checkpoint", "own.ckpt", "--output", "there")[0] == 0
    assert names(here) == ["own.ckpt", "text.txt", "there"]
    monkeypatch.setitem(OwnLanguageModel.__init__.__globals__, "Transformer", Doubled)
    status, said = command("export", "--checkpoint", "own.ckpt", "--output", "doubled")
    assert status == 1
    assert "the two models do not compute the same" in said
    assert names(here) == ["own.ckpt", "text.txt", "there"]


@pytest.mark.parametrize("kind", ["byte", "character", "word", "bpe"])
def test_transformers_tokenizes_alike(command, here, kind):  # noqa: F811
    ours = written(here / "a.ckpt", kind).tokenizer
    assert command("export", "--checkpoint", "a.ckpt", "--output", "there")[0] == 0
    theirs = transformers.AutoTokenizer.from_pretrained(here / "there")
    ids = ours.encode(UNUSUAL).ids
    assert theirs(UNUSUAL)["input_ids"] == ids
    assert theirs.decode(ids) == ours.decode(ids, skip_special_tokens=False)


@pytest.mark.parametrize("arguments", [{}, GPT2])
def test_transformers_generates_the_same_text(command, here, arguments):  # noqa: F811
    ours = written(here / "a.ckpt", **arguments)
    assert command("export", "--checkpoint", "a.ckpt", "--output", "there")[0] == 0
    theirs = transformers.AutoModelForCausalLM.from_pretrained(here / "there")
    tokens = torch.tensor([ours.tokenizer.encode("the cat").ids])
    mask = torch.ones_like(tokens)
    new = theirs.generate(
        tokens, attention_mask=mask, max_new_tokens=16, do_sample=False, pad_token_id=0
    )  # within the context: beyond it ours forgets, and theirs does not
    text = ours.tokenizer.decode(new[0].tolist(), skip_special_tokens=False)
    assert text == ours.generate("the cat", max_new_tokens=16, temperature=0)


def test_an_imported_checkpoint_is_one_like_any_other(command, here):  # noqa: F811
    written(here / "a.ckpt", vocab_size=256, **GPT2)
    assert command("export", "--checkpoint", "a.ckpt", "--output", "there")[0] == 0
    assert command("import", "--directory", "there", "--output", "b.ckpt")[0] == 0
    line = ["--checkpoint", "b.ckpt"]
    assert command("generate", *line, "--prompt", "the", "--max_new_tokens", 4)[0] == 0
    assert command("evaluate", *line, "--text", "text.txt", "--protocol", "blocks")[0] == 0
    assert command("attention", *line, "--text", "the cat sees", "--tokens", 8)[0] == 0
    status, said = command("fit", "--model=TransformerLanguageModel", *TINY, "--weights=b.ckpt")
    assert status == 0, said


def test_a_vocabulary_padded_beyond_the_tokenizer_is_trained_on(command, here):  # noqa: F811
    ours = written(here / "a.ckpt", "byte", vocab_size=300)
    line = ["--model=TransformerLanguageModel", *TINY]
    status, said = command("fit", *line, "--weights=a.ckpt", "--run_dir=tuned")
    assert status == 0, said
    last = "tuned/checkpoints/last.ckpt"
    status, said = command("fit", *line, "--trainer.max_steps=4", "--ckpt_path", last, "--run_dir=on")
    assert status == 0, said
    for path in (last, "on/checkpoints/last.ckpt"):
        again = checkpoints.load(here / path)
        assert again.network.embedding.num_embeddings == 300 > ours.tokenizer.get_vocab_size()
    assert command("test", *line, "--ckpt_path", last)[0] == 0


def test_a_model_of_transformers_own_making_is_imported(command, here):  # noqa: F811
    config = transformers.GPT2Config(vocab_size=270, n_positions=16, n_embd=16, n_layer=2, n_head=2)
    theirs = transformers.GPT2LMHeadModel(config).eval()
    theirs.save_pretrained(here / "gpt2")
    bpe = build_tokenizer("bpe", [TEXT], 268)
    bpe.model.save(str(here / "gpt2"))  # vocab.json and merges.txt, as GPT-2 comes
    (here / "gpt2" / "tokenizer_config.json").write_text('{"tokenizer_class": "GPT2Tokenizer"}')
    status, said = command("import", "--directory", "gpt2", "--output", "b.ckpt", "--json")
    assert status == 0, said
    assert json.loads(said)["parameters"] == sum(p.numel() for p in theirs.parameters())
    ours = checkpoints.load(here / "b.ckpt")
    tokens = torch.randint(270, (2, 16))
    with torch.no_grad():
        torch.testing.assert_close(ours(tokens), theirs(tokens).logits, atol=1e-5, rtol=1e-5)
    assert ours.tokenizer.encode(TEXT).ids == bpe.encode(TEXT).ids


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"hidden_act": "gelu"}, "hidden_act of the directory's config.json is 'gelu'"),
        ({"head_dim": 16}, "head_dim of the directory's config.json is 16"),
        (
            {"rope_scaling": {"rope_type": "linear", "factor": 2.0, "rope_theta": 100.0}},
            "rope_type of the directory's config.json is 'linear'",
        ),
    ],
)
def test_a_llama_that_ours_cannot_express_is_refused(command, here, changes, said):  # noqa: F811
    sizes = {"vocab_size": 20, "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 1}
    given = sizes | {"num_attention_heads": 2, "rms_norm_eps": 1e-6} | changes
    transformers.LlamaForCausalLM(transformers.LlamaConfig(**given)).save_pretrained(here / "llama")
    before = names(here)
    status, message = command("import", "--directory", "llama", "--output", "b.ckpt")
    assert status == 1
    assert said in message
    assert names(here) == before


def test_a_difference_of_the_logits_leaves_nothing(command, here):  # noqa: F811
    """inverse layer indices divide the scores: no argument says so, and only the logits show it."""
    config = transformers.GPT2Config(
        vocab_size=20, n_positions=16, n_embd=16, n_layer=2, n_head=2, scale_attn_by_inverse_layer_idx=True
    )
    theirs = transformers.GPT2LMHeadModel(config)
    with torch.no_grad():
        for parameter in theirs.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.5)
    theirs.save_pretrained(here / "gpt2")
    before = names(here)
    status, said = command("import", "--directory", "gpt2", "--output", "b.ckpt")
    assert status == 1
    assert "the logits differ by" in said
    assert names(here) == before


@pytest.mark.parametrize("error", [KeyboardInterrupt, OSError(28, "No space left on device", "there")])
def test_an_export_cut_short_leaves_nothing(command, here, monkeypatch, error):  # noqa: F811
    written(here / "a.ckpt")
    before = names(here)

    def fail(*_):
        raise error

    monkeypatch.setattr(hugging_face, "compared", fail)
    assert command("export", "--checkpoint", "a.ckpt", "--output", "there")[0] != 0
    assert names(here) == before


def test_a_tokenizer_that_reads_otherwise_leaves_nothing(command, here, monkeypatch):  # noqa: F811
    written(here / "a.ckpt")
    before = names(here)
    save, other = hugging_face.save_tokenizer, build_tokenizer("character", [TEXT])
    monkeypatch.setattr(
        hugging_face,
        "save_tokenizer",
        lambda library, directory, _, length: save(library, directory, other, length),
    )
    status, said = command("export", "--checkpoint", "a.ckpt", "--output", "there")
    assert status == 1
    assert "transformers reads the tokenizer otherwise" in said
    assert names(here) == before


def test_bad_input_is_one_line(command, here):  # noqa: F811
    written(here / "a.ckpt", qk_norm=True)
    (here / "there").mkdir()
    lstm = LSTMLanguageModel(vocab_size=5, embedding_dim=4, hidden_size=4)
    hugging_face_import._save(lstm, None, here / "lstm.ckpt")
    before = names(here)
    for line, said in (
        (("export", "--checkpoint", "a.ckpt", "--output", "there"), "--output there exists"),
        (("export", "--checkpoint", "a.ckpt", "--output", "no/there"), "is no directory: make it first"),
        (("export", "--checkpoint", "a.ckpt", "--output", "new"), "qk_norm is True"),
        (("export", "--checkpoint", "lstm.ckpt", "--output", "new"), "is LSTM, which transformers has no"),
        (("import", "--directory", "there", "--output", "b.ckpt"), "there has no config.json"),
        (("import", "--directory", "there", "--output", "b.pt"), "give a name that ends in .ckpt"),
        (("import", "--directory", "there", "--output", "a.ckpt"), "--output a.ckpt exists"),
    ):
        status, message = command(*line)
        assert status == 1
        assert message.startswith("error: ")
        assert said in message
        assert message.count("\n") == 1
    assert names(here) == before


def test_without_transformers_it_says_what_to_install(command, here, monkeypatch):  # noqa: F811
    written(here / "a.ckpt")
    monkeypatch.setitem(sys.modules, "transformers", None)
    status, said = command("export", "--checkpoint", "a.ckpt", "--output", "there")
    assert status == 1
    assert 'pip install "lightning-seq[transformers]"' in said


def test_what_is_printed_fits_the_screen(command, here):  # noqa: F811
    written(here / "a.ckpt")
    status, said = command("export", "--checkpoint", "a.ckpt", "--output", "there")
    assert status == 0
    assert "largest difference of the logits: " in said
    assert all(len(line) <= 80 for line in said.splitlines())
