"""The arms of the data ablation differ in what they say they differ in, and in nothing else."""

from dataclasses import replace

from phi4.grading.intervals import compare_paired
from phi4.recipes.ablations import NOISE, Ablation, ArmResult, data_arms, table
from phi4.recipes.optimizers import Curve, race_table
from phi4.recipes.pico import pico


def test_arms_share_tokens_steps_sft_and_evaluation() -> None:
    arms = data_arms(pico())
    assert [name[0] for name in arms] == ["A", "B", "C", "D", "E"]
    first = arms[next(iter(arms))]
    for arm in arms.values():
        assert arm.sft == first.sft
        assert replace(arm.pretrain, mixture=()) == replace(first.pretrain, mixture=())
        assert abs(sum(share.fraction for share in arm.pretrain.mixture) - 1) < 1e-9
        assert (arm.model, arm.evaluation, arm.skills.conversations) == (
            first.model,
            first.evaluation,
            first.skills.conversations,
        )


def test_each_arm_changes_its_one_thing() -> None:
    a, b, c, d, e = data_arms(pico()).values()
    clean = pico().skills
    assert a.skills == replace(clean, noise=NOISE)
    assert b.skills == replace(clean, noise=NOISE, verify=False, curate=False)
    assert c.skills == replace(clean, answers_only=True)
    assert d.skills == replace(clean, one_template=True)
    assert e.skills == clean
    assert "problems" not in {share.source for share in e.pretrain.mixture}


def test_the_table_prints_every_arm_and_comparison() -> None:
    results = (ArmResult("A x", 0, 0.5, 0.4, 0.6, "run"), ArmResult("B y", 0, 0.25, 0.2, 0.3, "run"))
    comparison = compare_paired([False] * 30 + [True] * 10, [True] * 40)
    text = table(Ablation("pico", results, (("A - B, seed 0", comparison),), ("a note",)))
    assert "| A x | 0 | 50.0% | 40.0% - 60.0% |" in text
    assert "| A - B, seed 0 | +75.0% |" in text
    assert "- a note" in text


def test_the_race_is_decided_at_each_optimizers_best_rate() -> None:
    slow = Curve("adamw", 3e-3, 0, ((10.0, 2.0), (20.0, 1.0)))
    slower = Curve("adamw", 6e-3, 0, ((10.0, 2.5), (20.0, 1.5)))
    fast = Curve("muon", 5e-3, 0, ((5.0, 1.2), (10.0, 0.9), (20.0, 0.5)))
    assert fast.seconds_to(1.0) == 10.0
    assert slow.seconds_to(0.7) is None
    text = race_table([slower, slow, fast])
    assert (
        "1.0000 bits per byte after 20 s with adamw (0.003), after 10 s with muon (0.005): 2.0 times" in text
    )
