"""Apply an exported rule to new rollouts: plain Python, nothing to install, one function a rule.

A mask fits the rollouts that it was made from. `rule.json`, written beside it, holds what carries
over: thresholds, quantiles and token ids. `weights(rule, ...)` gives the weight of each response
token of one new rollout.

    import json

    rule = json.load(open("rule.json"))
    weights(rule, positions=[...], segments=[...], margins=[...])  # release
    weights(rule, positions=[...], reverse_kl=[...])               # trap
    weights(rule, positions=[...], token_ids=[...], loss=[...])    # rock; loss only with a window
    weights(rule, positions=[...], entropy=[...], divergence=[...],
            compatibility=[...], rollout=0)                        # selector

Every list holds one value per response token that is in the loss; None where a measured one is not
known. `positions` are the places of these tokens in the response, from 0. They show where a tool or
a user wrote: no scan for a release point and no window of a trap goes across that. Without them
the tokens follow each other.
`rollout` is a number of your own for each rollout: with the positions it says which of the tokens
that tie at the threshold of a selector are chosen.
"""

import math
from itertools import pairwise
from typing import Any, TypeGuard

SHORTEST_TURN = 2  # tokens outside the loss that end a span: fewer are no text of others
WORD = 2**64 - 1


def weights(rule: dict[str, Any], *, rollout: int = 0, **columns: list[Any]) -> list[float]:
    """Return the weight of each response token of one rollout.

    Args:
        rule: What `rule.json` holds.
        rollout: A number of the rollout; a selector draws what ties at its threshold by it.
        **columns: Lists of one value per token: those that the rule's function below names.

    Raises:
        ValueError: If the rule is unknown, lists are of unequal length, or positions do not rise.
    """
    if len({len(values) for values in columns.values()}) > 1:
        raise ValueError("columns: unequal lengths; expected one value per token in each")
    if rule.get("rule") not in RULES:
        raise ValueError(f"rule: {rule.get('rule')!r}; expected one of {', '.join(RULES)}")
    places = columns.get("positions") or []
    if any(later <= place for place, later in pairwise(places)):
        raise ValueError("positions: not rising; expected places in the response, in order")
    if rule["rule"] == "selector":
        return selector(rule, rollout=rollout, **columns)
    answer: list[float] = RULES[rule["rule"]](rule, **columns)
    return answer


def release(
    rule: dict[str, Any],
    *,
    segments: list[int],
    margins: list[float | None],
    positions: list[int] | None = None,
) -> list[float]:
    """Weigh by the release rule: 1 (or the scale that keeps the loss mass), then 0.

    Every span that the model wrote without a break is scanned by itself; the first one that is
    released counts.

    Args:
        rule: What `rule.json` holds.
        segments: Number of each token's segment, rising from 0.
        margins: The teacher's log-prob gap between its two likeliest tokens among the student's
            K likeliest, nat.
        positions: Place of each token in the response.
    """
    begins = span_begins(positions, len(segments))
    spans: list[list[tuple[int, list[float | None]]]] = []  # first token and margins of segments
    for place, (segment, margin) in enumerate(zip(segments, margins, strict=True)):
        if begins[place]:
            spans.append([])
        if begins[place] or segment != segments[place - 1]:
            spans[-1].append((place, []))
        spans[-1][-1][1].append(margin)
    for span in spans:
        kept = _release_of(rule, span)
        if kept:
            scale = len(segments) / kept if rule["keep"] == "loss" else 1.0
            return [scale] * kept + [0.0] * (len(segments) - kept)
    return [1.0] * len(segments)


def _release_of(rule: dict[str, Any], span: list[tuple[int, list[float | None]]]) -> int:
    """Give the token at which a span is released, 0 where it is not."""
    scores, sizes, firsts = [], [], []
    for first, margins in span:
        measured = [margin for margin in margins if _known(margin)]
        if measured:  # a segment without any margin has no score
            scores.append(math.log1p(sum(measured) / len(measured)))
            sizes.append(len(margins))
            firsts.append(first)
    if len(scores) < max(1, rule["min_segments"]) or max(scores) - min(scores) < 1e-6:
        return 0
    tau, value = downward_shift(
        scores,
        min_size=rule["min_size"],
        sizes=sizes if rule["token_weighted"] else None,
        statistic=rule["statistic"],
    )
    return firsts[tau] if tau and value > rule["threshold"] else 0


def span_begins(positions: list[int] | None, count: int) -> list[bool]:
    """Tell which tokens begin a span: the first, and those behind what others wrote."""
    if positions is None:
        return [place == 0 for place in range(count)]
    gaps = [later - place for place, later in pairwise(positions)]
    return [True, *(gap > SHORTEST_TURN for gap in gaps)][:count]


def _known(value: float | None) -> TypeGuard[float]:
    """Tell whether a value was measured: it is neither None nor NaN."""
    return value is not None and value == value


def downward_shift(
    scores: list[float], *, min_size: int, sizes: list[int] | None = None, statistic: str = "bic"
) -> tuple[int, float]:
    """Find the downward shift of the mean with the largest statistic.

    Args:
        scores: One for each segment.
        min_size: Fewest segments on each side.
        sizes: Tokens of each segment, by which it is weighed; None: all alike.
        statistic: `bic`, the gain in BIC in nat, or `cusum`, the largest cumulative sum over the
            root of the sum of squares.

    Returns:
        Scores before the shift and the statistic; (0, -inf) where no split goes down.
    """
    n, tiny = len(scores), 1e-12
    if n < 2 * min_size:
        return 0, -math.inf
    weights = [1.0] * n if sizes is None else [size * n / sum(sizes) for size in sizes]
    centre = sum(w * score for w, score in zip(weights, scores, strict=True)) / n
    moved = [w * (score - centre) for w, score in zip(weights, scores, strict=True)]
    whole = sum(one * (score - centre) for one, score in zip(moved, scores, strict=True))
    rounding = tiny * math.sqrt(whole * n)  # equal means leave no more than this
    fall, left = 0.0, 0.0  # the cumulative sum, and the weight before the split
    candidates = []
    for tau in range(1, n):
        fall += moved[tau - 1]
        left += weights[tau - 1]
        if tau < min_size or n - tau < min_size or fall <= rounding:
            continue
        candidates.append((tau, fall, max(whole - fall * fall * n / (left * (n - left)), 0.0)))
    if not candidates:
        return 0, -math.inf
    if statistic == "cusum":
        largest = max(one for _, one, _ in candidates)
        tau = max(tau for tau, one, _ in candidates if one >= largest - rounding)
        return tau, largest / math.sqrt(max(whole, tiny))
    best = min(rss for _, _, rss in candidates)
    tau, _, rss = [one for one in candidates if one[2] <= best + tiny * whole][-1]
    gain = n * math.log((whole + tiny) / n) - n * math.log((rss + tiny) / n) - 2 * math.log(n)
    return tau, gain


def trap(
    rule: dict[str, Any], *, reverse_kl: list[float | None], positions: list[int] | None = None
) -> list[float]:
    """Weigh by the trap rule: 0 from the first token of the first persistent low window.

    A window lies inside a span that the model wrote without a break, and tokens without a KL count
    nowhere. Windows that end before `grace` tokens are passed over.
    """
    window, wanted = rule["window"], rule["consecutive"]
    begins = span_begins(positions, len(reverse_kl))
    values: list[float] = []  # those that are known, and their places
    places: list[int] = []
    begin, total, run = 0, 0.0, 0
    for place, value in enumerate(reverse_kl):
        if begins[place]:
            begin, total, run = len(values), 0.0, 0
        if not _known(value):
            continue
        values.append(value)
        places.append(place)
        total += value
        if len(values) - begin > window:
            total -= values[-1 - window]
        if len(values) - begin >= window and len(values) >= rule["grace"]:
            run = run + 1 if total / window < rule["threshold"] else 0
            if run == wanted:
                kept = places[len(values) - wanted + 1 - window]
                return [1.0] * kept + [0.0] * (len(reverse_kl) - kept)
    return [1.0] * len(reverse_kl)


def rock(
    rule: dict[str, Any],
    *,
    token_ids: list[int],
    loss: list[float | None] | None = None,
    positions: list[int] | None = None,
) -> list[float]:
    """Weigh rock types, and a window around their high-loss occurrences, by the rule's weight.

    The window counts places of the response, those outside the loss too.
    """
    rocks, window = set(rule["token_ids"]), rule["window"]
    marked = [token in rocks for token in token_ids]
    if window:
        if loss is None:
            raise ValueError("loss: missing; expected one value per token for a rule with a window")
        places = range(len(token_ids)) if positions is None else positions
        for peak, (token, value) in enumerate(zip(token_ids, loss, strict=True)):
            if token in rocks and value is not None and value >= rule["loss_threshold"]:
                for near in range(max(0, peak - window), min(len(marked), peak + window + 1)):
                    marked[near] |= abs(places[near] - places[peak]) <= window
    return [rule["weight"] if mark else 1.0 for mark in marked]


def selector(
    rule: dict[str, Any],
    *,
    entropy: list[float | None],
    divergence: list[float | None],
    compatibility: list[float | None],
    positions: list[int] | None = None,
    rollout: int = 0,
) -> list[float]:
    """Weigh the tokens of the largest scores, down to where the budget was spent: 1, others 0.

    Among tokens whose score equals the threshold those of larger divergence are taken first, where
    the rule has a threshold of it, and of those that are equal in both a share, drawn by a hash of
    rollout and position.

    With `soft` the score itself, whose mean over all tokens of a batch is to be brought to 1. A
    token of which one of the three is not known weighs 0.
    """
    limits = [rule["scale"][name] for name in ("entropy", "divergence", "compatibility")]
    scores: list[float] = []
    for values in zip(entropy, divergence, compatibility, strict=True):
        raw = [value for value in values if _known(value)]
        if len(raw) < 3:
            scores.append(-math.inf)
            continue
        h, d, c = (_scaled(value, *ends) for value, ends in zip(raw, limits, strict=True))
        learn = d * c
        known = {
            "d_learn": learn,
            "d_incompat": d * (1 - c),
            "tip": 1 - (1 - h) * (1 - d),
            "soft_or": 1 - (1 - h) * (1 - learn),
            "entropy": raw[0],
            "divergence": raw[1],
            "compatibility": raw[2],
        }
        scores.append(known[rule["name"]])
    if rule["soft"]:
        return [max(score, 0.0) for score in scores]
    threshold, second = rule["threshold"], rule["divergence_threshold"]
    places = range(len(scores)) if positions is None else positions
    chosen = []
    for score, tied, place in zip(scores, divergence, places, strict=True):
        if score != threshold:
            chosen.append(score > threshold)
        elif second is not None and _known(tied) and tied != second:
            chosen.append(tied > second)
        else:
            chosen.append(hashed_uniform(rollout, place, seed=rule["seed"]) < rule["tie_share"])
    return [1.0 if one else 0.0 for one in chosen]


def hashed_uniform(*keys: int, seed: int) -> float:
    """Give a number in [0, 1) that depends on the keys alone, the same on every machine.

    Source: Steele, Lea and Flood 2014 (the finaliser of SplitMix64).
    """
    state = seed & WORD
    for key in keys:
        state = (state + 0x9E3779B97F4A7C15) & WORD
        state = _mixed(state ^ _mixed((key + 0x9E3779B97F4A7C15) & WORD))
    return float((state >> 11) * 2.0**-53)


def _mixed(z: int) -> int:
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & WORD
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & WORD
    return z ^ (z >> 31)


def _scaled(value: float, low: float, high: float) -> float:
    """Scale a feature to [0, 1] by the 5th and 95th percentile of the run."""
    return min(max((value - low) * (1 / (high - low)), 0.0), 1.0) if high > low else 0.0


RULES: dict[str, Any] = {"release": release, "trap": trap, "rock": rock, "selector": selector}
