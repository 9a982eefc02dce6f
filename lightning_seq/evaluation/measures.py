"""Loss and perplexity per token, character, byte and word: one sum over a text, divided by what it has."""

import math


def measures(
    nll: float,
    tokens: int,
    characters: int | None = None,
    bytes: int | None = None,
    words: int | None = None,
) -> dict[str, float]:
    """Returns ``loss``, ``perplexity`` and, of what is known, the rest.

    Perplexity per token compares models of one tokenizer only. Bits per character and per byte, and
    ``word_perplexity``, divide by what the text has whatever its tokens are, so they compare any models that
    predict all of it. The words of a text are its words between white space and, for each newline, one end of
    line: the tokens of PTB and WikiText (Merity et al. 2017, https://arxiv.org/abs/1609.07843), where `<eos>`
    is predicted as a word is. So with a tokenizer of words ``word_perplexity`` is the perplexity per token
    that is published for those, and with any other what a model of words as good as this one would have.

    Args:
        nll: Negative log likelihood of all that was scored, in nats.
        tokens: How many tokens were scored.
        characters: How many characters they stand for.
        bytes: How many bytes of UTF-8 those are.
        words: How many words and newlines.
    """
    result = {"loss": nll / tokens, "perplexity": _exp(nll / tokens)}
    if characters:
        result["bits_per_character"] = nll / math.log(2) / characters
    if bytes:
        result["bits_per_byte"] = nll / math.log(2) / bytes
    if words:
        result["word_perplexity"] = _exp(nll / words)
    return result


def _exp(value: float) -> float:
    try:
        return math.exp(value)
    except OverflowError:
        return math.inf
