"""Readers: the dumps of trainers and generators, one module each, into one rollouts table."""

from opd_diag.rollouts.read import read_rollouts

__all__ = ["read_rollouts"]
