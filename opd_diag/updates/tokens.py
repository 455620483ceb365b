"""First-order changes of the tokens of a sample of rollouts, written part by part."""

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl
import torch

from opd_diag.errors import ModelError, OptionError
from opd_diag.scoring.models.forward import LanguageModel, is_out_of_memory
from opd_diag.scoring.parts.batches import free_memory
from opd_diag.scoring.progress import Progress
from opd_diag.tables.columns.update_alignment import DRAWS, UPDATE_TOKENS
from opd_diag.tables.parquet import read_metadata, read_parquet, write_table
from opd_diag.tables.run import Run
from opd_diag.tables.schema import check_table, polars_schema
from opd_diag.updates.derivatives import (
    Derivatives,
    Direction,
    TeacherRows,
    central_differences,
    derivatives,
    gradients,
    random_direction,
    tied_parameter,
    update_direction,
)

PART_ROLLOUTS = 16
BUDGET_SECONDS = 600.0
TOLERANCE = 0.02  # of the largest derivative of the first rollout, against central differences
SCORES = 6  # matrices of attention scores that a derivative holds at a time, float32 (5.5 measured)
METADATA_KEY = "opd_diag"


@dataclass(frozen=True)
class Pair:
    """Two consecutive checkpoints, loaded, with the teacher.

    Attributes:
        before: Where derivatives are taken.
        after: Where the update leads.
        teacher: The teacher.
        ids: Number of ids that all models share.
        temperature: Both models' logits are divided by it.
    """

    before: LanguageModel
    after: LanguageModel
    teacher: LanguageModel
    ids: int
    temperature: float


def sample_rollouts(rollouts: pl.DataFrame, *, seed: int) -> list[int]:
    """Order the rollouts so that any first N of them hold as many prompts as they can.

    Prompts are shuffled; every prompt gives one rollout before any gives a second. Those without a
    token of a response are left out.

    Raises:
        OptionError: If that leaves none.
    """
    rollouts = rollouts.filter(pl.col("response_token_ids").list.len() > 0)
    if rollouts.is_empty():
        raise OptionError("rollouts: none has a response; expected one to differentiate")
    rng = np.random.default_rng(seed)
    order = rollouts.select("rollout", "prompt_id").with_columns(
        place=pl.Series(rng.permutation(rollouts.height))
    )
    turns = order.sort("place").with_columns(turn=pl.int_range(pl.len()).over("prompt_id"))
    return turns.sort("turn", "place")["rollout"].to_list()


def affordable(seconds: float, available: int) -> int:
    """Return how many rollouts fit into ten minutes if one takes so long, under all updates."""
    return int(np.clip(BUDGET_SECONDS / max(seconds, 1e-6), 1, available))


def longest_that_fits(model: LanguageModel) -> int:
    """Return the tokens of a sequence whose attention scores fit into free memory.

    Eager attention, which alone has derivatives in forward mode, holds a score for each head and
    pair of tokens.
    """
    heads = int(model.model.config.get_text_config().num_attention_heads)
    return int((free_memory(model.model.device) / (SCORES * heads * 4)) ** 0.5)


class TokenDerivatives:
    """The derivatives of one pair of checkpoints, rollout by rollout.

    Attributes:
        update: The update of the student's parameters.
        options: What the numbers depend on beside the weights: random directions, most tokens.
    """

    def __init__(self, run: Run, pair: Pair, *, draws: bool, max_tokens: int | None = None) -> None:
        self._pair = pair
        self.update = update_direction(pair.before, pair.after)
        self._tied = tied_parameter(pair.before)
        self._draws, self._most = DRAWS if draws else 0, max_tokens
        self.options = {"draws": self._draws, "max_tokens": max_tokens}
        rows = run.rollouts.select(
            "rollout", "prompt_token_ids", "response_token_ids", "teacher_prompt_token_ids"
        )
        self._rollouts = {row["rollout"]: row for row in rows.iter_rows(named=True)}

    def check(self, rollout: int) -> float:
        """Compare with central differences on one rollout.

        Returns:
            The largest difference as a share of the largest derivative.

        Raises:
            ModelError: If it exceeds 2 %.
        """
        ids, n_prompt, teacher = self._inputs(rollout)
        ours = self._along(self.update, ids, n_prompt, teacher)
        pair, head = self._pair, self._pair.before.head.cut(0, self._pair.ids)
        theirs = central_differences(
            pair.before, head, self.update, ids, n_prompt, teacher, temperature=pair.temperature
        )
        worst = 0.0
        for one, other in zip(ours, theirs, strict=True):
            size = float(other.abs().max())
            worst = max(worst, float((one.double() - other).abs().max()) / max(size, 1e-12))
        if worst > TOLERANCE:
            raise ModelError(
                f"{pair.before.name}: derivatives differ from central differences by {worst:.1%} "
                f"of the largest; expected at most {TOLERANCE:.0%}"
            )
        return worst

    def of_rollout(self, rollout: int) -> pl.DataFrame:
        """Return the rows of one rollout, without the realised changes."""
        ids, n_prompt, teacher = self._inputs(rollout)
        ours = self._along(self.update, ids, n_prompt, teacher)
        random = np.full((len(ours.reverse_kl), DRAWS), np.nan, np.float32)
        for place in range(self._draws):  # drawn anew: twenty models would not fit into memory
            direction = random_direction(self.update, tied=self._tied, seed=place)
            along = self._along(direction, ids, n_prompt, teacher)
            random[:, place] = along.reverse_kl.numpy()
        values = {
            "first_order_reverse_kl": ours.reverse_kl.numpy(),
            "first_order_forward_kl": ours.forward_kl.numpy(),
        }
        n = len(random)
        rows = [row if np.isfinite(row).all() else None for row in random]
        return pl.DataFrame(
            {
                "rollout": np.full(n, rollout, np.uint32),
                "position": np.arange(n, dtype=np.uint32),
                **{name: _nulls(value) for name, value in values.items()},
                "random_reverse_kl": pl.Series(rows, dtype=pl.Array(pl.Float32, DRAWS)),
            }
        )

    def tokens_of(self, rollouts: Sequence[int]) -> int:
        """Count the response tokens of some rollouts."""
        return sum(len(self._response(rollout)) for rollout in rollouts)

    def require_memory(self, rollouts: Sequence[int]) -> None:
        """Check that the longest of some rollouts fits into memory.

        Raises:
            OptionError: If it does not.
        """
        most = longest_that_fits(self._pair.before)
        for rollout in rollouts:
            prompt = len(self._rollouts[rollout]["prompt_token_ids"])
            tokens = prompt + len(self._response(rollout))
            if tokens > most:
                raise OptionError(
                    f"rollout {rollout}: the attention of {tokens:,} tokens does not fit into "
                    f"memory; expected at most {most:,} with the prompt: lower max_tokens "
                    f"(--max-tokens {max(most - prompt, 1)})"
                )

    def gradient(
        self, rollout: int, positions: torch.Tensor, matrices: Sequence[str]
    ) -> dict[str, torch.Tensor]:
        """Return the gradient of the summed reverse KL of some tokens in some matrices."""
        ids, n_prompt, teacher = self._inputs(rollout)
        pair = self._pair
        return gradients(
            pair.before,
            pair.before.head.cut(0, pair.ids),
            ids,
            n_prompt,
            teacher.of(positions),
            matrices,
            tied=self._tied,
            temperature=pair.temperature,
        )

    def _along(
        self, direction: Direction, ids: torch.Tensor, n_prompt: int, teacher: TeacherRows
    ) -> Derivatives:
        pair = self._pair
        head = pair.before.head.cut(0, pair.ids)
        try:
            return derivatives(
                pair.before, head, direction, ids, n_prompt, teacher, temperature=pair.temperature
            )
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            raise ModelError(
                f"{pair.before.name}: out of memory at a sequence of {len(ids):,} tokens; "
                "expected more memory, or lower max_tokens (--max-tokens)"
            ) from error

    def _response(self, rollout: int) -> list[int]:
        """Return the response's first tokens: those after them change none of their derivatives."""
        ids: list[int] = self._rollouts[rollout]["response_token_ids"]
        return ids[: self._most]

    def _inputs(self, rollout: int) -> tuple[torch.Tensor, int, TeacherRows]:
        row, pair = self._rollouts[rollout], self._pair
        response = self._response(rollout)
        ids = torch.tensor(row["prompt_token_ids"] + response[:-1])
        seen = row["teacher_prompt_token_ids"] or row["prompt_token_ids"]
        with torch.no_grad():
            states = pair.teacher.hidden_states(torch.tensor(seen + response[:-1])[None])
        head = pair.teacher.head.cut(0, pair.ids)
        rows = TeacherRows(head, states[0, len(seen) - 1 :], temperature=pair.temperature)
        return ids, len(row["prompt_token_ids"]), rows


def write_tokens(
    run: Run,
    names: tuple[str, str],
    maker: TokenDerivatives,
    rollouts: Sequence[int],
    progress: Progress,
    *,
    weights: Mapping[str, Any],
) -> pl.DataFrame:
    """Differentiate some rollouts, part by part; parts that are there are kept.

    A part is kept if it was made from the same weights with the same options, or with random
    directions where none are asked for.

    Args:
        run: The run.
        names: The two checkpoints.
        maker: What differentiates.
        rollouts: Their row numbers, in the order of the sample.
        progress: Told of the tokens that are done.
        weights: What identifies the weights of all three models, JSON values.

    Returns:
        Rows of `UPDATE_TOKENS`.
    """
    made_from = {**weights, **maker.options}
    folder = run.path / "updates" / f"{names[0]}--{names[1]}"
    frames = []
    for start in range(0, len(rollouts), PART_ROLLOUTS):
        wanted = list(rollouts[start : start + PART_ROLLOUTS])
        path = folder / f"part-{start // PART_ROLLOUTS:05d}.parquet"
        part = _known_part(path, wanted, made_from)
        if part is None:
            parts = []
            for rollout in wanted:
                parts.append(maker.of_rollout(rollout))
                progress.advance(parts[-1].height)
            part = pl.concat(parts)
            write_table(part, path, {METADATA_KEY: json.dumps(made_from, sort_keys=True)})
        else:
            progress.advance(part.height)
        frames.append(part)
    return _with_realised(run, names, pl.concat(frames))


def seconds_per_rollout(maker: TokenDerivatives, rollout: int) -> float:
    """Time one rollout, after a first one that pays for what is paid once."""
    maker.of_rollout(rollout)
    begin = time.perf_counter()
    maker.of_rollout(rollout)
    return time.perf_counter() - begin


def _known_part(path: Path, wanted: list[int], made_from: Mapping[str, Any]) -> pl.DataFrame | None:
    """Read a part if it holds just the rollouts that are wanted, made from the same models."""
    if not path.exists():
        return None
    known = json.loads(read_metadata(path).get(METADATA_KEY, "{}"))
    enough = max(known.get("draws", 0), made_from["draws"])
    if known != {**made_from, "draws": enough}:
        return None
    part = read_parquet(path)
    held = part["rollout"].unique(maintain_order=True).to_list()
    return part if held == wanted else None


def _with_realised(run: Run, names: tuple[str, str], tokens: pl.DataFrame) -> pl.DataFrame:
    """Put the change of KL between the two checkpoints beside the derivatives."""
    sides = []
    for name in names:
        wanted = tokens["rollout"].unique().to_list()
        scored = run.tokens(name).filter(pl.col("rollout").is_in(wanted))
        sides.append(scored.select("rollout", "position", "reverse_kl", "forward_kl").collect())
    both = sides[0].join(sides[1], on=["rollout", "position"], suffix="_after")
    changes = both.select(
        "rollout",
        "position",
        realised_reverse_kl=pl.col("reverse_kl_after") - pl.col("reverse_kl"),
        realised_forward_kl=pl.col("forward_kl_after") - pl.col("forward_kl"),
    )
    joined = tokens.join(changes, on=["rollout", "position"], how="left")
    named = joined.with_columns(checkpoint=pl.lit(names[1]), checkpoint_from=pl.lit(names[0]))
    named = named.sort("rollout", "position").select(polars_schema(UPDATE_TOKENS).names())
    return check_table(named, UPDATE_TOKENS, "update_tokens")


def _nulls(values: npt.NDArray[np.float32]) -> pl.Series:
    return pl.Series(values.astype(np.float32)).fill_nan(None)
