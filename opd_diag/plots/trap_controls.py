"""Draw what stands around a low-KL stretch, and the controls of the rule."""

from collections.abc import Sequence

import polars as pl
from matplotlib.axes import Axes

from opd_diag.plots.style import (
    CONTROL,
    TALL,
    WIDE,
    band,
    bars,
    colour,
    counted,
    interval,
    legend_below,
    legend_beside,
    nothing,
    panel,
    readable,
    style,
)
from opd_diag.tables.columns.agreement_traps import AT_TRIGGER, CRUDE, LANDMARK, WITHIN
from opd_diag.tables.columns.tokens import KL_NAMES

LEVEL = 0.05
MOST_TYPES = 24
CONTROLS = ("#C8C8C8", CONTROL, "#4D4D4D", "#000000")  # shuffles, from single tokens to wide blocks

PHASES = ("pre", "agreement", "post", "untriggered")
PHASE_WORDS = ("before", "in the stretch", "after", "rule did\nnot fire")
QUANTITIES = {
    "reverse_kl": KL_NAMES["reverse_kl"],
    "advantage_std": "advantage, standard deviation",
    "teacher_entropy": "teacher entropy",
    "gain_reverse_kl": "fixed-context gain, reverse KL",
    "gain_forward_kl": "fixed-context gain, forward KL",
    "grad_logits": "gradient norm",
    "grad_logits_other": "gradient norm, other checkpoint",
    "teacher_top_prob": "teacher's top probability",
    "overlap": "overlap of the top sets",
    "in_repeat": "tokens in a repetition",
    "correct": "tokens in correct rollouts",
}
MEASURES = {
    "longest_run": "longest run below",
    "prevalence": "rollouts on which it fires",
    "tokens_saved": "tokens saved",
    "stretch_tokens": "length of the stretch",
    "kl_per_token_kept": "KL per token kept",
}
MEANS = {"nat": "KL", "nat/logit": "gradient norms", "share of tokens": "shares"}  # in titles
SIGNALS = ("gain_reverse_kl", "gain_forward_kl", "grad_logits_other", "grad_logits")
COMPARISONS = {
    CRUDE: "crude",
    WITHIN: "within prompts",
    LANDMARK: "running at\ntoken {at}",
    AT_TRIGGER: "running where\nit fires",
}


def trap_phases(table: pl.DataFrame, *, ax: Axes | None = None) -> Axes:
    """Draw the quantities in nat in every phase, beside shuffled blocks of tokens.

    Args:
        table: `trap_phases`; its first checkpoint is drawn.
        ax: Where to draw; None: a new figure.
    """
    return _phases(
        table, ("reverse_kl", "advantage_std", "teacher_entropy", *SIGNALS[:2]), "nat", ax
    )


def trap_phases_gradient(table: pl.DataFrame, *, ax: Axes | None = None) -> Axes:
    """Draw the gradient norms in every phase, beside shuffled blocks of tokens.

    Args:
        table: `trap_phases`; its first checkpoint is drawn.
        ax: Where to draw; None: a new figure.
    """
    return _phases(table, ("grad_logits", "grad_logits_other"), "nat/logit", ax)


def trap_phases_shares(table: pl.DataFrame, *, ax: Axes | None = None) -> Axes:
    """Draw the shares in every phase, beside shuffled blocks of tokens.

    Args:
        table: `trap_phases`; its first checkpoint is drawn.
        ax: Where to draw; None: a new figure.
    """
    shares = ("teacher_top_prob", "overlap", "in_repeat", "correct")
    return _phases(table, shares, "share of tokens", ax)


def _phases(table: pl.DataFrame, names: Sequence[str], unit: str, ax: Axes | None) -> Axes:
    with style():
        ax = panel(ax, size=WIDE)
        rows = table.filter(pl.col("split") == "all", pl.col("quantity").is_in(names))
        rows = rows.filter(pl.col("value").is_not_null())
        if rows.is_empty():
            return nothing(ax, "the rule could fire on no rollout")
        checkpoint = rows["checkpoint"][0]
        rows = rows.filter(pl.col("checkpoint") == checkpoint)
        drawn = [name for name in names if name in rows["quantity"]]
        for i, name in enumerate(drawn):
            own = rows.filter(pl.col("quantity") == name)
            at = [PHASES.index(phase) + 0.16 * (i - (len(drawn) - 1) / 2) for phase in own["phase"]]
            bars(ax, at, *interval(own, "value"), colour=colour(i), label=QUANTITIES[name])
            beside = [place + 0.06 for place in at]
            label = None if i else "the same, blocks shuffled"
            bars(ax, beside, *interval(own, "shuffled"), colour=CONTROL, label=label)
        fired = max(rows.filter(pl.col("phase") == "agreement")["n_rollouts"].to_list(), default=0)
        ax.set_xticks(range(len(PHASES)), PHASE_WORDS)
        ax.set_ylabel(f"mean over tokens ({unit})")
        ax.set_xlabel("place in the rollout")
        around = f"around the low-KL stretches of {counted(fired, 'rollout')}"
        ax.set_title(f"{checkpoint}: {MEANS[unit]} {around}")
        legend_beside(ax)
        return ax


def trap_summary(table: pl.DataFrame, *, ax: Axes | None = None) -> Axes:
    """Draw the rule's figures over those on shuffled blocks of tokens.

    Args:
        table: `trap_summary`.
        ax: Where to draw; None: a new figure.
    """
    with style():
        ax = panel(ax, size=WIDE)
        rows = table.filter(pl.col("group") == "all", pl.col("ratio").is_not_null())
        rows = rows.filter(pl.col("measure").is_in(MEASURES))
        if rows.is_empty():
            return nothing(ax, "no measure has a ratio to shuffled blocks")
        order = list(MEASURES)
        for i, name in enumerate(rows["checkpoint"].unique(maintain_order=True)):
            own = rows.filter(pl.col("checkpoint") == name)
            at = [order.index(measure) + 0.2 * i for measure in own["measure"]]
            label = f"{name} ({counted(own['n_control'][0], 'rollout')})"
            bars(ax, at, *interval(own, "ratio"), colour=colour(i), label=label, horizontal=True)
        ax.axvline(1, color=CONTROL, linestyle="--", label="as shuffled")
        ax.set_yticks(range(len(order)), [MEASURES[measure] for measure in order])
        ax.invert_yaxis()
        ax.set_xlabel("observed / shuffled (ratio)")
        ax.set_title("The rule against shuffled blocks of tokens")
        legend_beside(ax)
        return ax


def trap_persistence(table: pl.DataFrame, *, ax: Axes | None = None) -> Axes:
    """Draw the longest run below the threshold, beside that of shuffled blocks of every size.

    Args:
        table: `trap_persistence`.
        ax: Where to draw; None: a new figure.
    """
    with style():
        ax = panel(ax, size=TALL)
        rows = table.filter(pl.col("longest_run").is_not_null())
        if rows.is_empty():
            return nothing(ax, "the rule could fire on no rollout")
        names = rows["checkpoint"].unique(maintain_order=True).to_list()
        sizes = rows["block", "keeps_course"].unique().sort("block", "keeps_course").rows()
        step = 0.7 / (len(sizes) + 1)
        for i, name in enumerate(names):
            own = rows.filter(pl.col("checkpoint") == name)
            label = "observed" if not i else None
            bars(ax, [i], *interval(own[:1], "longest_run"), colour=colour(1), label=label)
        for j, (block, keeps_course) in enumerate(sizes):
            own = rows.filter(block=block, keeps_course=keeps_course)
            at = [names.index(name) + (j + 1) * step for name in own["checkpoint"]]
            words = f"blocks of {block} shuffled" if block > 1 else "single tokens shuffled"
            label = f"{words}, steady course kept" if keeps_course else words
            shade = CONTROLS[j % len(CONTROLS)]
            bars(ax, at, *interval(own, "shuffled"), colour=shade, label=label)
        ax.set_xticks([i + len(sizes) * step / 2 for i in range(len(names))], names)
        ax.set_ylim(bottom=0)
        ax.set_xlabel("checkpoint")
        ax.set_ylabel("longest run below the threshold (windows)")
        n = counted(max(rows["n"].to_list()), "rollout")
        ax.set_title(f"Low-KL runs against shuffled blocks of tokens ({n})")
        legend_below(ax)
        return ax


def trap_outcomes(table: pl.DataFrame, *, ax: Axes | None = None) -> Axes:
    """Draw by how much more often rollouts are wrong where the rule fires, within prompts.

    Args:
        table: `trap_outcomes`.
        ax: Where to draw; None: a new figure.
    """
    with style():
        ax = panel(ax, size=TALL)
        rows = table.filter(pl.col("difference_low").is_not_null())
        if rows.is_empty():
            return nothing(ax, "too few outcomes to compare")
        key = ["comparison", "at_token"]
        known = table.select(key).unique(maintain_order=True)
        kinds = known.join(rows, on=key, how="semi", nulls_equal=True).rows()
        for i, name in enumerate(rows["checkpoint"].unique(maintain_order=True)):
            own = rows.filter(pl.col("checkpoint") == name)
            at = [kinds.index(kind) + 0.2 * i for kind in own.select(key).iter_rows()]
            values = interval(own, "difference")
            bars(ax, at, *values, colour=colour(i), label=str(name), horizontal=True)
        ax.axvline(0, color=CONTROL, linestyle="--", label="no difference")
        words = [COMPARISONS[kind].format(at=token) for kind, token in kinds]
        ax.set_yticks(range(len(kinds)), words)
        ax.invert_yaxis()
        ax.set_xlabel("wrong where it fires minus wrong elsewhere (share of rollouts)")
        ax.set_title(f"Outcomes of {counted(rows['n'][0], 'rollout')}, by whether the rule fires")
        legend_below(ax)
        return ax


def trap_cuts(table: pl.DataFrame, *, ax: Axes | None = None) -> Axes:
    """Draw the signal per token kept against the tokens kept, for every way to keep them.

    Args:
        table: `trap_cuts`; of its first checkpoint the gain, or a gradient norm without one.
        ax: Where to draw; None: a new figure.
    """
    known = table.filter(pl.col("kept").is_not_null())["signal"].to_list()
    signal = next((name for name in SIGNALS if name in known), SIGNALS[0])
    return _cuts(table, signal, ax)


def trap_cuts_correct(table: pl.DataFrame, *, ax: Axes | None = None) -> Axes:
    """Draw the share of the kept tokens that stand in correct rollouts, for every way to keep them.

    Args:
        table: `trap_cuts`; its first checkpoint is drawn.
        ax: Where to draw; None: a new figure.
    """
    return _cuts(table, "correct", ax)


def _cuts(table: pl.DataFrame, signal: str, ax: Axes | None) -> Axes:
    with style():
        ax = panel(ax, size=WIDE)
        rows = table.filter(pl.col("signal") == signal, pl.col("kept").is_not_null())
        if rows.is_empty():
            return nothing(ax, f"no {QUANTITIES[signal]} to compare")
        checkpoint = rows["checkpoint"][0]
        rows = rows.filter(pl.col("checkpoint") == checkpoint).sort("tokens_kept")
        cut = rows.filter(pl.col("rule") == rows["rule"][0])
        cut = cut.unique("tokens_kept", maintain_order=True)
        band(
            ax,
            cut["tokens_kept"].to_list(),
            *interval(cut, "kept"),
            colour=colour(1),
            label="low-KL cut",
        )
        setting = cut.filter("is_setting")
        ax.plot(setting["tokens_kept"], setting["kept"], "o", color=colour(1))
        rules = rows["rule"].unique(maintain_order=True).to_list()
        others = [name for name in rules if name != "shuffled KL"]
        for i, name in enumerate(["shuffled KL", *others]):
            own = rows.filter(pl.col("rule") == name, pl.col("rule_kept").is_not_null())
            shade = CONTROL if not i else colour(i + 1)
            if not own.is_empty():
                ax.plot(
                    own["tokens_kept"],
                    own["rule_kept"],
                    ".--",
                    color=shade,
                    linewidth=1,
                    label=name,
                )
        ax.axhline(cut["all_tokens"][0], color="#000000", linewidth=0.8, label="all tokens")
        ax.set_xlabel("tokens kept (share)")
        ax.set_ylabel(f"{QUANTITIES[signal]} per token kept ({cut['unit'][0]})")
        n = counted(cut["n"][0], "rollout")
        ax.set_title(f"{checkpoint}: {QUANTITIES[signal]} kept of {n} (band: 95 %)")
        legend_beside(ax)
        return ax


def trap_sensitivity(table: pl.DataFrame, *, ax: Axes | None = None) -> Axes:
    """Draw the longest run over that of shuffled blocks against prevalence, over all settings.

    Args:
        table: `trap_sensitivity`; its first checkpoint is drawn.
        ax: Where to draw; None: a new figure.
    """
    with style():
        ax = panel(ax, size=WIDE)
        rows = table.filter(pl.col("ratio").is_not_null())
        if rows.is_empty():
            return nothing(ax, "no setting has a ratio to shuffled blocks")
        checkpoint = rows["checkpoint"][0]
        rows = rows.filter(pl.col("checkpoint") == checkpoint)
        for i, window in enumerate(rows["window"].unique().sort()):
            own = rows.filter(pl.col("window") == window)
            bars(
                ax,
                own["prevalence"].to_list(),
                *interval(own, "ratio"),
                colour=colour(i),
                label=f"window of {window} tokens",
            )
        setting = rows.filter("is_setting")
        ax.plot(
            setting["prevalence"],
            setting["ratio"],
            "o",
            markersize=11,
            markerfacecolor="none",
            markeredgecolor="#000000",
            label="the setting asked for",
        )
        ax.axhline(1, color=CONTROL, linestyle="--", label="as shuffled")
        ax.set_xlabel("prevalence (share of rollouts)")
        ax.set_ylabel("longest run below,\nobserved / shuffled (ratio)")
        n = counted(max(rows["n"].to_list()), "rollout")
        ax.set_title(f"{checkpoint}: {counted(rows.height, 'setting')}, {n}")
        legend_beside(ax)
        return ax


def trap_vocabulary(table: pl.DataFrame, *, ax: Axes | None = None) -> Axes:
    """Draw the log-odds of types in the stretches over those outside, beside shuffled KL.

    Args:
        table: `trap_vocabulary`; of its first checkpoint the 24 types of smallest p are drawn.
        ax: Where to draw; None: a new figure.
    """
    with style():
        known = table.drop_nulls(["p", "log_odds"])
        rows = known.filter(pl.col("checkpoint").is_in(known["checkpoint"].head(1).to_list()))
        tested, rows = rows.height, rows.head(MOST_TYPES).sort("log_odds", descending=True)
        ax = panel(ax, size=(TALL[0], 1.6 + 0.24 * max(rows.height, 8)))
        if rows.is_empty():
            return nothing(ax, "no stretch, or no type that is common in five prompts")
        ends = rows["null_p05"], rows["null_p95"]
        ax.hlines(range(rows.height), *ends, color=CONTROL, alpha=0.5, linewidth=7,
                  label="shuffled KL, 5 to 95 % of draws")  # fmt: skip
        beyond = rows["p_adjusted"] <= LEVEL
        for i, (flag, side) in enumerate(((False, "above"), (True, "at most"))):
            at = [place for place, one in enumerate(beyond) if one == flag]
            if at:
                label = f"adjusted p {side} {LEVEL}"
                bars(ax, at, *interval(rows[at], "log_odds"), colour=colour(i), label=label,
                     horizontal=True)  # fmt: skip
        ax.axvline(0, color=CONTROL, linewidth=1)
        words = [
            f"{f'#{token}' if text is None else f'“{readable(text)}”'} ({n:,} / {m:,})"
            for token, text, n, m in rows.select("token_id", "text", "n_in", "n_out").iter_rows()
        ]
        ax.set_yticks(range(rows.height), words)
        for tick in ax.get_yticklabels():
            tick.set_parse_math(False)
        ax.invert_yaxis()
        ax.set_xlabel("log-odds in the stretches over those outside")
        ax.set_ylabel("type (tokens inside / outside)")
        ax.set_title(f"{rows['checkpoint'][0]}: types of low-KL stretches, of {tested:,} tested")
        legend_below(ax)
        return ax
