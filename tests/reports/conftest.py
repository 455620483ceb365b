"""A run whose every text is hostile: markup, control characters, halves of an emoji."""

from pathlib import Path

import polars as pl
import pytest

import opd_diag as od
from opd_diag.datasets import save_run, trap_run
from opd_diag.tables.run import VOCAB_NAME, Run

HOSTILE = {
    3: "</script><script>window.hacked = 1</script>",
    4: '<img src=x onerror="window.hacked = 1">',
    5: "\u202eevil\u202c",
    6: "\\xF0\\x9F",
    7: "{{ 7 * 7 }}",
    8: "\u2028",
    9: "line\nbreak",
}


@pytest.fixture(scope="session")
def hostile_run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Two checkpoints, correct and wrong rollouts, tokens and ids that are markup."""
    data = trap_run(prompts=8, samples=3, tokens=160, seed=1)
    rollouts = data.rollouts.with_columns(
        rollout_id=pl.format("<b>{}</b>", "rollout"), prompt_id=pl.format("p&{}<", "prompt_id")
    )
    path = tmp_path_factory.mktemp("reports") / "run"
    save_run(data._replace(rollouts=rollouts), path)
    rewrite_vocabulary(path)
    od.info(path, accept_edits=True)
    run = od.open_run(path)
    for name in ("release_points", "rock_tokens", "agreement_traps", "teachability"):
        run.save(getattr(od, name)(run))
    return run


def rewrite_vocabulary(path: Path) -> None:
    """Give some token ids hostile texts."""
    table = pl.read_parquet(path / VOCAB_NAME)
    texts = [HOSTILE.get(i, text) for i, text in enumerate(table["text"])]
    table.with_columns(
        text=pl.Series(texts), bytes=pl.Series([text.encode() for text in texts])
    ).write_parquet(path / VOCAB_NAME)
