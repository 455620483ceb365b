"""The sample run scored from each source of the teacher, beside its weights.

Printed per source: how many columns it gives, how far these are off, whether the bounds hold, and
its disk per response token.

Run: python -m benchmarks.teacher_sources [--rollouts N]
"""

import argparse
import json
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import torch
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM

import opd_diag as od
from benchmarks.machine import machine
from opd_diag.tables.columns.tokens import TOKENS
from opd_diag.tables.rollouts import Rollouts

SAMPLE = Path(__file__).parents[1] / "sample_data"
TEACHER, STUDENT = str(SAMPLE / "teacher"), str(SAMPLE / "students" / "step0")
K = 16
NULLABLE = [column.name for column in TOKENS if column.nullable]


def make_sources(rollouts: Rollouts, folder: Path, n: int) -> dict[str, dict[str, Any]]:
    """Write what a server of the teacher would, and return the options that read it.

    Log-probs are over the `n` decodable ids, as `score` takes them; a server counts padding, too.
    """
    teacher = AutoModelForCausalLM.from_pretrained(TEACHER, dtype=torch.float32).eval()
    student = AutoModelForCausalLM.from_pretrained(STUDENT, dtype=torch.float32).eval()
    states = folder / "states"
    states.mkdir()
    files = {
        name: (folder / f"{name}.jsonl").open("w") for name in ("sampled", "student", "teacher")
    }
    floor = 0.0
    for row in rollouts.table.iter_rows(named=True):
        prompt, response = row["prompt_token_ids"], row["response_token_ids"]
        ids = torch.tensor(prompt + response)
        with torch.no_grad():
            hidden = teacher.model(ids[None]).last_hidden_state[0]
            lq = teacher.lm_head(hidden)[len(prompt) - 1 : -1, :n].log_softmax(1)
            x = student(ids[None]).logits[0, len(prompt) - 1 : -1, :n]
        name = row["rollout_id"]
        save_file({"token_ids": ids, "hidden_states": hidden}, states / f"{name}.safetensors")
        floor = min(floor, float(lq.min()))
        own = lq.gather(1, ids[len(prompt) :, None])[:, 0].tolist()
        files["sampled"].write(json.dumps({"id": name, "logprobs": own}) + "\n")
        for whose, logits in (("student", x), ("teacher", lq)):
            top = logits.topk(K, 1).indices
            told = {"top_ids": top.tolist(), "top_logprobs": lq.gather(1, top).tolist()}
            line = {"id": name, "logprobs": own, "top_of": whose, **told}
            files[whose].write(json.dumps(line) + "\n")
    for file in files.values():
        file.close()
    named = {name: {"teacher_logprobs": file.name} for name, file in files.items()}
    return {
        "hidden states": {"teacher_states": str(states)},
        f"student's top {K}": {**named["student"], "teacher_floor": floor},
        f"teacher's top {K}": {**named["teacher"], "teacher_floor": floor},
        "sampled": named["sampled"],
    }


def disk(options: Mapping[str, Any]) -> int:
    """Bytes of a source."""
    path = Path(options.get("teacher_states") or options["teacher_logprobs"])
    files = path.iterdir() if path.is_dir() else [path]
    return sum(file.stat().st_size for file in files)


def compare(got: pl.DataFrame, want: pl.DataFrame) -> tuple[int, float, str]:
    """Count columns with values, find how far they are off, and say if bounds hold.

    How far: of every column the 99th percentile of |difference| / (|value| + 0.01), the largest of
    them; what shares a batch moves values by as much.
    """
    known, worst = 0, 0.0
    for name in NULLABLE:
        if got.height in (got[name].null_count(), want[name].null_count()):
            continue
        a, b = (np.array(frame[name].to_list(), float) for frame in (got, want))
        there = np.isfinite(a) & np.isfinite(b)
        if there.any():
            known += 1
            relative = np.abs(a - b) / (np.abs(b) + 1e-2)
            worst = max(worst, float(np.quantile(relative[there], 0.99)))
    if got["reverse_kl_low"].null_count() == got.height:
        return known, worst, "none"
    low, high = got["reverse_kl_low"].to_numpy(), got["reverse_kl_high"].to_numpy()
    exact = want["reverse_kl"].to_numpy()
    holds = (low <= exact * 1.00001 + 1e-6).all() and (high >= exact * 0.99999 - 1e-6).all()
    holds &= bool((got["forward_kl_low"] <= want["forward_kl"] * 1.00001 + 1e-6).all())
    return known, worst, f"{'hold' if holds else 'BROKEN'}: {low.mean():.3f} to {high.mean():.3f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rollouts", type=int, default=24)
    limit = parser.parse_args().rollouts
    rollouts = od.read_rollouts(SAMPLE / "rollouts_step0.jsonl", limit=limit)
    options = {"teacher": TEACHER, "students": {"s": STUDENT}, "noise_floor": "off"}
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        run = od.score(rollouts, out=folder / "weights", **options)
        want, n = run.tokens("s").collect(), run.vocab.height
        exact = want["reverse_kl"].mean()
        print("# The sample run from each source of the teacher\n")
        print(f"`python -m benchmarks.teacher_sources`, {machine()}.")
        print(f"{limit} rollouts, {want.height:,} tokens, exact mean {exact:.3f} nat\n")
        print("| source | columns | off by | KL bounds, mean (nat) | disk, B/token |")
        print("|---|---|---|---|---|")
        for name, source in make_sources(rollouts, folder, n).items():
            out = folder / name.replace(" ", "_")
            got = od.score(rollouts, out=out, **options, **source).tokens("s").collect()
            known, worst, bounds = compare(got, want)
            size = disk(source) / want.height
            print(f"| {name} | {known} | {worst:.1e} | {bounds} | {size:,.0f} |", flush=True)


if __name__ == "__main__":
    main()
