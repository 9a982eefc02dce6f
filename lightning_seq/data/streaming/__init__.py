"""Text that is read, tokenized and packed as training goes."""
