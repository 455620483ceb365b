"""Hold the settings of the full run and of the quick one."""

from __future__ import annotations

from dataclasses import dataclass

from nets import Shape
from train import Recipe

SEED = 20


@dataclass(frozen=True)
class Settings:
    """Hold the scale of every stage."""

    teacher_shape: Shape
    student_shape: Shape
    teacher: Recipe
    teacher_start: int  # seed of the initial weights
    student: Recipe
    student_start: int
    distillation: Recipe
    kept_steps: tuple[int, ...]
    held_out: int
    asked: int
    corpus: int
    vocabulary: int
    limit_quantile: float
    name: str


FULL = Settings(
    teacher_shape=Shape(640, hidden=192, layers=6, heads=6, groups=2, inner=512),
    student_shape=Shape(608, hidden=128, layers=4, heads=4, groups=2, inner=320),
    teacher=Recipe(steps=2000, batch=8, rate=3e-3, warmup=50, seed=SEED + 10),
    teacher_start=SEED + 10,
    student_start=SEED + 3,
    student=Recipe(steps=500, batch=8, rate=3e-3, warmup=50, seed=SEED + 12),
    distillation=Recipe(steps=300, batch=16, rate=2e-3, warmup=20, seed=SEED + 14, decay=0.0),
    kept_steps=(0, 150, 300),
    held_out=256,
    asked=96,
    corpus=3000,
    vocabulary=576,
    limit_quantile=0.92,
    name="full",
)
QUICK = Settings(
    teacher_shape=Shape(640, hidden=64, layers=2, heads=2, groups=1, inner=128),
    student_shape=Shape(608, hidden=32, layers=2, heads=2, groups=1, inner=64),
    teacher=Recipe(steps=40, batch=8, rate=3e-3, warmup=5, seed=SEED + 10),
    teacher_start=SEED + 10,
    student_start=SEED + 3,
    student=Recipe(steps=20, batch=8, rate=3e-3, warmup=5, seed=SEED + 12),
    distillation=Recipe(steps=4, batch=4, rate=1e-3, warmup=2, seed=SEED + 14, decay=0.0),
    kept_steps=(0, 2, 4),
    held_out=16,
    asked=4,
    corpus=400,
    vocabulary=576,
    limit_quantile=0.92,
    name="quick",
)
