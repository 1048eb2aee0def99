"""Ages against sympy's solver on equations read from the words."""

import re

import sympy

from phi4.skills.ages import AGES
from tests.skills.family_checks import check_family


def test_the_family():
    check_family(AGES, swap=lambda p: (p[0][::-1], *p[1:]), mean_tokens=120)


def test_answers_follow_from_the_words():
    for index in range(40):
        problem = AGES.problem(index, 1 + index % 3)
        text = problem.question
        names = problem.params[0]
        age = {name: sympy.Symbol(name) for name in names}
        equations = [age[a] - int(k) for a, k in re.findall(r"(\w+) is (\d+) years old\b", text)]
        for a, k, word, b in re.findall(r"(\w+) is (\d+) years (older|younger) than (\w+)", text):
            equations.append(age[a] - age[b] - (int(k) if word == "older" else -int(k)))
        for a, k, b in re.findall(r"(\w+) is (\d+) times as old as (\w+)", text):
            equations.append(age[a] - int(k) * age[b])
        solved = sympy.solve(equations, list(age.values()))
        ages = [int(solved[age[name]]) for name in names]
        later = re.search(r"in (\d+) years\?|(\d+) years from now", text)
        if later:
            expected = ages[2] + int(later[1] or later[2])
        elif "together" in text or "sum" in text:
            expected = sum(ages)
        else:
            expected = max(ages) - min(ages)
        assert problem.answer == str(expected), problem
