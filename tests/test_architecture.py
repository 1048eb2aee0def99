"""The house keeps its shape: arrows between rooms, and what a bare GPU machine needs to have installed."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

# What a machine that only trains and samples may lack.
EXTRAS = (
    "pyarrow",
    "jinja2",
    "matplotlib",
    "transformers",
    "datasketch",
    "pydantic",
    "pandas",
    "llguidance",
    "gguf",
)


def test_arrows_point_one_way() -> None:
    lint = Path(sys.executable).with_name("lint-imports")
    result = subprocess.run([lint, "--no-cache"], cwd=ROOT, capture_output=True, text=True)
    assert result.returncode == 0, result.stdout
    assert "0 broken" in result.stdout


@pytest.mark.parametrize("room", ["model", "train", "engine", "skills"])
def test_core_rooms_import_without_the_extras(room: str) -> None:
    """Every module of the room imports with torch, numpy, tokenizers, safetensors and sympy alone."""
    code = f"""
import importlib, pkgutil, sys
for name in {EXTRAS}:
    sys.modules[name] = None  # makes `import name` fail
room = importlib.import_module("phi4.{room}")
for module in pkgutil.walk_packages(room.__path__, "phi4.{room}."):
    if module.name != "phi4.engine.kernels.gpu":  # Triton comes with PyTorch's CUDA builds and is asked for there only
        importlib.import_module(module.name)
"""
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
