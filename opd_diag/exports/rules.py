"""The rules that weigh tokens, one function each: from the results of a run to weights."""

from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import polars as pl

from opd_diag.analyses.release_points.options import choose_k, choose_rule
from opd_diag.analyses.teachability.features import RAW, SCORES, teachability_features, tie_order
from opd_diag.analyses.tokens import TokenTable, read_tokens
from opd_diag.errors import OptionError, TableError, first_line
from opd_diag.exports.weights import Integers, Mask, TokenWeights, Weights
from opd_diag.stats.hashing import hashed_uniform, seeded_hash
from opd_diag.stats.ragged import ranges, starts_of
from opd_diag.stats.selection import choose
from opd_diag.tables.files import require_regular
from opd_diag.tables.results import read_result_metadata, result_path
from opd_diag.tables.run import Run
from opd_diag.tables.source import choose_checkpoints, choose_rollouts

RULES = ("all", "release", "trap", "rock", "selector:NAME@BUDGET", "mask:FILE")
SELECTORS = (
    "d_learn",
    "d_incompat",
    "tip",
    "soft_or",
    "entropy",
    "divergence",
    "compatibility",
    "random",
)
HIGH_LOSS = 0.95  # an occurrence of a rock is high-loss at or above this quantile of the run

Keep = Literal["loss", "tokens"]


def weigh(
    run: Run,
    rule: str,
    *,
    checkpoint: str | None,
    keep: Keep,
    rock_weight: float,
    window: int,
    soft: bool,
    seed: int,
) -> TokenWeights:
    """Weigh the response tokens of a run by a rule; arguments as for `token_weights`."""
    kind, _, detail = rule.partition(":")
    names = choose_checkpoints(run, checkpoint)
    name = names[-1]
    tokens = read_tokens(run, choose_rollouts(run.rollouts), name, columns=["in_loss"])
    responses = run.rollouts.sort("rollout")["response_token_ids"].list.len().to_numpy()
    if not np.array_equal(responses, tokens.lengths):
        raise TableError(
            f"{run.path}: the token table holds {int(tokens.lengths.sum()):,} of "
            f"{int(responses.sum()):,} response tokens; expected all (score without "
            "--max-response-tokens)"
        )
    in_loss: Mask = tokens.column("in_loss")
    base: Weights = in_loss.astype(np.float32)
    if kind == "all" and not detail:
        return TokenWeights(tokens, in_loss, base, "tokens", None)
    if kind == "release" and not detail:
        return _release(run, name, tokens, in_loss, base, keep)
    if kind == "trap" and not detail:
        return _trap(run, name, tokens, in_loss, base)
    if kind == "rock" and not detail:
        return _rock(run, name, tokens, in_loss, base, rock_weight, window)
    if kind == "selector" and "@" in detail:
        return _selector(run, checkpoint, tokens, in_loss, detail, soft, seed)
    if kind == "mask" and detail:
        return _mask(Path(detail), tokens, in_loss)
    raise OptionError(f"rule: {rule!r}; expected one of {', '.join(RULES)}")


def _result(run: Run, name: str, checkpoint: str, rule: str) -> tuple[pl.DataFrame, dict[str, Any]]:
    """Read a result of one checkpoint, and the options that it was made with."""
    command = f"opd-diag analyze {name.replace('_', '-')} {run.path}"
    where = f"rule {rule!r}"
    if name not in run.results():
        raise TableError(f"{where}: no {name} of {run.path}; expected them (run `{command}`)")
    if why := run.why_stale(name):
        raise TableError(f"{where}: {name} is stale, {why}; expected a fresh one (run `{command}`)")
    table = run.result(name).filter(pl.col("checkpoint") == checkpoint)
    if table.is_empty():
        raise TableError(
            f"rule {rule!r}: {name} does not cover checkpoint {checkpoint!r}; expected it "
            f"(run `{command} --checkpoint {checkpoint}`)"
        )
    return table, read_result_metadata(result_path(run.results_folder, name))["arguments"]


def _per_rollout(
    run: Run, tokens: TokenTable, name: str, table: pl.DataFrame, columns: list[str]
) -> pl.DataFrame:
    """Put columns of a result beside the rollouts.

    Raises:
        TableError: If it has no row for some of them: nothing was looked for there.
    """
    rollouts = tokens.rollouts.select("rollout")
    absent = rollouts.join(table, on="rollout", how="anti").height
    if absent:
        raise TableError(
            f"{run.path}: {absent:,} of {rollouts.height:,} rollouts have no row in {name}; "
            "expected one for each (run `opd-diag analyze "
            f"{name.replace('_', '-')} {run.path}` without --policy, --step and --group)"
        )
    return rollouts.join(
        table.select("rollout", *columns), on="rollout", how="left", maintain_order="left"
    )


def _before(tokens: TokenTable, cut: pl.Series) -> Mask:
    """Tell which tokens stand before the cut of their rollout; all where there is none."""
    end = cut.cast(pl.Int64).fill_null(np.iinfo(np.int32).max).to_numpy()
    return np.asarray(tokens.position < np.repeat(end, tokens.lengths))


def _release(
    run: Run, checkpoint: str, tokens: TokenTable, in_loss: Mask, base: Weights, keep: Keep
) -> TokenWeights:
    table, options = _result(run, "release_points", checkpoint, "release")
    points = _per_rollout(run, tokens, "release_points", table, ["release_token", "scale"])
    kept = in_loss & _before(tokens, points["release_token"])
    weight = base * kept
    if keep == "loss":
        scale = points["scale"].fill_null(1.0).to_numpy()
        weight *= np.repeat(scale, tokens.lengths).astype(np.float32)
    chosen = choose_rule(
        options.get("preset") or "opd-diag",
        options.get("statistic") or "bic",
        *(options.get(name) for name in ("min_size", "min_segments", "threshold")),
    )
    calibrated: dict[str, object] = {
        "rule": "release",
        "k": choose_k(options.get("k"), run.k_grid),
        "segmenter": options.get("segmenter") or "punkt",
        "token_weighted": bool(options.get("token_weighted")),
        **chosen._asdict(),
        "keep": keep,
    }
    return TokenWeights(tokens, in_loss, weight, "prefix", calibrated)


def _trap(
    run: Run, checkpoint: str, tokens: TokenTable, in_loss: Mask, base: Weights
) -> TokenWeights:
    table, options = _result(run, "agreement_traps", checkpoint, "trap")
    traps = _per_rollout(run, tokens, "agreement_traps", table, ["cut_token", "threshold"])
    weight = base * _before(tokens, traps["cut_token"])
    calibrated: dict[str, object] = {
        "rule": "trap",
        "window": options.get("window") or 64,
        "consecutive": options.get("consecutive") or 4,
        "grace": options.get("grace") or 0,
        "threshold": traps["threshold"].median(),
    }
    return TokenWeights(tokens, in_loss, weight, "prefix", calibrated)


def _rock(
    run: Run,
    checkpoint: str,
    tokens: TokenTable,
    in_loss: Mask,
    base: Weights,
    rock_weight: float,
    window: int,
) -> TokenWeights:
    # One list serves all checkpoints: the table bears the one that it was ranked under.
    names = list(dict.fromkeys([checkpoint, *reversed(run.checkpoints)]))
    table = options = None
    for name in names:
        try:
            table, options = _result(run, "rock_tokens", name, "rock")
            break
        except TableError:
            if name == names[-1] or "rock_tokens" not in run.results():
                raise
    assert table is not None
    assert options is not None
    rocks = table.filter("is_rock")["token_id"].to_numpy()
    token_id = tokens.column("token_id")
    chosen = np.isin(token_id, rocks) & in_loss
    loss = str(options.get("loss") or "reverse_kl")
    calibrated: dict[str, object] = {
        "rule": "rock",
        "token_ids": rocks.tolist(),
        "weight": rock_weight,
        "window": window,
    }
    if window:
        values = _loss(tokens, loss)
        threshold = float(np.nanquantile(values[in_loss], HIGH_LOSS))
        peaks = np.flatnonzero(chosen & (values >= threshold))
        chosen |= _around(peaks, window, tokens) & in_loss
        calibrated |= {"loss": loss, "loss_threshold": threshold}
    weight = np.where(chosen, np.float32(rock_weight), base)
    return TokenWeights(tokens, in_loss, weight, "tokens", calibrated)


def _loss(tokens: TokenTable, loss: str) -> npt.NDArray[np.float32]:
    if loss != "sampled_log_ratio":
        return np.asarray(tokens.column(loss))
    return np.asarray(tokens.column("student_logp") - tokens.column("teacher_logp"))


def _around(places: npt.NDArray[np.int64], window: int, tokens: TokenTable) -> Mask:
    """Mark tokens within a window of the places, in the same rollout."""
    starts = starts_of(tokens.lengths)
    rollout = np.searchsorted(starts, places, side="right") - 1
    first = np.maximum(places - window, starts[rollout])
    last = np.minimum(places + window, starts[rollout] + tokens.lengths[rollout] - 1)
    marked = np.zeros(int(tokens.lengths.sum()), np.bool_)
    marked[ranges(first, last - first + 1)] = True
    return marked


def _selector(
    run: Run,
    checkpoint: str | None,
    tokens: TokenTable,
    in_loss: Mask,
    detail: str,
    soft: bool,
    seed: int,
) -> TokenWeights:
    name, _, text = detail.partition("@")
    budget = _budget(text)
    if name not in SELECTORS:
        raise OptionError(f"rule: selector {name!r}; expected one of {', '.join(SELECTORS)}")
    features = teachability_features(run, checkpoint=checkpoint, scale="paper")
    known = features.drop("checkpoint", "token_id").collect()
    rollout = np.repeat(tokens.rollouts["rollout"].to_numpy(), tokens.lengths)
    position = tokens.position
    keys = pl.DataFrame({"rollout": rollout, "position": position})
    joined = keys.join(known, on=["rollout", "position"], how="left", maintain_order="left")
    if name == "random":
        score = hashed_uniform(rollout, position, seed=seed + 1)
    else:
        score = joined[name].cast(pl.Float64).fill_null(np.nan).to_numpy()
    able = np.flatnonzero(in_loss & np.isfinite(score))
    if not able.size:
        raise TableError(f"rule: selector {name!r} has no value on any token; expected some")
    divergence = joined["divergence"].fill_null(np.nan).to_numpy()
    order = tie_order(name, divergence, seeded_hash(rollout, position, seed=seed))
    # The budget is a share of the tokens in the loss; those without a score are never chosen.
    among = np.flatnonzero(in_loss)
    known_score = np.where(np.isfinite(score), score, -np.inf)[among]
    share = max(budget, 1 / among.size)
    chosen = among[choose(known_score, [share], order[among]).level == 0]
    weight = np.zeros(in_loss.size, np.float32)
    if soft:
        total = score[able].sum()
        if total <= 0:
            raise TableError(f"rule: selector {name!r} sums to {total:g}; expected more than 0")
        weight[able] = score[able] * (in_loss.sum() / total)
    else:
        weight[chosen] = 1
    if name == "random":
        return TokenWeights(tokens, in_loss, weight, "tokens", None)
    tie = hashed_uniform(rollout, position, seed=seed)
    calibrated: dict[str, object] = {
        "rule": "selector",
        "name": name,
        "budget": budget,
        "soft": soft,
        **_thresholds(score, divergence if name in SCORES else None, tie, able, chosen),
        "seed": seed,
        "scale": {
            column: [
                float(known[column].cast(pl.Float64).quantile(q, "linear") or 0.0)
                for q in (0.05, 0.95)
            ]
            for column in RAW
        },
    }
    return TokenWeights(tokens, in_loss, weight, "tokens", calibrated)


def _thresholds(
    score: npt.NDArray[np.float64],
    divergence: npt.NDArray[np.floating] | None,
    tie: npt.NDArray[np.float64],
    able: Integers,
    chosen: Integers,
) -> dict[str, object]:
    """Say where a selector stopped: at which score, divergence and share of what still ties.

    Without the last two a rule takes every token at the threshold, of which the clip of the scale
    makes more than many a budget holds.

    Args:
        score: Shape (tokens,).
        divergence: What orders equal scores, larger ones first; None: nothing does.
        tie: Number in [0, 1) that orders what is equal in both, smaller ones first.
        able: Tokens that might have been chosen.
        chosen: Those that were.
    """
    threshold, second = score[chosen].min(), None
    equal, taken = (rows[score[rows] == threshold] for rows in (able, chosen))
    if divergence is not None:
        second = divergence[taken].min()
        equal, taken = (rows[divergence[rows] == second] for rows in (equal, taken))
    share = taken.size / equal.size
    if share < 1:
        # Any number in between chooses the same tokens of this run; the share fits other runs.
        last, left = tie[taken].max(), tie[np.setdiff1d(equal, taken)].min()
        share = share if last < share <= left else (last + left) / 2
    return {
        "threshold": float(threshold),
        "divergence_threshold": None if second is None else float(second),
        "tie_share": float(share),
    }


def _budget(text: str) -> float:
    """Read a share of the tokens: `10%` or `0.1`."""
    try:
        value = float(text.removesuffix("%")) / (100 if text.endswith("%") else 1)
    except ValueError:
        value = np.nan
    if not 0 < value <= 1:
        raise OptionError(f"rule: budget {text!r}; expected a share of the tokens, such as 10%")
    return value


def _mask(path: Path, tokens: TokenTable, in_loss: Mask) -> TokenWeights:
    try:
        require_regular(path)
        frame = pl.read_parquet(path, hive_partitioning=False, glob=False)
    except (OSError, pl.exceptions.PolarsError, pl.exceptions.PanicException) as error:
        reason = first_line(error)
        raise TableError(f"{path}: {reason}; expected a Parquet file") from None
    types = frame.schema
    whole = all(name in types and types[name].is_integer() for name in ("rollout", "position"))
    weight_type = types.get("weight", pl.String())
    if not whole or not (weight_type.is_numeric() or weight_type == pl.Boolean):
        raise TableError(
            f"{path}: columns {', '.join(frame.columns)}; expected rollout and position "
            "(integers) and weight (a number)"
        )
    keys = pl.DataFrame(
        {
            "rollout": np.repeat(tokens.rollouts["rollout"].to_numpy(), tokens.lengths),
            "position": tokens.position,
        }
    )
    given = frame.select(
        pl.col("rollout", "position").cast(pl.UInt32, strict=False),
        pl.col("weight").cast(pl.Float32),
    )
    for name in ("rollout", "position"):
        wrong = frame[name].filter(given[name].is_null())
        if len(wrong):
            raise TableError(f"{path}: {name} {wrong[0]}; expected a whole number of 0 or more")
    if given.select("rollout", "position").is_duplicated().any():
        raise TableError(f"{path}: (rollout, position) occurs twice; expected each token once")
    strangers = given.join(keys, on=["rollout", "position"], how="anti")
    if strangers.height:
        first = strangers.row(0)
        raise TableError(
            f"{path}: {strangers.height} tokens are not in the run, first rollout {first[0]} "
            f"position {first[1]}; expected tokens of the run"
        )
    joined = keys.join(given, on=["rollout", "position"], how="left", maintain_order="left")
    weight = joined["weight"].fill_null(0).to_numpy() * in_loss
    if not np.isfinite(weight).all() or (weight < 0).any():
        raise TableError(f"{path}: weights that are negative, NaN or infinite; expected 0 or more")
    return TokenWeights(tokens, in_loss, weight.astype(np.float32), "tokens", None)
