"""Tokens that their own student sampled, with exact columns from whole distributions."""

import numpy as np
import polars as pl
from scipy.special import log_softmax, rel_entr

from opd_diag.datasets.base import rollouts_table
from opd_diag.tables.columns.tokens import truncated_grid

K_GRID = (2, 4)


def random_logps(rng, rows, ids=30, apart=1.0):
    """Log-probs of a student and of a teacher that differs from it by noise. Shape (rows, ids)."""
    x = rng.standard_normal((rows, ids)) * rng.gamma(2.0, 1.5, (rows, 1))
    y = x + apart * rng.standard_normal((rows, ids)) * rng.gamma(1.0, 1.0, (rows, 1))
    return log_softmax(x, axis=1), log_softmax(y, axis=1)


def token_columns_of(lp, lq, token, k_grid=K_GRID):
    """Columns that the loss audit reads, by brute force."""
    p, q = np.exp(lp), np.exp(lq)
    row = np.arange(len(token))
    columns = {
        "student_logp": lp[row, token],
        "teacher_logp": lq[row, token],
        "student_rank": 1 + (lp > lp[row, token][:, None]).sum(1),
        "teacher_rank": 1 + (lq > lq[row, token][:, None]).sum(1),
        "reverse_kl": rel_entr(p, q).sum(1),
    }
    for name, order in (("student", np.argsort(-lp)), ("teacher", np.argsort(-lq))):
        masses, others, parts = [], [], []
        for k in truncated_grid(k_grid):
            top = order[:, :k]
            a, b = (np.take_along_axis(logp, top, 1) for logp in (lp, lq))
            masses.append(np.exp(a).sum(1))
            others.append(np.exp(b).sum(1))
            parts.append((np.exp(a) * (a - b)).sum(1))
        names = (
            ("student_mass", "teacher_mass", "reverse_kl_top")
            if name == "student"
            else ("student_mass_teacher_top", "teacher_top_mass", "reverse_kl_teacher_top")
        )
        columns |= {n: np.stack(v, 1) for n, v in zip(names, (masses, others, parts), strict=True)}
    # The teacher's mass has the whole grid.
    own = np.take_along_axis(lq, np.argsort(-lp), 1)
    columns["teacher_mass"] = np.stack([np.exp(own[:, :k]).sum(1) for k in k_grid], 1)
    return {
        name: values.astype(np.uint32 if name.endswith("rank") else np.float32)
        for name, values in columns.items()
    }


def on_policy_run(seed, *, prompts=24, samples=2, tokens=40, apart=1.0):
    """Tokens and rollouts; every token is drawn from the student's distribution."""
    rng = np.random.default_rng(seed)
    n = prompts * samples * tokens
    lp, lq = random_logps(rng, n, apart=apart)
    token = (np.exp(lp).cumsum(1) > rng.random((n, 1))).argmax(1)
    count = prompts * samples
    keys = {
        "checkpoint": ["s"] * n,
        "rollout": np.repeat(np.arange(count, dtype=np.uint32), tokens),
        "position": np.tile(np.arange(tokens, dtype=np.uint32), count),
        "token_id": token.astype(np.int32),
        "in_loss": rng.random(n) < 0.9,
    }
    frame = pl.DataFrame({**keys, **token_columns_of(lp, lq, token)})
    rollouts = rollouts_table(
        token.reshape(count, tokens).tolist(),
        frame["student_logp"].to_numpy().reshape(count, tokens).tolist(),
        samples=samples,
        correct=np.zeros(count, np.bool_),
        finish=np.array(["stop"] * count),
        policy="s",
    )
    return frame, rollouts
