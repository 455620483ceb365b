"""Every numeric column by brute force: full float64 logits, scipy, sets, and autograd."""

import numpy as np
import torch
from scipy.special import log_softmax, logsumexp, rel_entr, softmax
from transformers import AutoModelForCausalLM

from opd_diag.tables.columns.tokens import K_GRID, truncated_grid


def own_logits(folder, prompt, response, ids):
    """The model's own float64 logits at the tokens of a response, cut to the decodable ids."""
    return _run(folder, prompt, response).logits[0, len(prompt) - 1 : -1, :ids].numpy()


def own_hidden(folder, prompt, response):
    """The model's own final hidden states at the tokens of a response."""
    return _run(folder, prompt, response).hidden_states[-1][0, len(prompt) - 1 : -1].numpy()


def _run(folder, prompt, response):
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float64).eval()
    whole = torch.tensor([[*prompt, *response]])
    with torch.no_grad():
        return model(whole, output_hidden_states=True)


def row_columns(x, y, token, k_grid=K_GRID, union_k=16):
    """Columns of one row from student logits x and teacher logits y, both float64."""
    p, q, lp, lq = softmax(x), softmax(y), log_softmax(x), log_softmax(y)
    m = (p + q) / 2
    student_order, teacher_order = np.argsort(-x), np.argsort(-y)
    tops = [student_order[:k] for k in k_grid]
    teacher_tops = [teacher_order[:k] for k in truncated_grid(k_grid)]
    few = [student_order[:k] for k in truncated_grid(k_grid)]
    best = [np.sort(lq[top])[::-1] for top in tops]
    union = sorted({*student_order[:union_k], *teacher_order[:union_k]})
    pu, qu = p[union] / p[union].sum(), q[union] / q[union].sum()
    four = student_order[:4]
    weight = p[four] / p[four].sum()
    advantage = lq[four] - lp[four]
    return {
        "student_logp": lp[token],
        "teacher_logp": lq[token],
        "student_rank": 1 + (x > x[token]).sum(),
        "teacher_rank": 1 + (y > y[token]).sum(),
        "reverse_kl": rel_entr(p, q).sum(),
        "forward_kl": rel_entr(q, p).sum(),
        "js": (rel_entr(p, m).sum() + rel_entr(q, m).sum()) / 2,
        "student_entropy": logsumexp(x) - p @ x,
        "teacher_entropy": logsumexp(y) - q @ y,
        "student_top_id": student_order[0],
        "teacher_top_id": teacher_order[0],
        "teacher_top_logp": lq.max(),
        "teacher_top_rank": 1 + (x > x[teacher_order[0]]).sum(),
        "margin": [min(values[0] - values[1], 50.0) for values in best],
        "teacher_mass": [q[top].sum() for top in tops],
        "student_mass": [p[top].sum() for top in few],
        "reverse_kl_top": [p[top] @ (lp - lq)[top] for top in few],
        "teacher_top_mass": [q[top].sum() for top in teacher_tops],
        "student_mass_teacher_top": [p[top].sum() for top in teacher_tops],
        "reverse_kl_teacher_top": [p[top] @ (lp - lq)[top] for top in teacher_tops],
        "overlap": [len({*top} & {*teacher_order[: len(top)]}) / len(top) for top in tops],
        "union_kl": rel_entr(qu, pu).sum(),
        "advantage_var": weight @ advantage**2 - (weight @ advantage) ** 2,
    }


def gradients(hidden, weight, y, *, bias=None, scale=1.0, soft_cap=None, temperature=1.0):
    """Norms of the gradients by autograd in float64, and the gradient in the hidden state."""
    hidden = torch.tensor(hidden, dtype=torch.float64, requires_grad=True)
    weight = torch.tensor(weight, dtype=torch.float64, requires_grad=True)
    z = weight @ hidden * scale
    if bias is not None:
        z = z + torch.tensor(bias, dtype=torch.float64)
    if soft_cap is not None:
        z = soft_cap * torch.tanh(z / soft_cap)
    z.retain_grad()
    log_p = torch.log_softmax(z / temperature, 0)
    log_q = torch.log_softmax(torch.tensor(y, dtype=torch.float64) / temperature, 0)
    (log_p.exp() * (log_p - log_q)).sum().backward()
    norms = {
        "grad_logits": float(z.grad.norm()),
        "grad_hidden": float(hidden.grad.norm()),
        "grad_head": float(weight.grad.norm()),
    }
    return norms, hidden.grad.numpy()


def brute_repeat(response):
    """Length of the longest n-gram ending at each token that also ended earlier, n <= 32."""
    found = []
    for end in range(len(response)):
        lengths = [0]
        for other in range(end):
            n = 0
            while n < 32 and n <= other and response[other - n] == response[end - n]:
                n += 1
            lengths.append(n)
        found.append(max(lengths))
    return found
