"""The published form: how much of a phase's gradient lies in the leading directions of the update.

rho = ‖U U' g‖² / ‖g‖², with U the k leading left singular vectors of the change of a matrix and g
the gradient of the summed reverse KL of a group of tokens in that matrix. A random gradient has
k / m there, m rows; and a sum over more tokens has less noise in it, so every group of a split
gives as many tokens. The cross-half form <P g_A, P g_B> / <g_A, g_B> does not grow with noise at
all.
"""

from collections.abc import Sequence
from fnmatch import fnmatch
from typing import Any

import numpy as np
import polars as pl
import torch

from opd_diag.analyses.tables import result_table
from opd_diag.errors import OptionError
from opd_diag.updates.derivatives import Direction
from opd_diag.updates.summary import SPLITS
from opd_diag.updates.tokens import TokenDerivatives

NO_COMMON = "the halves share no direction"
ONE_HALF = "one half of the prompts has no such token"
FEWEST_TOKENS = 20


def choose_matrices(direction: Direction, pattern: str) -> list[str]:
    """Return the names of the body's matrices that fit a pattern.

    Raises:
        OptionError: If none does.
    """
    names = [name for name, tangent in direction.body.items() if tangent.ndim == 2]
    chosen = [name for name in names if fnmatch(name, pattern)]
    if not chosen:
        raise OptionError(
            f"matrices: {pattern!r} fits none; expected a pattern of {', '.join(names)}"
        )
    return chosen


def subspace_table(
    maker: TokenDerivatives,
    direction: Direction,
    labels: pl.DataFrame,
    pair: tuple[str, str],
    *,
    directions: int,
    matrices: Sequence[str],
    seed: int,
) -> pl.DataFrame:
    """Project the gradients of every group of tokens on the update of some matrices.

    Args:
        maker: What knows the models and rollouts.
        direction: The update.
        labels: What `label_tokens` returns, tokens of the sample.
        pair: Names of the two checkpoints.
        directions: Leading directions of the update, k.
        matrices: Names of the matrices.
        seed: Seed of the tokens that are taken where a group has more than it may give.

    Returns:
        Rows of `UPDATE_SUBSPACE`.
    """
    bases = {}
    for name in matrices:
        left = torch.linalg.svd(direction.body[name].float(), full_matrices=False)[0]
        bases[name] = left[:, :directions]
    rng = np.random.default_rng(seed)
    inside = labels["in_loss"].to_numpy()
    rows: list[dict[str, Any]] = []
    for split in SPLITS:
        column = labels[split]
        members = {
            group: np.flatnonzero((column == group).fill_null(value=False).to_numpy() & inside)
            for group in column.drop_nulls().unique().sort()
        }
        members = {
            group: places for group, places in members.items() if places.size >= FEWEST_TOKENS
        }
        if not members:
            continue
        size = min(places.size for places in members.values())
        for group, places in members.items():
            taken = np.sort(rng.choice(places, size, replace=False))
            halves = _half_gradients(maker, labels[taken], matrices)
            rows += [
                {
                    "matrix": name,
                    "split": split,
                    "group": group,
                    "n": size,
                    "directions": bases[name].shape[1],
                    "floor": bases[name].shape[1] / bases[name].shape[0],
                    **_shares(bases[name], *(half.get(name) for half in halves)),
                }
                for name in matrices
            ]
    names = rows[0] if rows else ("matrix", "split", "group", "n", "directions", "floor")
    columns = {name: [row[name] for row in rows] for name in names}
    return result_table("update_subspace", columns, checkpoint=pair[1], checkpoint_from=pair[0])


def _half_gradients(
    maker: TokenDerivatives, tokens: pl.DataFrame, matrices: Sequence[str]
) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
    """Sum the gradient of reverse KL over the tokens of each half of the prompts, by matrix.

    A half without tokens has no sums.
    """
    halves: tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]] = ({}, {})
    for (rollout, half), part in tokens.group_by("rollout", "half", maintain_order=True):
        positions = torch.tensor(part["position"].to_list())
        gradients = maker.gradient(int(str(rollout)), positions, matrices)
        own = halves[int(str(half))]
        for name, gradient in gradients.items():
            own[name] = own.get(name, torch.zeros_like(gradient)) + gradient
    return halves


def _shares(basis: torch.Tensor, a: torch.Tensor | None, b: torch.Tensor | None) -> dict[str, Any]:
    """Compare the gradient of a group with the leading directions.

    Args:
        basis: The directions. Shape (rows, directions).
        a: Gradient of the tokens of one half of the prompts; None: it has none.
        b: That of the other half.
    """
    there = [half for half in (a, b) if half is not None]
    whole = sum(there[1:], start=there[0])
    size = float(whole.square().sum())
    share = float((basis.T @ whole).square().sum()) / size if size > 0 else None
    if a is None or b is None:
        return {"rho": share, "cross_half": None, "reason": ONE_HALF}
    common = float((a * b).sum())
    if common <= 0:
        return {"rho": share, "cross_half": None, "reason": NO_COMMON}
    cross = float(((basis.T @ a) * (basis.T @ b)).sum()) / common
    return {"rho": share, "cross_half": cross, "reason": None}
