"""How much of a text the tokenizer does not know: such a text is easily predicted, and nothing is learnt."""

from lightning.pytorch.utilities import rank_zero_warn

from lightning_seq.errors import InputError

WARNED = 0.01
REFUSED = 0.5  # of a text in other letters the spaces, digits and punctuation are known
REMEDY = 'train anew with a tokenizer made from this text, or with "byte" or "bpe", which know any text'


def check_unknown(name: str, tokens: int, unknown: int, token: str) -> None:
    """Warns of a text with many unknown tokens, and refuses one of which most are.

    Args:
        name: Which text.
        tokens: How many tokens it has.
        unknown: How many of them are unknown, without those that the text itself writes so.
        token: What the tokenizer gives for what it does not know.

    Raises:
        InputError: More than half of them are unknown.
    """
    fraction = unknown / max(1, tokens)
    if fraction > REFUSED:
        raise InputError(
            f"{fraction:.1%} of the tokens of {name} are {token!r}, which stands for what the tokenizer does "
            f"not know, so a loss says nothing of the text: {REMEDY}"
        )
    if fraction >= WARNED:
        rank_zero_warn(
            f"{fraction:.1%} of the tokens of {name} are {token!r}, which stands for what the tokenizer does "
            f"not know, so its loss compares with no other vocabulary's: {REMEDY}"
        )
