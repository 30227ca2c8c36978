"""Pages of docs/ that are found by asking the code."""
