"""One part of a run: its batches, its tables, and the checks on them."""
