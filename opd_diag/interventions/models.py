"""Open a run's student or teacher for generating: weights as scored, end tokens, context."""

import math
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from opd_diag.errors import ModelError, ModelMismatchError, OptionError, TableError, first_line
from opd_diag.interventions.generation import Decoding, Engine, TransformersEngine
from opd_diag.interventions.vllm_engine import VllmEngine
from opd_diag.scoring.models.fingerprints import fingerprint, require_scored
from opd_diag.scoring.models.loading import (
    Loading,
    context_of,
    default_device,
    default_dtype,
    load_model,
)
from opd_diag.tables.arguments import at_least
from opd_diag.tables.manifest import digest
from opd_diag.tables.run import Run
from opd_diag.tables.teacher_sources import BY_GROUP, LOGPROBS, without_weights
from opd_diag.text.model_files import hub_options
from opd_diag.text.tokenizers import load_tokenizer

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

ENGINES = ("transformers", "vllm")


class Chosen(NamedTuple):
    """A model of the run, before its weights are loaded.

    Attributes:
        name: Checkpoint, or `teacher`.
        path: Folder or hub id.
        digest: Of its weights.
        tokenizer: Its tokenizer.
        end_ids: Ids that end a response.
        suppressed: Ids that its settings keep from being chosen.
        context: Positions that it was made for; None: it does not say.
    """

    name: str
    path: str
    digest: str
    tokenizer: "PreTrainedTokenizerBase"
    end_ids: tuple[int, ...]
    suppressed: tuple[int, ...]
    context: int | None


class Settings(NamedTuple):
    """How responses are generated, whatever the study.

    Attributes:
        temperature: None: as scored.
        max_new_tokens: None: as long as the run's longest response.
        engine: One of `ENGINES`.
        batch_size: Most responses at a time.
        dtype: None: float32 on a CPU, as saved on a GPU.
        device: None: a GPU if there is one.
        trust_remote_code: Whether code that comes with a model may run.
        seed: Seed of all random numbers.
    """

    temperature: float | None
    max_new_tokens: int | None
    engine: str
    batch_size: int
    dtype: str | None
    device: str | None
    trust_remote_code: bool
    seed: int

    def check(self) -> "Settings":
        """Refuse values that make no sense.

        Raises:
            OptionError: If there is one.
        """
        if self.temperature is not None and not 0 < self.temperature < math.inf:
            raise OptionError(f"temperature: {self.temperature}; expected a positive number")
        at_least(1, max_new_tokens=self.max_new_tokens, batch_size=self.batch_size)
        at_least(0, seed=self.seed)
        if self.engine not in ENGINES:
            raise OptionError(f"engine: {self.engine!r}; expected {' or '.join(ENGINES)}")
        return self


def choose_student(run: Run, student: str | None, *, trust_remote_code: bool) -> Chosen:
    """Choose a checkpoint of the run by its name or the folder of its weights.

    Args:
        run: The run.
        student: Name of a checkpoint, or a folder or hub id with the weights of one; None: the last
            checkpoint, from where it was scored.
        trust_remote_code: Whether code that comes with the model may run.

    Raises:
        ModelMismatchError: If the weights are not those of a checkpoint.
        ModelError: If the model cannot be read, or names no end token.
    """
    known = run.manifest.checkpoints
    if student is None or student in known:
        name = student or run.checkpoints[-1]
        path, scored = known[name].path, known[name].fingerprint
        require_scored(
            path,
            scored,
            f"checkpoint {name}",
            recorded=path,
            option="--student FOLDER",
            trust_remote_code=trust_remote_code,
        )
        return _choose(run, name, path, scored, trust_remote_code)
    prints = digest(fingerprint(student, trust_remote_code=trust_remote_code))
    for name, checkpoint in known.items():
        if checkpoint.fingerprint == prints:
            return _choose(run, name, student, prints, trust_remote_code)
    raise ModelMismatchError(
        f"student {student}: its weights are none of the run's ({', '.join(known)}); expected a "
        "checkpoint that was scored, or its name"
    )


def choose_teacher(run: Run, teacher: str | None, *, trust_remote_code: bool) -> Chosen:
    """Choose the run's teacher, from where it was scored or from another place.

    Raises:
        OptionError: If the run was scored without the teacher's weights; those of a run scored
            with log-probs may be given.
        ModelMismatchError: If the weights are others.
        ModelError: If the model cannot be read, or names no end token.
    """
    if "teacher_states" in run.manifest.fingerprint:
        raise OptionError(
            f"{run.path}: scored with hidden states of the teacher; expected a run scored with its "
            "weights, which have to generate"
        )
    if run.teacher_source == BY_GROUP:
        raise OptionError(
            f"{run.path}: scored with several teachers; expected a run of one, which has to "
            "generate"
        )
    if run.teacher_source == LOGPROBS:
        if teacher is None:
            raise OptionError(without_weights(run.path, "have to generate"))
        files = fingerprint(teacher, trust_remote_code=trust_remote_code)
        return _choose(run, "teacher", teacher, digest(files), trust_remote_code)
    recorded = run.manifest.teacher.path
    path = teacher or recorded
    scored = digest(run.manifest.fingerprint["teacher"])
    require_scored(
        path,
        scored,
        "teacher",
        recorded=recorded,
        option="--teacher FOLDER",
        trust_remote_code=trust_remote_code,
    )
    return _choose(run, "teacher", path, scored, trust_remote_code)


def _choose(run: Run, name: str, path: str, scored: str, trust: bool) -> Chosen:
    tokenizer = load_tokenizer(path, fallback=run.manifest.teacher.path, trust_remote_code=trust)
    config, generation = _configs(path, trust)
    ends = _ids(getattr(generation, "eos_token_id", None)) or _ids(
        getattr(config.get_text_config(decoder=True), "eos_token_id", None)
    )
    ends = ends or _ids(tokenizer.eos_token_id)
    if not ends:
        raise ModelError(
            f"{path}: no end token in generation_config.json, config.json or the tokenizer; "
            "expected eos_token_id, without which no response ends"
        )
    suppressed = _ids(getattr(generation, "suppress_tokens", None))
    return Chosen(name, path, scored, tokenizer, ends, suppressed, context_of(config))


def _configs(path: str, trust: bool) -> tuple[Any, Any]:
    """Read the model's config, and its generation config or None where it has none."""
    from transformers import AutoConfig, GenerationConfig

    try:
        config = AutoConfig.from_pretrained(path, trust_remote_code=trust, **hub_options(path))
    except Exception as error:  # what model code raises has no bounds
        raise ModelError(
            f"{path}: config.json cannot be read ({first_line(error)}); expected a model"
        ) from error
    if Path(path).is_dir() and not (Path(path) / "generation_config.json").exists():
        return config, None
    try:
        return config, GenerationConfig.from_pretrained(path, **hub_options(path))
    except OSError:
        return config, None
    except Exception as error:
        raise ModelError(
            f"{path}: generation_config.json cannot be read ({first_line(error)}); expected "
            "settings that transformers reads, or no such file"
        ) from error


def _ids(value: Any) -> tuple[int, ...]:
    if value is None:
        return ()
    return tuple(map(int, value)) if isinstance(value, list | tuple) else (int(value),)


def decoding_of(run: Run, chosen: Chosen, settings: Settings) -> Decoding:
    """Settle how a model of the run generates.

    Raises:
        TableError: If the rollouts hold no response token, so that no length is known.
    """
    temperature = settings.temperature
    if temperature is None:
        temperature = float(run.manifest.fingerprint.get("temperature", 1.0))
    longest = settings.max_new_tokens
    if longest is None:
        longest = int(run.rollouts["response_token_ids"].list.len().to_numpy().max(initial=0))
    if not longest:
        raise TableError("rollouts: no response token; expected some, or max_new_tokens")
    return Decoding(
        ids=run.vocab.height,
        end_ids=chosen.end_ids,
        temperature=temperature,
        max_new_tokens=longest,
        seed=settings.seed,
        suppressed=tuple(i for i in chosen.suppressed if i < run.vocab.height),
    )


def dtype_of(settings: Settings) -> str:
    """Return the dtype that a model is loaded in."""
    return settings.dtype or default_dtype(settings.device or default_device())


def load_engine(chosen: Chosen, decoding: Decoding, settings: Settings) -> Engine:
    """Load what generates.

    Raises:
        ModelError: If the model cannot be loaded.
        OptionError: If vLLM is wanted and not installed.
    """
    if settings.engine == "vllm":
        return VllmEngine(
            chosen.path,
            decoding,
            dtype=settings.dtype or "auto",
            trust_remote_code=settings.trust_remote_code,
        )
    loading = Loading(
        dtype=dtype_of(settings),
        device=settings.device or default_device(),
        trust_remote_code=settings.trust_remote_code,
    )
    model = load_model(chosen.path, loading)
    return TransformersEngine(model, decoding, batch_size=settings.batch_size)
