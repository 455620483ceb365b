"""Requests for a teacher elsewhere: scripts and answers in the shapes of vLLM and SGLang."""

import io
import json
import runpy
import shutil
import sys
import types

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from opd_diag.errors import ModelError, ModelMismatchError, OptionError
from opd_diag.scoring.score import score
from opd_diag.scoring.teacher_requests import teacher_requests

K = 4
GRID = (2, 4)


@pytest.fixture(scope="module")
def run(rollouts, teacher, student, tmp_path_factory):
    out = tmp_path_factory.mktemp("run") / "run"
    options = {"k_grid": GRID, "noise_floor": "off"}
    return score(rollouts, teacher=teacher, students={"s": student}, out=out, **options)


def logps(teacher, tokens):
    """Log-probs over the decodable ids of the token after each of some tokens."""
    n_ids = len(AutoTokenizer.from_pretrained(teacher))
    model = AutoModelForCausalLM.from_pretrained(teacher, dtype=torch.float32).eval()
    with torch.no_grad():
        return model(torch.tensor([tokens])).logits[0, :, :n_ids].log_softmax(1)


def fake_vllm(knows_ids):
    """A stand-in for vLLM whose answers a tiny model makes, in the shapes of its documentation."""

    class SamplingParams:
        def __init__(self, max_tokens, **options):
            if not knows_ids and "prompt_logprob_token_ids" in options:
                raise TypeError("unexpected keyword argument")
            self.options = options

    class LLM:
        def __init__(self, name, max_logprobs):
            self.name, self.most = name, max_logprobs

        def generate(self, prompts, parameters):
            return [
                self.answer(prompt["prompt_token_ids"], one.options)
                for prompt, one in zip(prompts, parameters, strict=True)
            ]

        def answer(self, tokens, options):
            lq = logps(self.name, tokens)
            if ids := options.get("prompt_logprob_token_ids"):
                start = options["prompt_logprob_start"]
                rows = lq[start : start + len(ids)].gather(1, torch.tensor(ids))
                return types.SimpleNamespace(prompt_token_id_logprobs=rows.numpy())
            assert options["prompt_logprobs"] <= self.most
            entries = [None]
            for row, token in zip(lq, tokens[1:], strict=False):
                best = row.topk(options["prompt_logprobs"]).indices.tolist()
                entries.append(
                    {
                        i: types.SimpleNamespace(
                            logprob=float(row[i]), rank=1 + int((row > row[i]).sum())
                        )
                        for i in dict.fromkeys((token, *best))
                    }
                )
            return types.SimpleNamespace(prompt_logprobs=entries)

    package, inputs = types.ModuleType("vllm"), types.ModuleType("vllm.inputs")
    package.LLM, package.SamplingParams = LLM, SamplingParams
    inputs.TokensPrompt = dict
    return {"vllm": package, "vllm.inputs": inputs}


def asked(run, rollouts, teacher, student, folder, script, argument, monkeypatch):
    """Run a script on the requests of a run, and score with its answer."""
    paths = teacher_requests(run, to=script, out=folder, k=K, device="cpu")
    monkeypatch.setattr(sys, "argv", [str(paths[1]), argument])
    runpy.run_path(str(paths[1]), run_name="__main__")
    again = score(
        rollouts, teacher=teacher, students={"s": student}, out=folder / "run", k_grid=GRID,
        noise_floor="off", teacher_logprobs=str(folder / "teacher.jsonl"),
    )  # fmt: skip
    return again.tokens("s").collect(), run.tokens("s").collect()


@pytest.mark.parametrize("knows_ids", [True, False])
def test_the_script_for_vllm_writes_what_score_reads(
    run, rollouts, teacher, student, tmp_path, monkeypatch, knows_ids
):
    for name, module in fake_vllm(knows_ids).items():
        monkeypatch.setitem(sys.modules, name, module)
    got, want = asked(run, rollouts, teacher, student, tmp_path, "vllm", teacher, monkeypatch)
    exact = ("teacher_mass", "reverse_kl_top") if knows_ids else ("teacher_top_mass",)
    for name in ("teacher_logp", *exact):
        a, b = (np.array(frame[name].to_list(), float) for frame in (got, want))
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5, err_msg=name)
    if not knows_ids:
        assert (got["teacher_rank"] >= 1).all()


def test_the_script_for_sglang_writes_what_score_reads(
    run, rollouts, teacher, student, tmp_path, monkeypatch
):
    def answer(request):
        assert request.full_url == "http://here:1/generate"
        body = json.loads(request.data)
        tokens, start = body["input_ids"], body["logprob_start_len"]
        lq = logps(teacher, tokens)
        own, best = [[None, tokens[start], None]], [None]
        for place in range(start, len(tokens) - 1):
            own.append([float(lq[place, tokens[place + 1]]), tokens[place + 1], None])
            top = lq[place].topk(body["top_logprobs_num"])
            best.append([[v, i, None] for v, i in zip(*map(torch.Tensor.tolist, top), strict=True)])
        meta = {"input_token_logprobs": own, "input_top_logprobs": best}
        return io.BytesIO(json.dumps({"meta_info": meta}).encode())

    monkeypatch.setattr("urllib.request.urlopen", answer)
    got, want = asked(
        run, rollouts, teacher, student, tmp_path, "sglang", "http://here:1/", monkeypatch
    )
    a, b = (frame["teacher_logp"].to_numpy() for frame in (got, want))
    np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)
    assert got["teacher_top_logp"].is_not_null().all()


def test_requests_hold_the_token_and_the_students_likeliest(run, rollouts, tmp_path):
    paths = teacher_requests(run, to="vllm", out=tmp_path, k=K, device="cpu")
    rows = {row["id"]: row for row in map(json.loads, paths[0].read_text().splitlines())}
    tokens = run.tokens("s").collect()
    assert sum(len(row["ids"]) for row in rows.values()) == tokens.height
    for row in rollouts.table.iter_rows(named=True):
        if not row["response_token_ids"]:
            assert row["rollout_id"] not in rows
            continue
        request = rows[row["rollout_id"]]
        prompt = row["teacher_prompt_token_ids"] or row["prompt_token_ids"]
        assert request["prompt_token_ids"] == prompt
        own = tokens.filter(rollout=row["rollout"])
        for ids, token, best in zip(
            request["ids"], own["token_id"], own["student_top_id"], strict=True
        ):
            assert ids[0] == token
            assert best in ids[:2]
            assert len(set(ids)) == K + 1


def test_what_makes_no_sense_is_refused(run, tmp_path):
    for options, message in (({"to": "tgi"}, "to: 'tgi'"), ({"to": "vllm", "k": 900}, "k: 900")):
        with pytest.raises(OptionError, match=message):
            teacher_requests(run, out=tmp_path, device="cpu", **options)


def test_a_student_that_has_moved_is_found_by_its_option(
    rollouts, teacher, student, later, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    shutil.copytree(student, tmp_path / "models" / "students" / "s")
    run = score(
        rollouts, teacher=teacher, students={"s": "models/students/s"}, out=tmp_path / "run",
        k_grid=GRID, noise_floor="off",
    )  # fmt: skip
    (tmp_path / "models").rename(tmp_path / "moved")
    options = {"to": "vllm", "out": tmp_path / "requests", "k": K, "device": "cpu"}
    with pytest.raises(ModelError) as raised:
        teacher_requests(run, **options)
    assert str(raised.value) == (
        "checkpoint s: models/students/s: no such folder (the path is from the run's manifest, as "
        "it was given to `score` and relative to the folder it was started in); expected the "
        "model there, or --student s=FOLDER"
    )
    with pytest.raises(ModelMismatchError, match="checkpoint s: .* holds other weights"):
        teacher_requests(run, students={"s": later}, **options)
    with pytest.raises(OptionError, match="students: no checkpoint 'x'; expected one of s"):
        teacher_requests(run, students={"x": student}, **options)
    # What the caller gives is no path of the manifest.
    with pytest.raises(ModelError, match="nowhere: no such folder; expected a model") as raised:
        teacher_requests(run, students={"s": "./nowhere"}, **options)
    assert "manifest" not in str(raised.value)
    paths = teacher_requests(run, students={"s": "moved/students/s"}, **options)
    again = teacher_requests(run, students={"s": student}, **options | {"out": tmp_path / "b"})
    assert paths[0].read_bytes() == again[0].read_bytes()
