"""Gradients on their way to the optimizer: seen, clipped, grouped, entered into books, drawn."""
