"""Time the segmenters on generated prose: characters a second."""

import argparse
import time

import numpy as np

from benchmarks.machine import machine
from opd_diag.text.segments import segment_responses

SENTENCES = (
    "Let us first add the two numbers.",
    "We know that $x = 3.5$ and so 12 + 7 = 19.",
    "The shop sells pens, e.g. red ones, for 4 coins each.",
    "This gives\n\\[ y = 2 x + 1 \\]\nby eq. 2 of the text.",
    "Then we subtract 5 from it!",
    "- a list item\n- another one\n",
    "Is that right?",
)


def prose(rollouts: int, sentences: int, seed: int) -> list[np.ndarray]:
    """Draw responses as bytes; every byte stands for one token."""
    rng = np.random.default_rng(seed)
    texts = [" ".join(rng.choice(SENTENCES, sentences)).encode() for _ in range(rollouts)]
    return [np.frombuffer(text, dtype=np.uint8).astype(np.int64) for text in texts]


def main() -> None:
    """Print a row for each segmenter, and the worst case of a response that repeats one sign."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rollouts", type=int, default=400)
    parser.add_argument("--sentences", type=int, default=60)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    responses = prose(options.rollouts, options.sentences, options.seed)
    pieces = [bytes([i]) for i in range(256)]
    special = np.zeros(256, dtype=bool)
    segment_responses(responses[:1], pieces, special)  # the import of nltk is not the question
    repeated = [np.full(20_000, ord(sign)) for sign in "!.a"]
    print("# Speed of the segmenters\n")
    print(f"`python -m benchmarks.segment_speed`, {machine()}, one process.\n")
    print("| segmenter | text | characters | segments | s | characters/s |")
    print("|---|---|---|---|---|---|")
    runs = [("punkt", responses), ("newline", responses), ("punkt", repeated)]
    for segmenter, rows in runs:
        start = time.perf_counter()
        segments = segment_responses(rows, pieces, special, segmenter=segmenter)
        seconds = time.perf_counter() - start
        characters = sum(map(len, rows))
        found = sum(int(s[-1]) + 1 for s in segments)
        name = "one sign repeated" if rows is repeated else "prose"
        print(
            f"| {segmenter} | {name} | {characters:,} | {found:,} | {seconds:.2f} "
            f"| {characters / seconds:,.0f} |"
        )


if __name__ == "__main__":
    main()
