"""Models: loading them, their output heads, their forward passes, and what identifies them."""
