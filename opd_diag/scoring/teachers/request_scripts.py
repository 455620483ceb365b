"""Scripts that ask a teacher where it lives, as text: they run there, and need nothing of ours.

Each reads `requests.jsonl` beside it and writes `teacher.jsonl`, which `score --teacher-logprobs`
reads.
"""

# vLLM: docs.vllm.ai, "Prompt Token ID Logprobs (Teacher Scoring)", read in November 2026; versions
# before it know prompt_logprobs alone, the teacher's own likeliest.
VLLM = '''"""Ask a teacher in vLLM's offline engine: python ask_vllm.py TEACHER [OPTIONS_AS_JSON]"""

import json
import sys
from pathlib import Path

from vllm import LLM, SamplingParams
from vllm.inputs import TokensPrompt

HERE = Path(__file__).parent
AT_A_TIME = 256


def parameters(row):
    """Log-probs of the token and of the student's likeliest, at every response token."""
    try:
        return SamplingParams(
            max_tokens=1,
            prompt_logprob_token_ids=row["ids"],
            prompt_logprob_start=len(row["prompt_token_ids"]) - 1,
        )
    except TypeError:  # an older vLLM: the teacher's own likeliest instead
        return SamplingParams(max_tokens=1, prompt_logprobs=len(row["ids"][0]) - 1)


def answer_of(row, answer):
    """What `opd-diag score --teacher-logprobs` reads."""
    scores = getattr(answer, "prompt_token_id_logprobs", None)
    if scores is None:
        told = [
            entry and {i: {"logprob": one.logprob, "rank": one.rank} for i, one in entry.items()}
            for entry in answer.prompt_logprobs
        ]
        return {"id": row["id"], "prompt_logprobs": told}
    scores = scores.tolist()
    own = [line[0] for line in scores]
    return {"id": row["id"], "logprobs": own, "top_ids": row["ids"], "top_logprobs": scores}


def main():
    rows = [json.loads(line) for line in (HERE / "requests.jsonl").read_text().splitlines()]
    options = json.loads(sys.argv[2]) if len(sys.argv) > 2 else {}
    width = max(len(row["ids"][0]) for row in rows)
    engine = LLM(sys.argv[1], **{"max_logprobs": width, **options})
    with (HERE / "teacher.jsonl").open("w") as file:
        for start in range(0, len(rows), AT_A_TIME):
            some = rows[start : start + AT_A_TIME]
            prompts = [
                TokensPrompt(prompt_token_ids=row["prompt_token_ids"] + row["response_token_ids"])
                for row in some
            ]
            answers = engine.generate(prompts, [parameters(row) for row in some])
            for row, answer in zip(some, answers):
                file.write(json.dumps(answer_of(row, answer)) + "\\n")


main()
'''

SGLANG = '''"""Ask a teacher behind an SGLang server: python ask_sglang.py http://localhost:30000

A request there names one list of ids for all tokens, so these are the teacher's own likeliest.
"""

import json
import sys
from pathlib import Path
from urllib.request import Request, urlopen

HERE = Path(__file__).parent


def ask(server, row):
    body = {
        "input_ids": row["prompt_token_ids"] + row["response_token_ids"],
        "sampling_params": {"max_new_tokens": 0, "temperature": 1.0},
        "return_logprob": True,
        "logprob_start_len": len(row["prompt_token_ids"]) - 1,
        "top_logprobs_num": len(row["ids"][0]) - 1,
    }
    headers = {"Content-Type": "application/json"}
    request = Request(f"{server.rstrip('/')}/generate", json.dumps(body).encode(), headers)
    with urlopen(request) as answer:
        return json.loads(answer.read())


def main():
    with (HERE / "requests.jsonl").open() as requests, (HERE / "teacher.jsonl").open("w") as file:
        for row in map(json.loads, requests):
            told = ask(sys.argv[1], row)["meta_info"]
            file.write(json.dumps({"id": row["id"], "meta_info": told}) + "\\n")


main()
'''

SCRIPTS = {"vllm": ("ask_vllm.py", VLLM), "sglang": ("ask_sglang.py", SGLANG)}
