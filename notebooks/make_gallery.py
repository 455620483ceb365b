"""Draw the figures that README shows: `python notebooks/make_gallery.py RUN`."""

import sys
from pathlib import Path

import matplotlib.pyplot as plt

import opd_diag as od
from opd_diag.plots.catalogue import CAPTIONS
from opd_diag.plots.saving import save_figure

# One figure of each analysis: the one that sets the finding beside what chance would give.
FIGURES = ("release_summary", "rock_tokens", "teachability_contrast", "trap_persistence")
GALLERY = Path(__file__).parent / "gallery"
DPI = 110


def main(run: str | Path, folder: Path = GALLERY) -> list[Path]:
    """Draw the figures of a run, small enough for a page of text.

    Args:
        run: Folder of an analysed run.
        folder: Where the PNGs go.
    """
    opened = od.open_run(run)
    paths = []
    for name in FIGURES:
        ax = getattr(od.plots, name)(opened.result(name))
        path = folder / f"{name}.png"
        paths.append(save_figure(ax.figure, path, title=name, caption=CAPTIONS[name], dpi=DPI))
        plt.close(ax.figure)
    shown = opened.result("release_example")["rollout"][0]
    ax = od.plots.token_strip(od.token_strip(opened, shown))
    path = folder / "token_strip.png"
    words = {"title": "rollout", "caption": CAPTIONS["rollout"]}
    paths.append(save_figure(ax.figure, path, **words, dpi=DPI))
    plt.close(ax.figure)
    return paths


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: python notebooks/make_gallery.py RUN")
    for path in main(sys.argv[1]):
        print(f"wrote {path} ({path.stat().st_size / 1000:.0f} kB)")
