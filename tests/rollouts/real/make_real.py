"""Make the files of this folder with the programs themselves, on a tiny random model.

Needs an environment of its own, with torch==2.13.0 trl==1.16.0 lm-eval==0.4.13 pandas pyarrow, and
verl 0.9.1 unpacked (`pip download verl==0.9.1 --no-deps`, unzip):

    python make_real.py OUT --verl VERL_FOLDER

TRL runs its GRPOTrainer twice (text prompts, chat prompts) with `log_completions=True`, the LM
evaluation harness runs with `--log_samples` on a task with two filters, and of verl its method
`_write_generations` is run by itself, for the trainer around it needs a cluster. `expected.json`
holds the token ids that were really generated.
"""

import argparse
import ast
import json
import shutil
import subprocess
import sys
from pathlib import Path

PROMPTS = ["Add 3 and 4.", "Is 12 even?"]
CHATML = (
    "{% for message in messages %}"
    "{{ '<|start|>' + message['role'] + '\n' + message['content'] + '<|end|>\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|start|>assistant\n' }}{% endif %}"
)
TASK = """task: tiny_add
dataset_path: json
dataset_kwargs: {{data_files: {{test: {data}}}}}
test_split: test
output_type: generate_until
doc_to_text: "{{{{question}}}}"
doc_to_target: "{{{{answer}}}}"
generation_kwargs: {{until: ["\\n\\n"], do_sample: false, max_gen_toks: 12}}
metric_list: [{{metric: exact_match}}]
filter_list:
  - name: whole
    filter: [{{function: take_first}}]
  - name: number
    filter: [{{function: regex, regex_pattern: "([0-9]+)"}}, {{function: take_first}}]
"""


def make_model(folder: Path) -> None:
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast, Qwen3Config, Qwen3ForCausalLM, set_seed

    set_seed(0)
    raw = Tokenizer(models.BPE())
    raw.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    raw.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=300,
        special_tokens=["<|pad|>", "<|start|>", "<|end|>"],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
    )
    raw.train_from_iterator(["Add 3 and 4. The answer is 7. Is 12 even? Yes, it is."], trainer)
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=raw, eos_token="<|end|>", pad_token="<|pad|>"
    )
    tokenizer.chat_template = CHATML
    tokenizer.save_pretrained(folder)
    config = Qwen3Config(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=16,
        max_position_embeddings=512,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    model = Qwen3ForCausalLM(config)
    # A random model writes broken UTF-8, which says nothing of the dumps of a real one.
    pieces = tokenizer.convert_ids_to_tokens(list(range(3, len(tokenizer))))
    model.generation_config.suppress_tokens = [
        n
        for n, piece in enumerate(pieces, start=3)
        if not piece.replace("Ġ", "").isalnum() or not piece.replace("Ġ", "").isascii()
    ]
    model.save_pretrained(folder)


def run_trl(model: Path, out: Path, *, chat: bool) -> list[dict[str, object]]:
    from datasets import Dataset
    from transformers import AutoTokenizer, GenerationConfig
    from trl import GRPOConfig, GRPOTrainer

    seen: list[dict[str, object]] = []

    def length_reward(prompts, completions, completion_ids, **_: object) -> list[float]:
        seen.extend(
            {"prompt": p, "completion": c, "completion_ids": list(map(int, ids))}
            for p, c, ids in zip(prompts, completions, completion_ids, strict=True)
        )
        return [len(ids) / 12 for ids in completion_ids]

    rows = [{"prompt": [{"role": "user", "content": p}] if chat else p} for p in PROMPTS * 2]
    work = out.parent / ("trl_chat_work" if chat else "trl_text_work")
    trainer = GRPOTrainer(
        model=str(model),
        processing_class=AutoTokenizer.from_pretrained(model),
        reward_funcs=length_reward,
        train_dataset=Dataset.from_list(rows),
        args=GRPOConfig(
            output_dir=str(work),
            per_device_train_batch_size=4,
            num_generations=2,
            max_completion_length=12,
            max_steps=2,
            generation_kwargs={
                "suppress_tokens": GenerationConfig.from_pretrained(model).suppress_tokens
            },
            logging_steps=1,
            log_completions=True,
            report_to="none",
            use_cpu=True,
            bf16=False,
            seed=0,
            save_strategy="no",
        ),
    )
    trainer.train()
    target = out / ("trl_chat" if chat else "trl_text")
    target.mkdir(parents=True, exist_ok=True)
    for file in sorted((work / "completions").glob("*.parquet")):
        shutil.copy(file, target / file.name)
    return seen


def run_lm_eval(model: Path, out: Path, work: Path) -> None:
    data = work / "questions.jsonl"
    rows = [{"question": prompt, "answer": "7"} for prompt in PROMPTS]
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    tasks = work / "tasks"
    tasks.mkdir(exist_ok=True)
    (tasks / "tiny_add.yaml").write_text(TASK.format(data=data))
    command = [sys.executable, "-m", "lm_eval", "--model", "hf", "--tasks", "tiny_add"]
    command += ["--model_args", f"pretrained={model},dtype=float32", "--device", "cpu"]
    command += ["--include_path", str(tasks), "--log_samples", "--output_path", str(work / "lm")]
    subprocess.run(command, check=True)
    (found,) = (work / "lm").rglob("samples_tiny_add_*.jsonl")
    shutil.copy(found, out / "samples_tiny_add.jsonl")


def run_verl(verl: Path, model: Path, out: Path, work: Path) -> None:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(model)
    source = (verl / "verl" / "trainer" / "ppo" / "ray_trainer.py").read_text()
    (method,) = (
        node
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.FunctionDef) and node.name == "_write_generations"
    )
    method.decorator_list = []
    scope: dict[str, object] = {"os": __import__("os"), "json": json}
    exec(compile(ast.Module([method], []), "ray_trainer.py", "exec"), scope)
    prompts = [
        tokenizer.apply_chat_template(
            [{"role": "user", "content": p}], tokenize=False, add_generation_prompt=True
        )
        for p in PROMPTS
    ]
    ids = [tokenizer(p, add_special_tokens=False)["input_ids"] for p in prompts]
    answers = [tokenizer("The answer is 7.<|end|>")["input_ids"], tokenizer("Yes")["input_ids"]]
    scope["_write_generations"](  # type: ignore[operator]
        tokenizer.batch_decode(ids, skip_special_tokens=True),
        tokenizer.batch_decode(answers, skip_special_tokens=True),
        ["7", "yes"],
        [1.0, 0.0],
        {"acc": [True, False], "request_id": ["a1", "b2"]},
        str(work / "verl"),
        5,
    )
    shutil.copy(work / "verl" / "5.jsonl", out / "5.jsonl")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", type=Path)
    parser.add_argument("--verl", type=Path, required=True)
    options = parser.parse_args()
    out = options.out.resolve()
    work = out.parent / "work"
    model = work / "model"
    for folder in (out / "lm_eval", out / "verl", model):
        folder.mkdir(parents=True, exist_ok=True)
    make_model(model)
    (out / "tokenizer").mkdir(exist_ok=True)
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        if (model / name).exists():
            shutil.copy(model / name, out / "tokenizer" / name)
    expected = {
        "trl_text": run_trl(model, out, chat=False),
        "trl_chat": run_trl(model, out, chat=True),
    }
    (out / "expected.json").write_text(json.dumps(expected, indent=1) + "\n")
    run_lm_eval(model, out / "lm_eval", work)
    run_verl(options.verl, model, out / "verl", work)


if __name__ == "__main__":
    main()
