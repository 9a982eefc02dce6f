"""Recipes that follow a paper: its arguments, and as many parameters as it has."""

import pkgutil

import pytest
import torch
import yaml

from lightning_seq import models, recipes

PUBLISHED = {
    # Zaremba et al. 2014 with PyTorch's second bias: medium and large are 20M and 66M in Gal and Ghahramani
    "ptb_lstm_small": (10_000, 4_653_200),
    "ptb_lstm_medium": (10_000, 19_780_400),
    "ptb_lstm_large": (10_000, 66_034_000),
    # "33M" in Merity et al. 2017; their code counts as many
    "awd_lstm_wikitext2": (33_278, 33_556_078),
    # Radford et al. 2019's smallest, as released
    "gpt2_124m": (50_257, 124_439_808),
}


def content(name):
    return yaml.safe_load(recipes.find(name).read_text(encoding="utf-8"))


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_recipe_builds_as_many_parameters_as_were_published(name):
    vocab_size, parameters = PUBLISHED[name]
    model = content(name)["model"]
    cls = pkgutil.resolve_name(f"{models.__name__}.{model['class_path']}")
    arguments = (
        {**model["init_args"], "compile": False}
        if cls is models.TransformerLanguageModel
        else model["init_args"]
    )
    with torch.device("meta"):
        built = cls(vocab_size, **{k: tuple(v) if k == "betas" else v for k, v in arguments.items()})
    assert sum(p.numel() for p in built.parameters()) == parameters
    assert f"{parameters:,} parameters" in recipes.find(name).read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("name", "hidden", "context", "clip", "keep", "init", "decays_after", "epochs", "factor"),
    [
        ("ptb_lstm_small", 200, 20, 5, 1.0, 0.1, 4, 13, 0.5),
        ("ptb_lstm_medium", 650, 35, 5, 0.5, 0.05, 6, 39, 1 / 1.2),
        ("ptb_lstm_large", 1500, 35, 10, 0.35, 0.04, 14, 55, 1 / 1.15),
    ],
)
def test_arguments_of_zaremba_et_al(name, hidden, context, clip, keep, init, decays_after, epochs, factor):
    """Section 4.1 of the paper; its loss is a sum over the steps of a batch, ours their mean."""
    recipe = content(name)
    model, data, trainer = recipe["model"]["init_args"], recipe["data"]["init_args"], recipe["trainer"]
    assert (model["num_layers"], model["hidden_size"], model["init_range"]) == (2, hidden, init)
    assert model["dropout"] == pytest.approx(1 - keep)
    assert (data["batch_size"], data["context_length"]) == (20, context)
    assert model["optimizer"] == "sgd"
    assert model["learning_rate"] == 1.0 * context
    assert trainer["gradient_clip_val"] == pytest.approx(clip / context, rel=1e-4)
    steps = (929_589 - 1) // 20 // context  # an epoch of the training text
    assert (model["decay_interval"], model["decay_start"]) == (steps, decays_after * steps)
    assert model["decay_factor"] == pytest.approx(factor, rel=1e-5)
    assert trainer["max_epochs"] == epochs


def test_arguments_of_awd_lstm():
    """Section 5 of the paper, and its code's for WikiText-2."""
    recipe = content("awd_lstm_wikitext2")
    model = recipe["model"]["init_args"]
    expected = {
        "embedding_dim": 400,
        "hidden_size": 1150,
        "num_layers": 3,
        "input_dropout": 0.65,
        "hidden_dropout": 0.2,
        "output_dropout": 0.4,
        "embedding_dropout": 0.1,
        "weight_drop": 0.5,
        "activation_penalty": 2.0,
        "temporal_activation_penalty": 1.0,
        "learning_rate": 30.0,
        "non_monotone_interval": 5,
    }
    assert expected.items() <= model.items()
    assert float(model["weight_decay"]) == 1.2e-6
    assert recipe["trainer"]["gradient_clip_val"] == 0.25
    assert (recipe["data"]["init_args"]["batch_size"], recipe["data"]["init_args"]["context_length"]) == (
        80,
        70,
    )
