"""Steps that go wrong: found, kept, written, drawn."""
