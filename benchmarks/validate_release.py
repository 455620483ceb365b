"""Measure how often the release rule accepts noise and smooth declines, and print Markdown.

No drop is there in any of the series but those named `step`: what is accepted is a false accept.
Run: python benchmarks/validate_release.py
"""

import numpy as np

from opd_diag.analyses.release_points.options import PRESETS
from opd_diag.analyses.release_points.points import judge
from opd_diag.analyses.release_points.segments import Segments
from opd_diag.datasets.releases import ar1
from opd_diag.stats.changepoints import scan_shifts

SERIES = 20_000
LENGTHS = (8, 20, 50, 150, 300)
# In %: i.i.d. at n = 8, 20, 50, 150; AR(0.3) a range over n; AR(0.6) at n = 8, 20, 50, 150.
EXPECTED = {
    0.0: dict(zip(LENGTHS, ("1.2", "0.4", "0.35", "0.3", "-"), strict=True)),
    0.3: dict.fromkeys(LENGTHS, "2.5-3.8"),
    0.6: dict(zip(LENGTHS, ("7.3", "14", "16", "19", "-"), strict=True)),
}


def series(kind: str, n: int, rng: np.random.Generator) -> np.ndarray:
    if kind == "jump and slow decay":
        return jumps(rng, (SERIES // 10, n))
    return ar1(rng, float(kind), (SERIES, n))


def jumps(rng: np.random.Generator, shape: tuple[int, int]) -> np.ndarray:
    """Noise that is not time-reversible: it jumps up at random and decays slowly."""
    y = np.zeros((shape[0], shape[1] + 200))
    size = rng.exponential(3.0, y.shape) * (rng.random(y.shape) < 0.05)
    for t in range(1, y.shape[1]):
        y[:, t] = 0.9 * y[:, t - 1] + size[:, t]
    return y[:, 200:] + rng.normal(size=shape)


def percent(flags: np.ndarray) -> str:
    return f"{100 * flags.mean():.2f} ± {100 * flags.std() / np.sqrt(len(flags)):.2f}"


def false_accepts() -> None:
    print("## Gain above 6, 3 segments a side, no drop there\n")
    print("| noise | n | down, % | up, % | shuffled, % | methods, % |\n|---|---|---|---|---|---|")
    for kind in ("0.0", "0.3", "0.6", "jump and slow decay"):
        for n in LENGTHS:
            rng = np.random.default_rng([n, int(10 * float(kind)) if kind[0] == "0" else 99])
            y = series(kind, n, rng)
            lengths = np.full(len(y), n)
            found = scan_shifts(y.ravel(), lengths)
            mixed = scan_shifts(rng.permuted(y, axis=1).ravel(), lengths)
            name = "i.i.d." if kind == "0.0" else kind if kind[0] == "j" else f"AR({kind})"
            expected = EXPECTED[float(kind)][n] if kind[0] == "0" else "up above down"
            rates = " | ".join(percent(g > 6) for g in (found.gain, found.gain_up, mixed.gain))
            print(f"| {name} | {n} | {rates} | {expected} |", flush=True)


def presets() -> None:
    print("\n## The presets on i.i.d. noise\n")
    print("| preset | " + " | ".join(f"n = {n}, %" for n in LENGTHS) + " |")
    print("|---|" + "---|" * len(LENGTHS))
    for name, rule in PRESETS.items():
        cells = []
        for n in LENGTHS:
            y = np.random.default_rng([n, 7]).normal(size=(SERIES, n)).ravel()
            nothing = np.zeros(len(y), np.int64)
            segments = Segments(np.full(SERIES, n), y[:, None], nothing + 1, nothing, nothing)
            cells.append(percent(judge(segments, 0, rule)["accepted"].to_numpy()))
        print(f"| {name} | " + " | ".join(cells) + " |", flush=True)


def steps_and_lines() -> None:
    print("\n## A drop of 2 standard deviations of i.i.d. noise: at once, or evenly\n")
    print("| shape | n | accepted, % | step beats line among the accepted, % |\n|---|---|---|---|")
    for shape in ("step", "line"):
        for n in LENGTHS[1:]:
            rng = np.random.default_rng([n, 11])
            fall = np.linspace(0, 2, n) if shape == "line" else 2.0 * (np.arange(n) >= n // 3)
            y = rng.normal(size=(SERIES // 4, n)) - fall
            found = scan_shifts(y.ravel(), np.full(len(y), n))
            accepted = found.gain > 6
            beats = percent(found.gain_over_line[accepted] > 0)
            print(f"| {shape} | {n} | {percent(accepted)} | {beats} |", flush=True)


def main() -> None:
    print("# The release rule where nothing is there\n")
    print(f"{SERIES:,} series a row, ± one standard error.\n")
    false_accepts()
    presets()
    steps_and_lines()


if __name__ == "__main__":
    main()
