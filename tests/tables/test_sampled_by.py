"""Who sampled the rollouts, judged in each training step by itself."""

import numpy as np
import polars as pl
import pytest

from opd_diag.datasets import null_run, save_run
from opd_diag.tables.source import sampled_by


@pytest.fixture
def run(tmp_path):
    """Step 0, half of the rollouts, was sampled by `a`, and step 1 by `b`."""
    data = null_run(prompts=8, samples=2, tokens=40, checkpoints=("a", "b"), seed=3)
    step = (pl.col("rollout") >= 8).cast(pl.Int64)
    sampler = pl.when(pl.col("rollout") >= 8).then(pl.lit("b")).otherwise(pl.lit("a"))
    own = data.tokens.filter(pl.col("checkpoint") == sampler)
    noise = np.random.default_rng(0).normal(0, 0.005, own.height).astype(np.float32)
    sampled = (
        own.with_columns(sampled_logp=pl.col("student_logp") + pl.Series(noise))
        .group_by("rollout", maintain_order=True)
        .agg("sampled_logp")
    )
    rollouts = data.rollouts.drop("sampled_logp", strict=False).with_columns(step=step)
    rollouts = rollouts.join(sampled, on="rollout", maintain_order="left")
    run = save_run(data._replace(rollouts=rollouts), tmp_path / "run")
    # As `score` may judge the pooled tokens of two checkpoints that are close to each other.
    for checkpoint in run.manifest.checkpoints.values():
        checkpoint.alignment = {"median": 0.01, "diagnosis": "aligned"}
    return run, rollouts


def test_a_checkpoint_that_sampled_one_of_two_steps_did_not_sample_the_rollouts(run):
    source, rollouts = run
    assert sampled_by(source, "a", rollouts) is False
    assert sampled_by(source, "b", rollouts) is False


def test_the_rollouts_of_its_own_step_it_did(run):
    source, rollouts = run
    first, second = rollouts.filter(step=0), rollouts.filter(step=1)
    assert sampled_by(source, "a", first) is True
    assert sampled_by(source, "b", first) is False
    assert sampled_by(source, "b", second) is True


def test_without_log_probs_it_is_not_known(run):
    source, rollouts = run
    none = rollouts.filter(step=0).with_columns(sampled_logp=pl.lit(None, pl.List(pl.Float32)))
    assert sampled_by(source, "a", none) is None
