"""Describe interventions in a few lines; the answers stand among the findings."""

from collections.abc import Sequence
from typing import Any

from opd_diag.analyses import wording
from opd_diag.tables.columns.interventions import CONTROL, RANDOM, RECOVERABLE, SINGLE, UNMASKED

MOST_SINGLES = 10


def summary_lines(result: Any) -> list[str]:
    """Describe the tables of an intervention.

    Args:
        result: The tables of `knock_out`, `continuation` or `replacement`.
    """
    fields = result._fields[0]
    write = {"knock_out": _knock_out, "continuation": _continuation, "replacement": _replacement}
    rows: list[wording.Row] = getattr(result, fields).to_dicts()
    return write[fields](rows)


def points(row: wording.Row, name: str) -> str:
    """Write a difference of shares in points, with its interval."""
    value, low, high = (row[f"{name}{end}"] for end in ("", "_low", "_high"))
    if value is None:
        return wording.MISSING
    text = f"{100 * value:+.1f} points"
    return text if low is None else f"{text} [{100 * low:+.1f}, {100 * high:+.1f}]"


def _knock_out(rows: Sequence[wording.Row]) -> list[str]:
    unmasked = [row for row in rows if row["kind"] == UNMASKED]
    first = rows[0]
    lines = [
        f"{first['checkpoint']}: {first['n_problems']} problems, verifier {first['verifier']}, "
        f"engine {first['engine']}",
        f"  without a ban: {', '.join(wording.share(row['accuracy']) for row in unmasked)} right "
        "(repeats with other random numbers)",
    ]
    singles = [row for row in rows if row["kind"] == SINGLE]
    for row in [row for row in rows if row["kind"] not in (UNMASKED, SINGLE)]:
        lines.append(f"  {row['arm']} ({row['n_types']} types): {_banned(row)}")
        if row["control_difference"] is not None:
            lines.append(
                f"    against types as frequent: {points(row, 'control_difference')}, "
                f"{wording.p_value(row['control_p'])}; {100 * row['smallest']:.1f} points would "
                "have been shown"
                if row["smallest"] is not None
                else f"    against types as frequent: {points(row, 'control_difference')}"
            )
        elif row["kind"] not in (CONTROL, RANDOM) and row["reason"]:
            lines.append(f"    ({row['reason']})")
    for row in sorted(singles, key=lambda row: row["p_adjusted"] or 1)[:MOST_SINGLES]:
        adjusted = wording.p_value(row["p_adjusted"])
        lines += [
            f"  {row['arm']} ({row['text']!r}): {points(row, 'difference')}, adjusted {adjusted}"
        ]
    return lines


def _banned(row: wording.Row) -> str:
    saved = row["variance_saved"]
    return (
        f"{wording.share(row['accuracy'])} right, {points(row, 'difference')} against no ban; "
        f"{wording.share(row['changed'])} of the responses differ"
        + ("" if saved is None else f"; variance saved {saved:.2f} times")
    )


def _continuation(rows: Sequence[wording.Row]) -> list[str]:
    first = rows[0]
    lines = [f"{first['checkpoint']}, cut by {first['cut']}, verifier {first['verifier']}"]
    for row in rows:
        beside = "the same depth elsewhere" if row["measure"] == RECOVERABLE else "no cut"
        lines += [
            f"  {row['measure']}, {row['model']} (k = {row['k']}, {row['n_prefixes']} rollouts "
            f"of {row['n_problems']} problems): {wording.estimate(row, 'value', 'share')}, "
            f"{points(row, 'difference')} against {beside}"
        ]
    return lines


def _replacement(rows: Sequence[wording.Row]) -> list[str]:
    lines = [f"{rows[0]['checkpoint']}: change of the answer's log-prob by replacing a token"]
    for row in rows:
        lines.append(
            f"  {row['group']}: {wording.estimate(row, 'change', 'nat')} "
            f"({row['n']} tokens of {row['n_types']} types)"
        )
        if row["difference"] is not None:
            lines.append(
                f"    minus others alike: {wording.estimate(row, 'difference', 'nat')}, "
                f"{wording.p_value(row['p'])}"
            )
    return lines
