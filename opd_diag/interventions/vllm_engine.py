"""Generate with vLLM, where it is installed: fast, and without common random numbers.

vLLM draws its own random numbers, and a ban is a logit bias of -100, the least that it takes. Arms
then differ from their first token on, so that intervals are wider for the same cost.
"""

from collections.abc import Callable, Sequence
from importlib import import_module
from typing import Any

from opd_diag.errors import ModelError, OptionError, first_line
from opd_diag.interventions.generation import LENGTH, STOP, Decoding, Request, Response
from opd_diag.interventions.uniforms import uniforms

BIAS = -100.0  # nat; a banned id keeps at most e^-100 of its odds


class VllmEngine:
    """Generates with vLLM.

    Args:
        path: Folder or hub id of the model.
        decoding: How it generates.
        dtype: Name of a dtype, or `auto`.
        trust_remote_code: Whether code that comes with the model may run.

    Raises:
        OptionError: If vLLM is not installed.
        ModelError: If it cannot load the model.
    """

    name = "vllm"
    shares_numbers = False

    def __init__(
        self, path: str, decoding: Decoding, *, dtype: str = "auto", trust_remote_code: bool = False
    ) -> None:
        try:
            self._vllm: Any = import_module("vllm")
        except ImportError:
            raise OptionError(
                "engine: vllm is not installed; expected it (`pip install opd-diag[vllm]`), or the "
                "engine transformers"
            ) from None
        try:
            self._model = self._vllm.LLM(
                model=path, dtype=dtype, trust_remote_code=trust_remote_code, seed=decoding.seed
            )
        except Exception as error:  # a library of its own errors
            raise ModelError(
                f"{path}: vllm cannot load it ({first_line(error)}); expected a model that vllm "
                "supports"
            ) from error
        self._decoding = decoding

    def generate(
        self,
        requests: Sequence[Request],
        banned: Sequence[int] = (),
        *,
        advance: Callable[[int], None] | None = None,
    ) -> list[Response]:
        """Generate responses; arguments and result as for `TransformersEngine.generate`."""
        settings = self._decoding
        bias = dict.fromkeys([*settings.suppressed, *banned], BIAS)
        prompts, parameters = [], []
        for one in requests:
            prompts.append({"prompt_token_ids": [*one.prompt, *one.begun]})
            # A seed of the request's own, so that a part that is made again is the same.
            number = uniforms(settings.seed, one.problem, one.sample, 1)[0]
            parameters.append(
                self._vllm.SamplingParams(
                    temperature=settings.temperature,
                    top_p=1.0,
                    top_k=-1,
                    max_tokens=settings.max_new_tokens - len(one.begun),
                    logit_bias=bias or None,
                    allowed_token_ids=None,
                    stop_token_ids=list(settings.end_ids),
                    seed=int(number * 2**31),
                )
            )
        outputs = self._model.generate(prompts, parameters, use_tqdm=False)
        responses = []
        for one, output in zip(requests, outputs, strict=True):
            ids = list(map(int, output.outputs[0].token_ids))
            ended = bool(ids) and ids[-1] in settings.end_ids
            responses.append(Response([*one.begun, *ids], STOP if ended else LENGTH, []))
            if advance is not None:
                advance(len(ids))
        return responses
