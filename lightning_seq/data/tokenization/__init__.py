"""Tokenizers, and text to ids as fast as each of them allows."""
