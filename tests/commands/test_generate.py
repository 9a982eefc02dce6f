"""``lightning-seq generate``."""

import pytest

from lightning_seq.__main__ import main
from tests.cli.conftest import LSTM, TINY, command, here, trained  # noqa: F401


def test_text_goes_on_from_the_prompt_and_repeats_with_a_seed(command, trained):  # noqa: F811
    line = ["generate", "--checkpoint", trained, "--prompt", "the cat", "--max_new_tokens", 20]
    one, again = command(*line, "--seed", 1), command(*line, "--seed", 1)
    other = command(*line, "--seed", 2)
    assert one[0] == 0
    assert one[1].startswith("the cat")
    assert one[1] == again[1] != other[1]
    assert command(*line, "--temperature", 0)[1] == command(*line, "--temperature", 0)[1]
    assert command(*line, "--top_k", 1)[1] == command(*line, "--temperature", 0)[1]


@pytest.mark.parametrize(
    ("option", "value", "message"),
    [("--temperature", -1, "temperature is -1"), ("--top_k", 0, "top_k is 0"), ("--top_p", 2, "top_p is 2")],
)
def test_settings_without_meaning_are_refused(command, trained, option, value, message):  # noqa: F811
    status, said = command("generate", "--checkpoint", trained, option, value)
    assert status == 1
    assert f"error: {message}" in said


def test_a_prompt_of_strange_characters_is_no_error(command, trained):  # noqa: F811
    with pytest.warns(UserWarning, match="vocabulary lacks '日', '本' of the prompt and reads '�' instead"):
        assert command("generate", "--checkpoint", trained, "--prompt", "日本", "--max_new_tokens", 3)[0] == 0
    status, said = command("generate", "--checkpoint", trained, "--prompt", "")
    assert status == 1
    assert "the prompt has no token" in said


def test_wrong_usage_exits_with_two():
    with pytest.raises(SystemExit) as stop:
        main(["generate", "--prompt", "x"])
    assert stop.value.code == 2
