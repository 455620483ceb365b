"""Make `trl_distillation` with TRL's DistillationTrainer, on two checkpoints of the sample run.

Needs an environment of its own, with torch==2.13.0 trl==1.16.0 pandas pyarrow:

    python make_distillation.py OUT --student sample_data/students/step0 \
        --teacher sample_data/students/step300

The trainer wants one width of logits, which the sample's teacher does not share with its students:
so a later checkpoint of the student is the teacher here. `expected_distillation.json` beside OUT
holds the token ids that were really generated, in the order of the rows.
"""

import argparse
import json
import shutil
import tempfile
from pathlib import Path
from typing import Any

QUESTIONS = [
    "Anna has 3 boxes with 4 apples each. How many apples does Anna have?",
    "Ben has 12 coins and finds 5 more. How many coins does Ben have?",
    "A bus starts with 9 people. At one stop 4 get off and 6 get on. How many are on the bus?",
]
SYSTEM = "You are a patient teacher."


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", type=Path)
    parser.add_argument("--student", type=Path, required=True)
    parser.add_argument("--teacher", type=Path, required=True)
    options = parser.parse_args()

    from datasets import Dataset
    from transformers import AutoTokenizer, GenerationConfig
    from trl import DistillationConfig, DistillationTrainer

    generated: list[dict[str, Any]] = []

    class Recording(DistillationTrainer):
        def _generate(self, *args: Any, **kwargs: Any) -> Any:
            made = super()._generate(*args, **kwargs)
            for prompt, completion in zip(made[0], made[1], strict=True):
                generated.append(
                    {"prompt_ids": list(map(int, prompt)), "completion_ids": list(completion)}
                )
            return made

    rows = []
    for number, question in enumerate(QUESTIONS * 4):
        messages = [{"role": "user", "content": question}]
        if number % 3 == 1:
            messages.insert(0, {"role": "system", "content": SYSTEM})
        rows.append({"prompt": messages})
    with tempfile.TemporaryDirectory() as work:
        trainer = Recording(
            model=str(options.student),
            teacher_model=str(options.teacher),
            processing_class=AutoTokenizer.from_pretrained(options.student),
            train_dataset=Dataset.from_list(rows),
            args=DistillationConfig(
                output_dir=work,
                per_device_train_batch_size=6,
                gradient_accumulation_steps=1,
                max_completion_length=24,
                max_steps=2,
                generation_kwargs={
                    "suppress_tokens": GenerationConfig.from_pretrained(
                        options.student
                    ).suppress_tokens
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
        options.out.mkdir(parents=True, exist_ok=True)
        for file in sorted((Path(work) / "completions").glob("*.parquet")):
            shutil.copy(file, options.out / file.name)
    expected = options.out.with_name("expected_distillation.json")
    expected.write_text(json.dumps(generated) + "\n")


if __name__ == "__main__":
    main()
