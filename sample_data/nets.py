"""Build, store and load the models, and run them with a plain key-value cache."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from torch.nn.functional import rms_norm, scaled_dot_product_attention
from transformers import (
    GenerationConfig,
    PreTrainedTokenizerFast,
    Qwen3Config,
    Qwen3ForCausalLM,
)
from vocab import save_tokenizer


@dataclass(frozen=True)
class Shape:
    """Hold the size of a model; ``width`` is its padded number of logits."""

    width: int
    hidden: int
    layers: int
    heads: int
    groups: int
    inner: int
    head_dim: int = 32


def build_model(shape: Shape, tokenizer: PreTrainedTokenizerFast, seed: int) -> Qwen3ForCausalLM:
    """Build a randomly initialised model whose logits are wider than the tokenizer."""
    torch.manual_seed(seed)
    config = Qwen3Config(
        vocab_size=shape.width,
        hidden_size=shape.hidden,
        intermediate_size=shape.inner,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads,
        num_key_value_heads=shape.groups,
        head_dim=shape.head_dim,
        max_position_embeddings=1024,
        tie_word_embeddings=True,
        attention_dropout=0.0,
        initializer_range=0.02,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    return Qwen3ForCausalLM(config)


def save_model(model: Qwen3ForCausalLM, tokenizer: PreTrainedTokenizerFast, folder: Path) -> None:
    """Write a bfloat16 copy of a model and its tokenizer as a model folder."""
    copy = Qwen3ForCausalLM(model.config)
    copy.load_state_dict(model.state_dict())
    copy.generation_config = GenerationConfig(
        do_sample=True,
        temperature=1.0,
        top_k=0,
        top_p=1.0,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        suppress_tokens=list(range(len(tokenizer), model.config.vocab_size)),
    )
    copy.to(torch.bfloat16).save_pretrained(folder)
    save_tokenizer(tokenizer, folder)


def load_model(folder: Path) -> Qwen3ForCausalLM:
    """Read a model folder back as float32, for evaluation."""
    model = Qwen3ForCausalLM.from_pretrained(folder, dtype=torch.float32)
    return model.eval()


def count_parameters(model: Qwen3ForCausalLM) -> int:
    """Count the parameters of a model, tied ones once."""
    return sum(parameter.numel() for parameter in model.parameters())


def _rotate(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    """Apply rotary positions to queries or keys of shape (batch, heads, time, head_dim)."""
    half = x.shape[-1] // 2
    return x * cos + torch.cat((-x[..., half:], x[..., :half]), dim=-1) * sin


def _norm(module: torch.nn.Module, x: torch.Tensor) -> torch.Tensor:
    """Apply a Qwen3 norm in one operation, which is faster for a single position."""
    return rms_norm(x, module.weight.shape, module.weight, module.variance_epsilon)


class CachedRunner:
    """Run a Qwen3 model on left-padded prompts with a preallocated key-value cache."""

    def __init__(self, model: Qwen3ForCausalLM, prompt_mask: torch.Tensor, room: int) -> None:
        """Reserve the cache for ``room`` further positions after the prompts."""
        config, (batch, start) = model.config, prompt_mask.shape
        self.model, self.used = model, 0
        shape = (
            config.num_hidden_layers,
            batch,
            config.num_key_value_heads,
            start + room,
            config.head_dim,
        )
        self.keys, self.values = torch.zeros(shape), torch.zeros(shape)
        self.visible = torch.cat((prompt_mask.bool(), torch.ones(batch, room).bool()), dim=1)
        self.positions = (self.visible.long().cumsum(1) - 1).clamp(min=0)

    def keep(self, rows: torch.Tensor) -> None:
        """Drop every sequence of the batch but those of ``rows``."""
        self.keys, self.values = self.keys[:, rows], self.values[:, rows]
        self.visible, self.positions = self.visible[rows], self.positions[rows]

    @torch.no_grad()
    def step(self, ids: torch.Tensor) -> torch.Tensor:
        """Feed ids of shape (batch, time) and return the logits after the last one."""
        body, start, end = self.model.model, self.used, self.used + ids.shape[1]
        hidden = body.embed_tokens(ids)
        cos, sin = body.rotary_emb(hidden, self.positions[:, start:end])
        cos, sin = cos.unsqueeze(1), sin.unsqueeze(1)
        causal = torch.arange(end)[None, :] <= torch.arange(start, end)[:, None]
        mask = (causal[None] & self.visible[:, None, :end]).unsqueeze(1)
        # A row of padding sees itself, so that its softmax stays finite.
        mask = mask | torch.eye(end, dtype=torch.bool)[start:end][None, None]
        for index, layer in enumerate(body.layers):
            hidden = self._layer(layer, index, hidden, (cos, sin), mask, (start, end))
        self.used = end
        return self.model.lm_head(_norm(body.norm, hidden[:, -1]))

    def _layer(
        self,
        layer: torch.nn.Module,
        index: int,
        hidden: torch.Tensor,
        rotary: tuple[torch.Tensor, torch.Tensor],
        mask: torch.Tensor,
        span: tuple[int, int],
    ) -> torch.Tensor:
        """Run one decoder layer and store its keys and values."""
        attention, (start, end) = layer.self_attn, span
        normed = _norm(layer.input_layernorm, hidden)
        shape = (*normed.shape[:2], -1, attention.head_dim)
        query = _norm(attention.q_norm, attention.q_proj(normed).view(shape)).transpose(1, 2)
        key = _norm(attention.k_norm, attention.k_proj(normed).view(shape)).transpose(1, 2)
        value = attention.v_proj(normed).view(shape).transpose(1, 2)
        self.keys[index, :, :, start:end] = _rotate(key, *rotary)
        self.values[index, :, :, start:end] = value
        mixed = scaled_dot_product_attention(
            _rotate(query, *rotary),
            self.keys[index, :, :, :end],
            self.values[index, :, :, :end],
            attn_mask=mask,
            enable_gqa=True,
        )
        hidden = hidden + attention.o_proj(mixed.transpose(1, 2).flatten(2))
        return hidden + layer.mlp(_norm(layer.post_attention_layernorm, hidden))
