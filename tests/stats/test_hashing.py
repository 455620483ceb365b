import numpy as np
import scipy.stats

from opd_diag.stats.hashing import hashed_uniform, seeded_hash


def grid(n, m):
    return np.repeat(np.arange(n, dtype=np.uint32), m), np.tile(np.arange(m, dtype=np.uint32), n)


def test_a_hash_depends_on_its_own_keys_alone():
    a, b = grid(40, 50)
    whole = seeded_hash(a, b, seed=3)
    rows = np.random.default_rng(0).permutation(a.size)[:300]
    np.testing.assert_array_equal(
        seeded_hash(a[rows].astype(np.int64), b[rows], seed=3), whole[rows]
    )
    assert len(np.unique(whole)) == a.size


def test_seed_and_order_of_keys_matter():
    a, b = grid(30, 30)
    first = seeded_hash(a, b, seed=0)
    assert (first != seeded_hash(a, b, seed=1)).all()
    off_diagonal = a != b
    assert (first != seeded_hash(b, a, seed=0))[off_diagonal].all()


def test_hashed_numbers_are_uniform_and_unrelated_to_their_keys():
    a, b = grid(100, 100)
    for seed in (0, 1):
        u = hashed_uniform(a, b, seed=seed)
        assert scipy.stats.kstest(u, "uniform").pvalue > 1e-4
        assert abs(np.corrcoef(u, a)[0, 1]) < 0.04
        assert abs(np.corrcoef(u, b)[0, 1]) < 0.04
        assert abs(np.corrcoef(u[1:], u[:-1])[0, 1]) < 0.04
