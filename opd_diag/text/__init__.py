"""Tokens, the bytes that they stand for, and the segments that they form."""
