"""Dates and clock times: days and weekdays within a common year, and hours and minutes of one day."""

import random
from datetime import date, datetime, timedelta

from phi4.skills.family import Family, Params, Solution
from phi4.skills.names import PEOPLE
from phi4.skills.small_sums import minus, plus

MONTHS = (
    "January", "February", "March", "April", "May", "June",
    "July", "August", "September", "October", "November", "December",
)  # fmt: skip
_LENGTHS = (31, 28, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31)
WEEKDAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")
_COMMON_YEAR = 2023  # any year without a leap day
_LONGEST = {1: 9, 2: 30, 3: 58}  # level: most days to add or to count


def _sample_date(rng: random.Random, level: int) -> Params:
    task = rng.choice(("add", "between", "weekday"))
    if task == "weekday":
        top = {1: 14, 2: 31, 3: 31}[level]
        first, second = sorted(rng.sample(range(1, top + 1), 2))
        return (
            task,
            rng.choice([m for m in range(12) if _LENGTHS[m] >= second]),
            first,
            second,
            rng.randrange(7),
        )
    while True:
        month = rng.randrange(11)
        day = rng.randint(1, _LENGTHS[month])
        days = rng.randint(2, _LONGEST[level])
        end = day + days
        if level == 1 and end > _LENGTHS[month]:
            continue
        if end > _LENGTHS[month] + _LENGTHS[month + 1]:
            continue
        if task == "add":
            return task, month, day, days
        if end <= _LENGTHS[month]:
            return task, month, day, month, end
        return task, month, day, month + 1, end - _LENGTHS[month]


def _canonical_date(params: Params) -> Params:
    if params[0] == "weekday":
        task, _, first, second, weekday = params
        return task, first, second, weekday  # the month's name changes nothing
    return params


def _ask_date(params: Params, phrasing: int, rng: random.Random) -> str:
    n = rng.choice(PEOPLE)
    if params[0] == "add":
        _, month, day, days = params
        start = f"{MONTHS[month]} {day}"
        return (
            f"Today is {start}. What is the date {days} days from now?",
            f"{n} leaves on {start} and comes back {days} days later. On which date does {n} come back?",
            f"What date is {days} days after {start}?",
            f"A parcel is sent on {start} and takes {days} days. On which date does it arrive?",
            f"Start at {start} and go {days} days forward. Which date is it?",
            f"{n} has a test {days} days after {start}. What is the date of the test?",
        )[phrasing]
    if params[0] == "between":
        _, month, day, last_month, last_day = params
        start, end = f"{MONTHS[month]} {day}", f"{MONTHS[last_month]} {last_day}"
        return (
            f"How many days are there from {start} to {end}?",
            f"{n} leaves on {start} and comes back on {end}. How many days later is that?",
            f"Today is {start}. In how many days is it {end}?",
            f"Count the days between {start} and {end}.",
            f"A parcel is sent on {start} and arrives on {end}. How many days does it take?",
            f"How many days after {start} is {end}?",
        )[phrasing]
    _, month, first, second, weekday = params
    start, name = f"{MONTHS[month]} {first}", WEEKDAYS[weekday]
    end = f"{MONTHS[month]} {second}"
    return (
        f"{start} is a {name}. What day of the week is {end}?",
        f"If {start} falls on a {name}, on which weekday does {end} fall?",
        f"{n} was born on {end}. In that year {start} was a {name}. On which weekday was {n} born?",
        f"It is {name}, {start}. Which weekday will {end} be?",
        f"The calendar says that {start} is a {name}. Find the weekday of {end}.",
        f"{n} meets a friend on {name}, {start}, and again on {end}. Which weekday is the second meeting?",
    )[phrasing]


def _solve_date(params: Params, rng: random.Random) -> Solution:
    if params[0] == "add":
        _, month, day, days = params
        end, length = day + days, _LENGTHS[month]
        lines = [f"{MONTHS[month]} {day}, days to add: {days}", plus(day, days)]
        if end <= length:
            return Solution(
                (*lines, f"{MONTHS[month]} has {length} days: {end} fits"), f"{MONTHS[month]} {end}"
            )
        lines += [
            f"{MONTHS[month]} has {length} days: {end} is too many",
            minus(end, length),
            f"after {MONTHS[month]}: {MONTHS[month + 1]}",
        ]
        return Solution(tuple(lines), f"{MONTHS[month + 1]} {end - length}")
    if params[0] == "between":
        _, month, day, last_month, last_day = params
        if month == last_month:
            return Solution(("same month", minus(last_day, day)), str(last_day - day))
        length = _LENGTHS[month]
        left = length - day
        lines = ["next month", f"{MONTHS[month]} has {length} days", minus(length, day), plus(left, last_day)]
        return Solution(tuple(lines), str(left + last_day))
    _, _, first, second, weekday = params
    days = second - first
    lines = [minus(second, first)]
    weeks = days // 7 * 7
    if weeks:
        lines.append(f"whole weeks: {weeks}, {days}-{weeks}={days - weeks}")
    lines.append(
        f"0 {WEEKDAYS[weekday]}"
        + "".join(f", {step} {WEEKDAYS[(weekday + step) % 7]}" for step in range(1, days % 7 + 1))
    )
    return Solution(tuple(lines), WEEKDAYS[(weekday + days) % 7])


def _check_date(params: Params, answer: str) -> bool:
    """By the calendar of the standard library."""
    if params[0] == "add":
        _, month, day, days = params
        end = date(_COMMON_YEAR, month + 1, day) + timedelta(days=days)
        return answer == f"{MONTHS[end.month - 1]} {end.day}"
    if params[0] == "between":
        _, month, day, last_month, last_day = params
        span = date(_COMMON_YEAR, last_month + 1, last_day) - date(_COMMON_YEAR, month + 1, day)
        return answer == str(span.days)
    _, _, first, second, weekday = params
    # 1 May 2023 was a Monday: start from the day of that week that has the given weekday.
    start = date(_COMMON_YEAR, 5, 1 + weekday)
    return answer in WEEKDAYS and (start + timedelta(days=second - first)).weekday() == WEEKDAYS.index(answer)


DATES = Family(
    name="dates",
    title="Dates and weekdays",
    levels=(
        "up to 9 days, within a month",
        "up to 30 days, into the next month",
        "up to 58 days, into the next month",
    ),
    kind="text",
    phrasings=6,
    sample=_sample_date,
    canonical=_canonical_date,
    ask=_ask_date,
    solve=_solve_date,
    check=_check_date,
)


def clock(minutes: int) -> str:
    """Minutes since midnight as hours and minutes: 9:05, 17:40."""
    return f"{minutes // 60}:{minutes % 60:02d}"


def _sample_time(rng: random.Random, level: int) -> Params:
    task = rng.choice(("later", "earlier", "between"))
    grain = 5 if level == 1 else 1
    hours = 3 if level == 1 else 11
    while True:
        start = rng.randrange(60, 24 * 60, grain)
        span = rng.randrange(65, hours * 60 + 60, grain)
        if level == 3:
            break  # may cross midnight
        if task == "earlier" and start - span >= 60:
            break
        if task != "earlier" and start + span < 24 * 60:
            break
    if task == "between":
        return task, start, (start + span) % (24 * 60)
    return task, start, span


def _canonical_time(params: Params) -> Params:
    return params


def _span(minutes: int) -> str:
    return f"{minutes // 60} h {minutes % 60} min"


def _ask_time(params: Params, phrasing: int, rng: random.Random) -> str:
    task, start, other = params
    n = rng.choice(PEOPLE)
    at = clock(start)
    if task == "later":
        span = _span(other)
        return (
            f"It is {at}. What time is it {span} later?",
            f"A train leaves at {at} and travels for {span}. When does it arrive?",
            f"{n} starts work at {at} and stops {span} later. At what time is that?",
            f"What time is {span} after {at}?",
            f"A cake goes into the oven at {at} and needs {span}. When is it done?",
            f"Add {span} to {at} on a clock of 24 hours.",
        )[phrasing]
    if task == "earlier":
        span = _span(other)
        return (
            f"It is {at}. What time was it {span} ago?",
            f"A train arrives at {at} after {span}. When did it leave?",
            f"{n} stops work at {at} after {span}. At what time did {n} start?",
            f"What time is {span} before {at}?",
            f"A cake is done at {at} after {span} in the oven. When did it go in?",
            f"Take {span} away from {at} on a clock of 24 hours.",
        )[phrasing]
    end = clock(other)
    night = " on the next day" if other < start else ""
    return (
        f"How long is it from {at} to {end}{night}?",
        f"A train leaves at {at} and arrives at {end}{night}. How long does it travel?",
        f"{n} works from {at} to {end}{night}. How long is that?",
        f"How much time passes between {at} and {end}{night}?",
        f"A shop is open from {at} to {end}{night}. For how long is it open?",
        f"A film starts at {at} and ends at {end}{night}. How long is it?",
    )[phrasing]


def _added(start: int, span: int) -> tuple[list[str], int]:
    """Lines for a clock time plus a span, and the time reached."""
    minutes, hours = start % 60 + span % 60, start // 60 + span // 60
    lines = [f"minutes {plus(start % 60, span % 60)}"]
    carry = minutes >= 60
    if carry:
        lines.append(f"full hour: {minutes}-60={minutes - 60}")
    lines.append(f"hours {plus(start // 60, span // 60)}")
    if carry:
        hours += 1
        lines.append(f"one more: {hours - 1}+1={hours}")
    if hours >= 24:
        lines.append(f"next day: {hours}-24={hours - 24}")
    return lines, (start + span) % (24 * 60)


def _taken(end: int, span: int) -> tuple[list[str], int]:
    """Lines for a clock time minus a span (or minus another time), and what is left."""
    minutes, hours = end % 60, end // 60
    lines: list[str] = []
    if hours * 60 + minutes < span:
        lines.append(f"day before: {hours}+24={hours + 24}")
        hours += 24
    if minutes < span % 60:
        lines.append(f"borrow an hour: {minutes}+60={minutes + 60}, {hours}-1={hours - 1}")
        minutes, hours = minutes + 60, hours - 1
    lines.append(f"minutes {minus(minutes, span % 60)}")
    lines.append(f"hours {minus(hours, span // 60)}")
    return lines, (hours - span // 60) * 60 + minutes - span % 60


def _solve_time(params: Params, rng: random.Random) -> Solution:
    task, start, other = params
    if task == "later":
        lines, reached = _added(start, other)
        return Solution((f"{clock(start)} plus {_span(other)}", *lines), clock(reached))
    if task == "earlier":
        lines, reached = _taken(start, other)
        return Solution((f"{clock(start)} minus {_span(other)}", *lines), clock(reached))
    lines, length = _taken(other, start)
    return Solution((f"{clock(other)} minus {clock(start)}", *lines), _span(length))


def _check_time(params: Params, answer: str) -> bool:
    """By the date and time arithmetic of the standard library."""
    task, start, other = params
    midnight = datetime(_COMMON_YEAR, 5, 2)
    if task == "between":
        span = timedelta(minutes=other) - timedelta(minutes=start)
        hours, minutes = divmod(span.seconds // 60, 60)  # a negative span has the seconds of the next day
        return answer == f"{hours} h {minutes} min"
    shift = timedelta(minutes=other if task == "later" else -other)
    reached = midnight + timedelta(minutes=start) + shift
    return answer == f"{reached.hour}:{reached.minute:02d}"


CLOCK = Family(
    name="clock",
    title="Clock times",
    levels=(
        "1-4 hours in steps of 5 minutes",
        "1-12 hours within a day",
        "1-12 hours, also past midnight",
    ),
    kind="text",
    phrasings=6,
    sample=_sample_time,
    canonical=_canonical_time,
    ask=_ask_time,
    solve=_solve_time,
    check=_check_time,
)
