"""What is shown of attention heads: pictures, one page, and the words for their measures."""
