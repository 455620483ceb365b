"""Time derivatives along an update against forward passes of the same student on the same tokens.

A forward pass is the body and the output head, as `score` runs them, without gradients. Rounds
alternate, so that a busy machine slows both; the ratio is the median over rounds. Prints Markdown.
Run: python -m benchmarks.update_speed > benchmarks/results/update_speed.md
"""

import argparse
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import torch

from benchmarks.machine import machine
from opd_diag.scoring.models.forward import LanguageModel
from opd_diag.scoring.models.loading import Loading, load_model
from opd_diag.updates.derivatives import (
    TeacherRows,
    central_differences,
    derivatives,
    gradients,
    random_direction,
    tied_parameter,
    update_direction,
)

SAMPLE = Path(__file__).parents[1] / "sample_data"
PROMPT = 40


def work(before: LanguageModel, after: LanguageModel, tokens: int) -> Mapping[str, Callable]:
    """Make the pieces of work on one random response, by name."""
    ids = len(before.head.weight)
    rng = np.random.default_rng(tokens)
    sequence = torch.tensor(rng.integers(3, ids, PROMPT + tokens - 1))
    with torch.no_grad():
        states = after.hidden_states(sequence[None])[0, PROMPT - 1 :]
    rows = TeacherRows(after.head, states)
    update, tied = update_direction(before, after), tied_parameter(before)
    matrices = [name for name in update.body if name.endswith("o_proj.weight")]
    arguments = (before, before.head, update, sequence, PROMPT, rows)

    @torch.inference_mode()
    def forward() -> None:
        hidden = before.hidden_states(sequence[None])[0, PROMPT - 1 :]
        for chunk in hidden.split(256):
            torch.log_softmax(before.head.logits(chunk), dim=1)

    return {
        "forward": forward,
        "derivative": lambda: derivatives(*arguments),
        "drawing a random direction": lambda: random_direction(update, tied=tied, seed=0),
        "central differences, float64": lambda: central_differences(*arguments),
        "gradient in o_proj": lambda: gradients(
            before, before.head, sequence, PROMPT, rows, matrices, tied=tied
        ),
    }


def main() -> None:
    """Print one row for each length of a response."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--before", default=str(SAMPLE / "students" / "step0"))
    parser.add_argument("--after", default=str(SAMPLE / "students" / "step150"))
    parser.add_argument("--tokens", type=int, nargs="+", default=[128, 256, 512])
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    before, after = (load_model(name, Loading(attn="eager")) for name in
                     (options.before, options.after))  # fmt: skip
    print("# Cost of derivatives along an update\n")
    print(f"`python -m benchmarks.update_speed`, {machine()}, torch {torch.__version__},")
    print(
        f"{options.threads} thread. {sum(p.numel() for p in before.model.parameters()):,} ", end=""
    )
    print(f"parameters, prompts of {PROMPT} tokens, eager attention, float32; medians of")
    print(
        f"{options.rounds} rounds in which all take turns, in forward passes of the same tokens.\n"
    )
    names = list(work(before, after, 8))
    print(f"| tokens | forward, ms | {' | '.join(names[1:])} |")
    print(f"|{'---|' * (len(names) + 1)}")
    for tokens in options.tokens:
        pieces = work(before, after, tokens)
        for piece in pieces.values():
            piece()
        spent = np.empty((options.rounds, len(pieces)))
        for turn in range(options.rounds):
            for place, piece in enumerate(pieces.values()):
                begin = time.perf_counter()
                piece()
                spent[turn, place] = time.perf_counter() - begin
        ratios = np.median(spent[:, 1:] / spent[:, :1], axis=0)
        cells = " | ".join(f"{ratio:.1f}" for ratio in ratios)
        print(f"| {tokens:,} | {1000 * np.median(spent[:, 0]):.1f} | {cells} |", flush=True)
    print(
        "\nA rollout takes 21 derivatives with the 20 random directions, which are drawn each time,"
    )
    print("or one without them, beside one forward pass of the teacher.")


if __name__ == "__main__":
    main()
