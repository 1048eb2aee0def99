"""The comparison with other programs: what is asked, what is refused, and how figures become ratios."""

import sys

import pytest
import torch

from phi4.bench.engine import Measured
from phi4.bench.engine_report import picture, table
from phi4.bench.llama_cpp_peer import peak_memory
from phi4.bench.programs import LLAMA, OURS, PLAIN, TRANSFORMERS, Program, check_build, questions
from phi4.bench.subjects import divergence
from phi4.errors import UsageError

_PEER = """
import sys
sys.path.insert(0, {source!r})
from phi4.bench.llama_cpp_peer import serve
class Peer:
    def decode(self, batch, steps, depth):
        return {{"seconds": [0.1 * batch] * steps}}
    def load(self):
        raise RuntimeError("no such model")
    def end(self):
        raise SystemExit(3)
serve(Peer())
"""


@pytest.fixture
def program(pytestconfig: pytest.Config):
    source = str(pytestconfig.rootpath / "src")
    made = Program("peer", [sys.executable, "-c", _PEER.format(source=source)])
    yield made
    made.close()


def test_a_program_answers_and_survives_its_mistakes(program: Program) -> None:
    question = next(q for q in questions([4], []) if q.name == "decode, batch 4")
    with pytest.raises(UsageError, match="peer cannot load: RuntimeError: no such model"):
        program.ask({"do": "load"})
    assert question.value(program.ask(dict(question.ask))) == pytest.approx(10.0)
    with pytest.raises(UsageError, match="peer cannot end: it ended"):
        program.ask({"do": "end"})


@pytest.mark.parametrize(
    ("system", "flags", "refused"),
    [
        ("CPU : AVX512_VNNI = 1 | AMX_INT8 = 1 |", "avx2 avx512_vnni amx_int8", ""),
        ("CPU : AVX512_VNNI = 1 |", "avx2 avx512_vnni amx_int8", "amx_int8"),
        ("CPU : AVX2 = 1 |", "avx2 avx512_vnni", "avx512_vnni"),
        ("CPU : AVX2 = 1 |", "avx2", ""),
    ],
)
def test_a_peer_built_for_less_is_refused(system: str, flags: str, refused: str) -> None:
    if not refused:
        check_build(system, flags)
        return
    with pytest.raises(UsageError, match=refused):
        check_build(system, flags)


def measured() -> Measured:
    values = {
        "prefill 512": {OURS: [100.0, 90.0, 110.0], PLAIN: [60.0] * 3, LLAMA: [50.0, 30.0, 50.0]},
        "decode, batch 1": {OURS: [9.0, 10.0, 8.0], PLAIN: [5.0] * 3, LLAMA: [10.0, 10.0, 10.0]},
        "first token, 496 of 512 cached": {OURS: [1.0], PLAIN: [1.0], LLAMA: [2.0]},
    }
    names = (OURS, PLAIN, LLAMA, TRANSFORMERS)
    return Measured(
        "phi-4-mini, random weights",
        {"decode, batch 1": 12.0},
        30e9,
        values,
        {"decode, batch 1": {OURS: [9.0, 9.0], TRANSFORMERS: [3.0, 1.0]}},
        loads=dict.fromkeys(names, 1.0),
        memory=dict.fromkeys(names, 2e9),
        divergence=dict.fromkeys(names, 0.01),
        grown={"before": 3 * 10**9, "after": 3 * 10**9},
    )


def test_ratios_are_medians_of_what_was_measured_side_by_side() -> None:
    found = measured()
    assert found.ratio("prefill 512", OURS, LLAMA) == pytest.approx(2.2)  # of 2, 3 and 2.2
    assert found.ratio("decode, batch 1", OURS, TRANSFORMERS) == pytest.approx(6.0)
    assert found.ratio("decode, batch 8", OURS, LLAMA) is None
    text = table(found)
    assert "| prefill 512, tok/s | 100.0 | 60.0 | 50.0 |  |  |  |" in text
    assert "| decode, batch 1, tok/s | 9.0 | 5.0 | 10.0 | 2.0 | 12 | 75% |" in text
    assert "| prefill 512: phi4 / llama.cpp | 2.20 | 2.0 |" in text
    assert "| decode, batch 1: phi4 / llama.cpp | 0.90 (missed) | 1.0 |" in text
    assert "| KL to the model as it is, nats | 0.0100 |" in text
    assert "3.000 GB" in text


def test_the_picture(tmp_path) -> None:
    picture([measured()], tmp_path / "engine.svg")
    assert "phi-4-mini, random weights" in (tmp_path / "engine.svg").read_text()


def test_divergence() -> None:
    p = torch.tensor([[0.5, 0.25, 0.25]])
    q = torch.tensor([[0.25, 0.5, 0.25]])
    assert divergence(p.log(), q.log() + 7) == pytest.approx(0.25 * torch.tensor(2.0).log().item())


def test_peak_memory_is_the_process_s_own() -> None:
    before = peak_memory()
    block = bytearray(50_000_000)
    block[::4096] = b"x" * len(block[::4096])
    assert peak_memory() >= before
    assert 40e6 < peak_memory() < 64e9
