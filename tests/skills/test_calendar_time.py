"""Dates and clock times, read back from the words with the standard library's own parsers."""

import re
from datetime import datetime, timedelta

from phi4.skills.calendar_time import CLOCK, DATES
from tests.skills.family_checks import check_family

_DATE = re.compile(r"[A-Z][a-z]+ \d+")


def _date(text: str) -> datetime:
    return datetime.strptime(f"{text} 2023", "%B %d %Y")


def test_dates():
    check_family(DATES)


def test_clock():
    check_family(CLOCK)


def test_weekdays_do_not_depend_on_the_month():
    assert DATES.key(("weekday", 2, 5, 9, 1)) == DATES.key(("weekday", 7, 5, 9, 1))
    assert DATES.key(("weekday", 2, 5, 9, 1)) != DATES.key(("weekday", 2, 5, 10, 1))


def test_date_answers_follow_from_the_words():
    for index in range(300):
        problem = DATES.problem(index, 1 + index % 3)
        dates = [_date(text) for text in _DATE.findall(problem.question)]
        if problem.params[0] == "add":
            (days,) = re.findall(r"(\d+) days", problem.question)
            assert _date(problem.answer) == dates[0] + timedelta(days=int(days)), problem
        elif problem.params[0] == "between":
            assert int(problem.answer) == abs(dates[0] - dates[1]).days, problem
        else:
            known = next(w for w in re.findall(r"\w+day", problem.question) if w[0].isupper())
            first, second = sorted(dates)
            names = [(datetime(2023, 5, 1) + timedelta(days=k)).strftime("%A") for k in range(7)]
            assert problem.answer == names[(names.index(known) + (second - first).days) % 7], problem


def test_clock_answers_follow_from_the_words():
    for index in range(300):
        problem = CLOCK.problem(index, 1 + index % 3)
        times = [datetime.strptime(text, "%H:%M") for text in re.findall(r"\d+:\d\d", problem.question)]
        spans = re.findall(r"(\d+) h (\d+) min", problem.question)
        if problem.params[0] == "between":
            seconds = (times[1] - times[0]).seconds  # a span over midnight wraps to the next day
            assert problem.answer == f"{seconds // 3600} h {seconds % 3600 // 60} min", problem
        else:
            span = timedelta(hours=int(spans[0][0]), minutes=int(spans[0][1]))
            reached = times[0] + span if problem.params[0] == "later" else times[0] - span
            expected = datetime.strptime(problem.answer, "%H:%M")
            assert (reached.hour, reached.minute) == (expected.hour, expected.minute), problem
