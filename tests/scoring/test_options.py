"""Options without sense are refused in one line, before anything is read or written."""

import pytest

from opd_diag.errors import OptionError
from opd_diag.scoring.preflight.check import check
from opd_diag.scoring.score import score

BOTH = [
    ("temperature", 0.0, "temperature: 0.0; expected a positive number"),
    ("temperature", float("nan"), "expected a positive number"),
    ("temperature", float("inf"), "expected a positive number"),
    ("max_response_tokens", 0, "max_response_tokens: 0; expected 1 or more"),
    ("batch_tokens", 0, "batch_tokens: 0; expected 1 or more"),
    ("part_tokens", 0, "part_tokens: 0; expected 1 or more"),
    ("dtype", "float31", "dtype: 'float31'; expected auto, float32"),
    ("dtype", "int64", "dtype: 'int64'; expected auto, float32"),
    ("dtype", "float64", "dtype: 'float64'; expected auto, float32, bfloat16 or float16"),
    ("dtype", "float8_e4m3fn", "expected auto, float32, bfloat16 or float16"),
    ("device", "gpu", "device: 'gpu'; expected one that torch finds here"),
    ("device", "cuda:99", "device: 'cuda:99'; expected one that torch finds here"),
    ("device", "meta", "device: 'meta'; expected one that torch finds here"),
]
SCORE = [
    ("k_grid", (), "expected rising numbers from 2"),
    ("k_grid", (1, 2), "expected rising numbers from 2"),
    ("k_grid", (4, 4), "expected rising numbers from 2"),
    ("k_grid", (10_000,), r"k_grid: \[10000\]; expected a number up to"),
    ("union_k", 0, "union_k: 0; expected 1 or more"),
    ("limit", 0, "limit: 0; expected 1 or more"),
    ("seed", -1, "seed: -1; expected 0 or more"),
    ("teacher_bits", 3, "teacher_bits: 3; expected 4 or 8"),
    ("device_map", "cuda", "device_map: 'cuda'; expected auto"),
    ("teacher_device", "gpu", "device: 'gpu'; expected one that torch finds here"),
    ("segmenter", "clauses", "segmenter: 'clauses'"),
]


@pytest.mark.parametrize(("option", "value", "message"), BOTH + SCORE)
def test_score_refuses(rollouts, teacher, student, folder, option, value, message):
    with pytest.raises(OptionError, match=message) as caught:
        score(rollouts, teacher=teacher, students=student, out=folder, **{option: value})
    assert "\n" not in str(caught.value)
    assert not folder.exists()


@pytest.mark.parametrize(("option", "value", "message"), BOTH)
def test_check_refuses(rollouts, teacher, student, option, value, message):
    with pytest.raises(OptionError, match=message):
        check(rollouts, teacher=teacher, students=student, **{option: value})
