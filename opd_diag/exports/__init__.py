"""Turn findings into masks and weights that trainers load, each with its control arms."""

import contextlib
import json
import shutil
from collections.abc import Iterator, Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import polars as pl

from opd_diag.errors import OptionError, RolloutError, StorageError
from opd_diag.exports import online
from opd_diag.exports.controls import control_weights
from opd_diag.exports.formats import FORMATS, format_module
from opd_diag.exports.rules import Keep, weigh
from opd_diag.exports.samples import samples
from opd_diag.exports.weights import TokenWeights
from opd_diag.tables.arguments import at_least
from opd_diag.tables.files import atomic_path
from opd_diag.tables.run import Run, open_run

__all__ = ["Exported", "export", "token_weights"]

UNFINISHED = ".unfinished"  # folder in which an export is written


class Exported(NamedTuple):
    """What `export` wrote.

    Attributes:
        arms: What each arm keeps: arm, path, rollouts, tokens_in_loss, tokens_kept, token_share,
            reverse_kl_share, gradient_share (of the summed grad_logits), mean_weight.
        manifest: The file that says what made the export.
        rule: The calibrated rule for new rollouts; None where the rule has none.
        loaded_by: How the trainer is told to load an arm.
    """

    arms: pl.DataFrame
    manifest: Path
    rule: Path | None
    loaded_by: str


def token_weights(
    run: Run | str | Path,
    *,
    rule: str,
    checkpoint: str | None = None,
    keep: Keep = "loss",
    rock_weight: float = 0.0,
    window: int = 0,
    soft: bool = False,
    seed: int = 0,
) -> pl.DataFrame:
    """Weigh every response token of a run by a rule.

    Weights belong to the target: the weight of token t multiplies the loss of predicting t. Tokens
    outside the loss weigh 0.

    Args:
        run: A run, or its folder.
        rule: `release` (0 from the release point), `trap` (0 from the cut of a low-KL stretch),
            `rock` (`rock_weight` on rock types), `selector:NAME@BUDGET` (1 on the tokens that a
            selector chooses, such as `selector:d_learn@10%`), `mask:FILE` (a Parquet file with
            rollout, position and weight), or `all` (1 throughout).
        checkpoint: Checkpoint whose results and features are used; None: the last one, and for a
            selector that of `teachability_features`.
        keep: `release` only. `loss` scales what is kept so that each rollout's loss keeps its mass
            [paper]; `tokens` leaves 1.
        rock_weight: `rock` only. Weight of rock tokens.
        window: `rock` only. Tokens on either side of a rock's high-loss occurrences (at or above
            the 95th percentile of the run) that get that weight too.
        soft: `selector` only. The score itself as weight, with mean 1 over the loss.
        seed: Seed of ties and of `selector:random`.

    Returns:
        rollout, position, weight: one row per response token, sorted.

    Raises:
        OptionError: If the rule is unknown or an option makes no sense with it.
        TableError: If the result that the rule needs is missing or stale or leaves out rollouts
            (the message names the command that makes it), or a mask does not fit the run.

    Source: arXiv 2605.13643 (release), 2606.09471 (trap), 2605.09253 (rock), 2605.26844
        (selectors).
    """
    return _weigh(
        run if isinstance(run, Run) else open_run(run),
        rule,
        checkpoint=checkpoint,
        keep=keep,
        rock_weight=rock_weight,
        window=window,
        soft=soft,
        seed=seed,
    ).frame()


def export(
    run: Run | str | Path,
    *,
    rule: str,
    to: str,
    out: str | Path,
    control: int = 0,
    checkpoint: str | None = None,
    keep: Keep = "loss",
    rock_weight: float = 0.0,
    window: int = 0,
    soft: bool = False,
    force: bool = False,
    seed: int = 0,
) -> Exported:
    """Write the rollouts of a run with the weights of a rule, as a trainer loads them.

    Beside the arm of the rule stand control arms that drop as many tokens in the same shape, and
    `export.json` with what each arm keeps of tokens, KL and gradient. `rule.json` is the calibrated
    rule for new rollouts, and `apply_rule.py` a plain Python reference of how it is applied.

    Args:
        run: A run, or its folder.
        rule: See `token_weights`.
        to: `parquet`, `slime`, `miles`, `verl`, `trl`, `llama-factory`, `axolotl`, `skyrl`,
            `ms-swift`, `tinker` or `prime-rl`.
        out: Folder of the export; one that exists has to be an earlier export.
        control: Number of control arms.
        checkpoint: See `token_weights`.
        keep: See `token_weights`.
        rock_weight: See `token_weights`.
        window: See `token_weights`.
        soft: See `token_weights`.
        force: Export rollouts that were tokenised again from text, too: their ids may differ from
            those that were generated.
        seed: Seed of ties and controls.

    Returns:
        What was written.

    Raises:
        OptionError: If the rule or format is unknown, or the format cannot hold the weights.
        TableError: If a result is missing or stale or leaves out rollouts, or a mask does not fit
            the run.
        RolloutError: If rollouts were tokenised again from text, without `force`.
        StorageError: If a file cannot be written, or `out` holds something else.
    """
    opened = run if isinstance(run, Run) else open_run(run)
    if to not in FORMATS:
        raise OptionError(f"to: {to!r}; expected one of {', '.join(FORMATS)}")
    at_least(0, control=control)
    if control and rule == "all":
        raise OptionError("control: rule 'all' drops nothing; expected no control arms")
    again = int((~opened.rollouts["token_exact"]).sum())
    if again and not force:
        raise RolloutError(
            f"{opened.path}: {again:,} of {opened.rollouts.height:,} rollouts were tokenised again "
            "from text, so their ids may differ from those that were generated; expected "
            "token-exact rollouts (--force exports them all the same)"
        )
    weights = _weigh(
        opened,
        rule,
        checkpoint=checkpoint,
        keep=keep,
        rock_weight=rock_weight,
        window=window,
        soft=soft,
        seed=seed,
    )
    if rule != "all" and (weights.weight[weights.in_loss] == 1).all():
        raise OptionError(
            f"rule: {rule!r} gives every token in the loss of {opened.path} the weight 1; expected "
            "one that drops tokens or weighs them, or rule 'all'"
        )
    module = format_module(to)
    if module.BINARY and not weights.binary:
        raise OptionError(
            f"to: {to} holds no weights but 0 and 1, and rule {rule!r} gives others; expected "
            "another format" + (", or --keep tokens" if rule == "release" else "")
        )
    folder = Path(out)
    with _unfinished_export(folder) as unfinished:
        arms = {"rule": weights}
        arms |= {
            f"control-{i}": control_weights(weights, seed=seed + i) for i in range(1, control + 1)
        }
        rows = [
            {"arm": name, "path": str(folder / path.relative_to(unfinished)), **_kept(arm)}
            for name, arm in arms.items()
            for path in [module.write(samples(arm), unfinished / name)]
        ]
        calibrated = None
        if weights.calibrated is not None:
            _write_json(unfinished / "rule.json", weights.calibrated)
            calibrated = folder / "rule.json"
            with atomic_path(unfinished / "apply_rule.py") as temporary:
                shutil.copyfile(str(online.__file__), temporary)
        options = {
            "rule": rule,
            "to": to,
            "control": control,
            "checkpoint": checkpoint,
            "keep": keep,
            "rock_weight": rock_weight,
            "window": window,
            "soft": soft,
            "seed": seed,
        }
        manifest = {
            "opd-diag export": version("opd-diag"),
            "options": options,
            "input_hash": opened.input_hash(opened.checkpoints),
            "tokenised_again": again,
            "denominator": "all arms have the same rollouts and the same tokens in the loss; "
            "divide by these, not by what an arm keeps, to compare them",
            "loaded_by": module.LOADED_BY,
            "arms": rows,
        }
        _write_json(unfinished / "export.json", manifest)
    return Exported(pl.DataFrame(rows), folder / "export.json", calibrated, module.LOADED_BY)


def _weigh(run: Run, rule: str, **options: Any) -> TokenWeights:
    """Check the options that belong to one rule alone, and weigh."""
    kind = rule.partition(":")[0]
    if options["keep"] not in ("loss", "tokens"):
        raise OptionError(f"keep: {options['keep']!r}; expected loss or tokens")
    if not 0 <= options["rock_weight"] < np.inf:
        raise OptionError(f"rock_weight: {options['rock_weight']}; expected 0 or more")
    at_least(0, window=options["window"], seed=options["seed"])
    for name, unset, owner in (
        ("rock_weight", 0.0, "rock"),
        ("window", 0, "rock"),
        ("soft", False, "selector"),
    ):
        if options[name] != unset and kind != owner:
            raise OptionError(f"{name}: rule {rule!r} has no such option; expected rule {owner}")
    return weigh(run, rule, **options)


def _kept(weights: TokenWeights) -> dict[str, Any]:
    """Say what an arm keeps; shares are of the tokens in the loss."""
    inside, kept = weights.in_loss, weights.weight > 0
    shares = {}
    for name, column in (("reverse_kl", "reverse_kl"), ("gradient", "grad_logits")):
        values = np.nan_to_num(weights.tokens.column(column).astype(np.float64))
        total = values[inside].sum()
        shares[f"{name}_share"] = float(values[kept].sum() / total) if total > 0 else None
    n = int(inside.sum())
    return {
        "rollouts": int(weights.lengths.size),
        "tokens_in_loss": n,
        "tokens_kept": int(kept.sum()),
        "token_share": float(kept.sum() / max(n, 1)),
        **shares,
        "mean_weight": float(weights.weight[inside].mean(dtype=np.float64)) if n else None,
    }


@contextlib.contextmanager
def _unfinished_export(folder: Path) -> Iterator[Path]:
    """Give a folder to write to, and put it in the place of an earlier export once it is whole."""
    unfinished = folder / UNFINISHED
    missing = not folder.exists()
    try:
        held = set() if missing else {path.name for path in folder.iterdir()}
        if held - {UNFINISHED} and "export.json" not in held:
            raise StorageError(f"{folder}: not empty and no earlier export; expected a new folder")
        if UNFINISHED in held:
            shutil.rmtree(unfinished)
        unfinished.mkdir(parents=True)
        try:
            yield unfinished
        except BaseException:
            shutil.rmtree(folder if missing else unfinished, ignore_errors=True)
            raise
        for path in folder.iterdir():
            if path != unfinished:
                shutil.rmtree(path) if path.is_dir() else path.unlink()
        for path in sorted(unfinished.iterdir(), key=lambda path: path.name == "export.json"):
            path.rename(folder / path.name)
        unfinished.rmdir()
    except NotADirectoryError:
        raise StorageError(f"{folder}: a file; expected a folder") from None
    except OSError as error:
        if isinstance(error, StorageError):
            raise
        raise StorageError(f"{folder}: {error.strerror}; expected a folder to write") from error


def _write_json(path: Path, content: Mapping[str, Any]) -> Path:
    with atomic_path(path) as temporary:
        temporary.write_text(json.dumps(content, indent=1, allow_nan=False) + "\n")
    return path
