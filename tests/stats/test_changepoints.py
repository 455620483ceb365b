import numpy as np
import pytest
import ruptures
import scipy.stats
from hypothesis import given, settings
from hypothesis import strategies as st

from opd_diag.stats.changepoints import downward_shift, scan_shifts

# Flow of the Nile at Aswan, 1871-1970, in 10^8 m^3 (Cobb 1978); the known break is after 1898.
NILE = [
    *(1120, 1160, 963, 1210, 1160, 1160, 813, 1230, 1370, 1140, 995, 935, 1110, 994, 1020, 960),
    *(1180, 799, 958, 1140, 1100, 1210, 1150, 1250, 1260, 1220, 1030, 1100, 774, 840, 874, 694),
    *(940, 833, 701, 916, 692, 1020, 1050, 969, 831, 726, 456, 824, 702, 1120, 1100, 832, 764),
    *(821, 768, 845, 864, 862, 698, 845, 744, 796, 1040, 759, 781, 865, 845, 944, 984, 897, 822),
    *(1010, 771, 676, 649, 846, 812, 742, 801, 1040, 860, 874, 848, 890, 744, 749, 838, 1050),
    *(918, 986, 797, 923, 975, 815, 1020, 906, 901, 1170, 912, 746, 919, 718, 714, 740),
]


def ar1(rng, phi, shape):
    noise = rng.normal(size=shape)
    noise[..., 0] /= np.sqrt(1 - phi**2)
    for t in range(1, shape[-1]):
        noise[..., t] += phi * noise[..., t - 1]
    return noise


def gain_of_split(y, tau, parts):
    """BIC gain of a split, from the definition."""
    n = len(y)
    rss = sum(((part - part.mean()) ** 2).sum() for part in parts)
    rss0 = ((y - y.mean()) ** 2).sum()
    return n * np.log((rss0 + 1e-12) / n) - n * np.log((rss + 1e-12) / n) - 2 * np.log(n)


def test_nile_flow_drops_after_28_years():
    shift = downward_shift(NILE)
    assert shift.tau == 28
    assert shift.gain == pytest.approx(48.158, abs=5e-4)


def test_exact_search_of_ruptures_finds_the_same_split():
    rng = np.random.default_rng(0)
    compared = 0
    for n in rng.integers(8, 60, 300):
        y = rng.normal(size=n)
        y[rng.integers(3, n - 3) :] -= rng.uniform(0, 3)
        search = ruptures.Dynp(model="l2", min_size=3, jump=1).fit(y)
        tau = search.predict(n_bkps=1)[0]
        left, right = y[:tau], y[tau:]
        if left.mean() <= right.mean():  # ruptures knows no direction
            continue
        compared += 1
        shift = downward_shift(y)
        assert shift.tau == tau
        assert shift.gain == pytest.approx(gain_of_split(y, tau, (left, right)), rel=1e-9)
    assert compared > 200


@settings(max_examples=300, deadline=None, derandomize=True)
@given(
    y=st.lists(st.integers(-40, 40).map(lambda v: v / 8), min_size=1, max_size=25),
    min_size=st.integers(1, 4),
)
def test_no_allowed_split_is_better(y, min_size):
    y = np.array(y)
    found = scan_shifts(y, [len(y)], min_size=min_size)
    falls = {
        tau: gain_of_split(y, tau, (y[:tau], y[tau:]))
        for tau in range(min_size, len(y) - min_size + 1)
        if y[:tau].mean() > y[tau:].mean() + 1e-12
    }
    if not falls:
        assert found.tau[0] == -1
        assert np.isnan(found.gain[0])
        return
    # A fit without a rest turns rounding of 1e-16 into a gain of any size: compare up to there.
    best = min(max(falls.values()), len(y) * 20)
    assert min(found.gain[0], len(y) * 20) == pytest.approx(best, rel=1e-6, abs=1e-6)
    assert found.mean_before[0] == pytest.approx(y[: found.tau[0]].mean(), abs=1e-9)
    assert found.mean_after[0] == pytest.approx(y[found.tau[0] :].mean(), abs=1e-9)


def test_many_ragged_series_are_scanned_as_one_by_one(monkeypatch):
    rng = np.random.default_rng(1)
    lengths = rng.integers(0, 40, 200)
    values = rng.normal(size=lengths.sum())
    together = scan_shifts(values, lengths)
    monkeypatch.setattr("opd_diag.stats.changepoints._CELLS", 100)
    in_blocks = scan_shifts(values, lengths)
    for start, length, tau, gain in zip(
        np.cumsum(lengths) - lengths, lengths, together.tau, together.gain, strict=True
    ):
        alone = downward_shift(values[start : start + length])
        assert (alone is None) == (tau == -1)
        if alone is not None:
            assert alone.tau == tau
            assert alone.gain == pytest.approx(gain, rel=1e-12)
    for left, right in zip(together, in_blocks, strict=True):
        np.testing.assert_allclose(left, right, rtol=1e-12)


def test_up_is_down_upside_down():
    rng = np.random.default_rng(2)
    lengths = np.full(100, 30)
    values = rng.normal(size=3000)
    plain, turned = scan_shifts(values, lengths), scan_shifts(-values, lengths)
    np.testing.assert_allclose(plain.gain_up, turned.gain, rtol=1e-9)
    np.testing.assert_allclose(plain.gain, turned.gain_up, rtol=1e-9)


def test_of_equal_splits_the_last_is_taken():
    assert downward_shift([1.0, 1.0, 1.0, 0.0, 1.0, 0.0, 0.0, 0.0]).tau == 5
    assert downward_shift([1.0, 1.0, 1.0, 0.0, 1.0, 0.0, 0.0, 0.0], min_size=4).tau == 4


def test_a_rise_or_a_constant_is_no_drop():
    assert downward_shift(np.arange(20.0)) is None
    assert downward_shift(np.ones(20)) is None
    assert downward_shift([]) is None
    assert downward_shift([0.0, 0.0, 0.125, 0.0, 0.0, 0.125], min_size=3) is None  # equal halves
    assert downward_shift([3.0, 2.0, 1.0, 0.0, 0.0]) is None
    assert downward_shift([3.0, 2.0, 1.0, 0.0, 0.0], min_size=2).tau == 2


def test_perfect_fits_without_a_minimum_give_the_gains_that_the_minimum_prevents():
    assert downward_shift([1.0, 0.0], min_size=1).gain == pytest.approx(52, abs=1)
    assert downward_shift([1.0, 1.0, 0.0], min_size=1).gain == pytest.approx(79, abs=2)


def test_a_line_beats_the_step_on_a_line_and_the_step_on_a_step():
    rng = np.random.default_rng(3)
    noise = rng.normal(size=(50, 300))
    step = np.where(np.arange(300) < 100, 2.0, 0.0)
    slope = np.linspace(2.0, 0.0, 300)
    lengths = np.full(50, 300)
    on_step = scan_shifts((noise + step).ravel(), lengths)
    on_slope = scan_shifts((noise + slope).ravel(), lengths)
    assert (on_step.gain_over_line > 0).all()
    assert (on_slope.gain > 6).all()  # acceptance is no evidence of an abrupt drop
    assert (on_slope.gain_over_line > 0).mean() <= 0.2
    rss = np.polyfit(np.arange(300), noise[0] + slope, 1, full=True)[1][0]
    bic_line = 300 * np.log(rss / 300) + 2 * np.log(300)
    shift = downward_shift(noise[0] + slope)
    y = noise[0] + slope
    bic0 = 300 * np.log(y.var()) + np.log(300)
    assert on_slope.gain_over_line[0] == pytest.approx(bic_line - (bic0 - shift.gain), abs=1e-6)


def test_weights_count_like_repeated_values():
    rng = np.random.default_rng(4)
    times = rng.integers(1, 5, 20)
    y = rng.normal(size=20) - (np.arange(20) >= 12)
    weighted = scan_shifts(y, [20], weights=times)
    repeated = np.repeat(y, times)
    tau = weighted.tau[0]
    cut = times[:tau].sum()
    assert weighted.mean_before[0] == pytest.approx(repeated[:cut].mean())
    assert weighted.mean_after[0] == pytest.approx(repeated[cut:].mean())
    rss = [((p - p.mean()) ** 2).sum() for p in (repeated, repeated[:cut], repeated[cut:])]
    gain = 20 * np.log(rss[0] / (rss[1] + rss[2])) - 2 * np.log(20)
    assert weighted.gain[0] == pytest.approx(gain, rel=1e-9)
    equal = scan_shifts(y, [20], weights=np.full(20, 7.0))
    assert equal.gain[0] == pytest.approx(downward_shift(y).gain, rel=1e-12)


@pytest.mark.parametrize("phi", [0.0, 0.3, 0.6])
def test_autocorrelation_of_the_rest_is_that_of_the_noise(phi):
    y = ar1(np.random.default_rng(5), phi, (200, 400)) - 10 * (np.arange(400) >= 150)
    found = scan_shifts(y.ravel(), np.full(200, 400))
    assert found.autocorrelation.mean() == pytest.approx(phi, abs=0.03)


@pytest.mark.parametrize(("n", "percent"), [(8, 1.1), (20, 0.57), (50, 0.31), (150, 0.12)])
def test_white_noise_is_accepted_as_rarely_as_over_20_000_other_series(n, percent):
    count = 4000
    y = np.random.default_rng(n).normal(size=(count, n))
    found = scan_shifts(y.ravel(), np.full(count, n))
    for gain in (found.gain, found.gain_up):
        accepted = int((gain > 6).sum())
        assert scipy.stats.binomtest(accepted, count, percent / 100).pvalue > 1e-4


def test_bad_series_are_refused():
    with pytest.raises(ValueError, match="not finite"):
        downward_shift([1.0, np.nan, 0.0])
    with pytest.raises(ValueError, match="one dimension"):
        downward_shift(np.zeros((2, 2)))
    with pytest.raises(ValueError, match="expected 1 or more"):
        downward_shift([1.0, 0.0], min_size=0)
    with pytest.raises(ValueError, match=r"expected \(5,\)"):
        scan_shifts(np.zeros(4), [2, 3])
    with pytest.raises(ValueError, match="one positive number"):
        scan_shifts(np.zeros(4), [4], weights=[1.0, 0.0, 1.0, 1.0])
