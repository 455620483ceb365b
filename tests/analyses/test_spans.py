"""Responses of several turns: nothing is computed across what a tool or a user wrote."""

import numpy as np
import polars as pl
import pytest

import opd_diag as od
from opd_diag.analyses.agreement_traps.rule import Rule, find_cuts, least_means, longest_spans
from opd_diag.analyses.agreement_traps.same_tokens import find_lows
from opd_diag.analyses.agreement_traps.shuffles import shuffles
from opd_diag.analyses.release_points.online import online_stops
from opd_diag.analyses.release_points.options import Rule as ReleaseRule
from opd_diag.analyses.release_points.points import judge, shuffled_shifts
from opd_diag.analyses.release_points.segments import score_segments
from opd_diag.analyses.tokens import read_tokens
from opd_diag.datasets import null_run
from opd_diag.stats.changepoints import scan_shifts
from opd_diag.stats.windows import minima, moving_means
from opd_diag.tables.source import as_source

SPANS = [1, 2, 20]
RULE = Rule(window=4, eta=0.3, grace=0, consecutive=2)
RELEASE = ReleaseRule(min_size=2, min_segments=6, threshold=1.0)


def made(spans: int, rollouts: int = 12, seed: int = 0):
    """KL, lengths, breaks, and the sizes and rollouts of the spans."""
    rng = np.random.default_rng(seed)
    sizes = rng.integers(1, 30, (rollouts, spans))
    lengths = sizes.sum(axis=1)
    breaks = np.zeros(lengths.sum(), bool)
    starts = np.cumsum(sizes.ravel()) - sizes.ravel()
    breaks[starts] = True
    breaks[np.cumsum(lengths) - lengths] = False
    kl = rng.gamma(0.5, size=breaks.size)
    return kl, lengths, breaks, sizes.ravel(), np.repeat(np.arange(rollouts), spans)


@pytest.mark.parametrize("size", [1, 2, 5])
@pytest.mark.parametrize("spans", SPANS)
def test_a_window_is_a_window_of_one_span(spans, size) -> None:
    kl, lengths, breaks, sizes, owner = made(spans)
    whole = moving_means(kl, lengths, size=size, breaks=breaks)
    alone = moving_means(kl, sizes, size=size)
    assert np.allclose(whole.means[np.isfinite(whole.means)], alone.means)
    least = np.full(len(lengths), np.inf)
    np.fmin.at(least, owner, minima(alone))
    expected = np.where(np.isfinite(least), least, np.nan)
    assert np.array_equal(minima(whole), expected, equal_nan=True)


@pytest.mark.parametrize("window", [1, 4])
@pytest.mark.parametrize("spans", SPANS)
def test_the_rule_fires_where_it_fires_first_in_a_span(spans, window) -> None:
    kl, lengths, breaks, sizes, owner = made(spans)
    rule = RULE._replace(window=window)
    key = window, rule.eta
    level = np.full(len(lengths), np.nanquantile(least_means(kl, lengths, window, breaks), 0.7))
    cuts = find_cuts(kl, lengths, [rule], {key: level}, breaks)[rule]
    alone = find_cuts(kl, sizes, [rule], {key: level[owner]})[rule]
    before = np.cumsum(sizes) - sizes - (np.cumsum(lengths) - lengths)[owner]
    for row in range(len(lengths)):
        own = np.flatnonzero((owner == row) & alone.triggered)
        assert cuts.triggered[row] == bool(own.size)
        assert cuts.longest_run[row] == alone.longest_run[owner == row].max()
        if own.size:
            first = own[0]
            for name in ("kept", "stretch_end", "trigger"):
                assert getattr(cuts, name)[row] == before[first] + getattr(alone, name)[first]
            later = (owner == row) & (np.arange(owner.size) > first)
            windows = np.maximum(sizes[later] - window + 1, 0).sum()
            assert cuts.windows_after[row] == alone.windows_after[first] + windows
    # The same cuts come from the thresholds at which they would be made.
    if window > 1:
        lows = find_lows(kl, lengths, rule, breaks)
        for row in np.flatnonzero(cuts.triggered):
            low = (lows.rollout == row) & (lows.level < level[row])
            assert lows.kept[low].min() == cuts.kept[row]


@pytest.mark.parametrize("spans", SPANS)
def test_shuffles_keep_tokens_in_their_span(spans) -> None:
    _, lengths, breaks, sizes, _ = made(spans)
    span = np.repeat(np.arange(len(sizes)), sizes)
    for order in shuffles(lengths, block=3, draws=2, seed=0, breaks=breaks):
        assert np.array_equal(span[order], span)
        assert np.array_equal(np.sort(order), np.arange(len(span)))
    expected = sizes.reshape(len(lengths), spans).max(axis=1)
    assert np.array_equal(longest_spans(lengths, breaks), expected)


def scored(spans: int, seed: int = 0):
    """Segments of two tokens in rollouts of some spans, each span with a fall or without."""
    rng = np.random.default_rng(seed)
    row, segment, position, margin = [], [], [], []
    for rollout in range(6):
        at = number = 0
        for _ in range(spans):
            count = int(rng.integers(4, 16))
            fall = rng.random() < 0.4
            for place in range(count):
                level = 3.0 - 2.5 * (fall and place >= count // 2) + rng.normal(0, 0.3)
                row += [rollout] * 2
                segment += [number] * 2
                position += [at, at + 1]
                margin += [level] * 2
                at, number = at + 2, number + 1
            at += 5  # a tool's text; the next segment bears the number of the last one
            number -= 1
    arrays = [np.array(values) for values in (row, segment, position)]
    before = np.concatenate([np.arange(n) for n in np.bincount(arrays[0])])
    return arrays, before, np.expm1(np.clip(margin, 0, None))[:, None]


@pytest.mark.parametrize("spans", SPANS)
def test_a_rollout_is_stopped_in_its_first_span_that_is(spans) -> None:
    (row, segment, position), before, margins = scored(spans)
    segments = score_segments(row, segment, position, before, margins, 6)
    stops = online_stops(segments, RELEASE, np.random.default_rng(0))
    ends = np.cumsum(segments.spans)
    for number, stop in enumerate(stops.to_dicts()):
        expected, read = None, 0
        for span in np.flatnonzero(segments.owner == number):
            scores = segments.score[ends[span] - segments.spans[span] : ends[span], 0]
            for i in range(RELEASE.min_segments, len(scores) + 1):
                gain = scan_shifts(scores[:i], [i], min_size=RELEASE.min_size).gain[0]
                if expected is None and gain > RELEASE.threshold:
                    expected = read + i
            read += len(scores)
        assert stop["stop_segments"] == expected
        assert stop["stop_index"] == (None if expected is None else 2 * expected)
    assert stops["stop_segments"].is_not_null().any()


@pytest.mark.parametrize("spans", SPANS)
def test_a_rollout_is_released_at_its_first_span_that_is(spans) -> None:
    (row, segment, position), before, margins = scored(spans)
    segments = score_segments(row, segment, position, before, margins, 6)
    assert segments.tokens.tolist() == [2] * (len(row) // 2)  # none goes on across a tool's text
    assert np.bincount(segments.owner, minlength=6).tolist() == [spans] * 6
    whole = judge(segments, 0, RELEASE)
    alone = judge(segments.by_span(), 0, RELEASE)
    offset = np.cumsum(segments.spans) - segments.spans
    offset -= (np.cumsum(segments.lengths) - segments.lengths)[segments.owner]
    for number, verdict in enumerate(whole.to_dicts()):
        mine = np.flatnonzero(segments.owner == number)
        own = alone[mine.tolist()]
        assert verdict["n_segments"] == own["n_segments"].sum()
        assert verdict["accepted"] == own["accepted"].any()
        assert verdict["accepted_up"] == own["accepted_up"].any()
        assert verdict["gain_up"] == own["gain_up"].max()
        if verdict["accepted"]:
            place = int(own["accepted"].cast(pl.UInt8).arg_max())
            assert verdict["tau"] == own["tau"][place] + offset[mine[place]]
            assert verdict["release_token"] == own["release_token"][place]
            assert verdict["release_index"] == own["release_index"][place]
        else:
            assert verdict["release_token"] is None
            assert verdict["gain"] == own["gain"].max()
    assert whole["accepted"].any()
    if spans == 1:
        return
    # Shuffled inside the spans, a rollout's shift is the largest of its spans.
    rng = np.random.default_rng
    score, sizes, owner = segments.score[:, 0], segments.spans, segments.owner
    drawn = shuffled_shifts(score, sizes, None, RELEASE, repeats=3, rng=rng(1), owner=owner)
    each = shuffled_shifts(score, sizes, None, RELEASE, repeats=3, rng=rng(1))
    expected = np.stack([np.fmax.reduce(each[:, owner == n], axis=1) for n in range(6)], axis=1)
    assert np.array_equal(drawn, expected, equal_nan=True)


def test_segments_of_one_span_are_judged_as_before() -> None:
    (row, segment, position), before, margins = scored(1)
    segments = score_segments(row, segment, position, before, margins, 6)
    assert judge(segments, 0, RELEASE).equals(judge(segments.by_span(), 0, RELEASE))


# --- Through the analyses -------------------------------------------------------------------------


@pytest.fixture(scope="module", params=SPANS)
def run(request):
    """A run in which every rollout has so many spans, and which tokens tools wrote."""
    data = null_run(prompts=8, samples=2, tokens=420, checkpoints=("a",), k_grid=(2, 4))
    place = pl.col("position") % (420 // request.param)
    inside = place < 420 // request.param - 5 * (request.param > 1)
    return data._replace(tokens=data.tokens.with_columns(in_loss=inside)), request.param


def test_breaks_stand_before_the_first_token_after_a_tool(run) -> None:
    data, spans = run
    source = as_source(data.tokens, data.rollouts)
    tokens = read_tokens(source, data.rollouts.sort("rollout"), "a")
    assert tokens.breaks is None
    breaks = tokens.where(tokens.column("in_loss")).breaks
    if spans == 1:
        assert breaks is None
    else:
        assert breaks.sum() == data.rollouts.height * (spans - 1)


def test_what_a_tool_wrote_changes_nothing(run) -> None:
    data, _ = run
    spoilt = [
        pl.when("in_loss").then(pl.col(name)).otherwise(pl.lit(value, pl.Float32)).alias(name)
        for name, value in (("reverse_kl", 50.0), ("student_entropy", 9.0), ("teacher_logp", -30.0))
    ]
    margin = pl.when("in_loss").then("margin").otherwise(pl.col("margin") * 40)
    other = data.tokens.with_columns(*spoilt, margin=margin)
    for analysis, options in (
        (od.score_summary, {}),
        (od.release_points, {"k_grid": (2, 4)}),
        (od.agreement_traps, {"k_grid": (2, 4), "window": 8, "draws": 2, "block": 4}),
    ):
        ours, theirs = (analysis(t, data.rollouts, **options) for t in (data.tokens, other))
        for one, two in zip(ours, theirs, strict=True):
            assert one.equals(two)


def test_release_tokens_and_stretches_lie_in_one_span(run) -> None:
    data, spans = run
    points = od.release_points(data.tokens, data.rollouts, k_grid=(2, 4), threshold=0.5)
    table = points.release_points.drop_nulls("release_token")
    inside = data.tokens.filter("in_loss").select("checkpoint", "rollout", "position")
    places = table.select("checkpoint", "rollout", position="release_token")
    assert places.join(inside, on=places.columns).height == places.height
    options = {"window": 8, "draws": 2, "block": 4, "consecutive": 2, "threshold": 0.15}
    traps = od.agreement_traps(data.tokens, data.rollouts, k_grid=(2, 4), **options)
    fired = traps.agreement_traps.filter("triggered")
    assert fired.height
    # Two windows of eight tokens, none of which a tool wrote.
    assert (fired["trigger_token"] - fired["cut_token"]).unique().to_list() == [8]
    size = 420 // spans
    assert (fired["trigger_token"] // size).equals(fired["cut_token"] // size)


def test_a_rollout_whose_spans_are_all_shorter_than_a_window_is_too_short(run) -> None:
    data, spans = run
    options = {"window": 420 // spans - 4, "draws": 2, "threshold": 0.5, "consecutive": 1}
    table = od.agreement_traps(data.tokens, data.rollouts, k_grid=(2, 4), **options)[0]
    short = "too short" if spans > 1 else None
    assert table["reason"].unique().to_list() == [short]
    assert table["least_kl"].is_null().all() == (spans > 1)
