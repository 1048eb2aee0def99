"""Rollouts: what the model makes of a prefix, how often it ends right, and the transcript of all of it.

A success probability is the share of sampled completions that end right. Every sample is written to an
append-only transcript before it is counted, keyed by (prompt, sampling parameters, sample index), so a
search that is run again reads its rollouts instead of paying for them twice, and comes to the same result.
Prefixes are token ids from end to end: nothing is decoded to be encoded again.
"""

import hashlib
import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from queue import SimpleQueue
from types import TracebackType
from typing import IO, Literal, Self

from phi4.errors import RunError
from phi4.run.files import writing
from phi4.text.generation import Completion, Event, Request, SamplingParams, Server

# Rollouts of different purposes never mix: a pair found by one set of samples is confirmed by another.
Purpose = Literal["search", "confirm", "random"]


@dataclass(frozen=True, slots=True)
class Solution:
    """A full completion to be searched. A finished one ends with its stop token (log-probability 0)."""

    tokens: tuple[int, ...]
    logprobs: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class Question:
    """One question in token ids. `id` is the id of the record it comes from and names its unit of work."""

    id: str
    family: str
    text: str
    prompt: tuple[int, ...]  # rendered up to where the answer begins
    licence: str = "MIT"
    problem_key: str | None = None
    solution: Solution | None = None  # search this one; None: draw solutions from the question's rollouts


# (question, completion ids without prompt and stop token) -> is it right?
Oracle = Callable[[Question, tuple[int, ...]], bool]


@dataclass(frozen=True, slots=True)
class Sampling:
    """How rollouts are sampled. `max_tokens` is the length of a whole completion, prefix included."""

    max_tokens: int
    stop_ids: tuple[int, ...]
    temperature: float = 1.0
    top_p: float = 1.0
    seed: int = 0
    model: str = ""  # fingerprint of the weights: rollouts of another model are never re-used


@dataclass(frozen=True, slots=True)
class Sample:
    """One completion as the transcript keeps it; log-probabilities only where a solution may come from it."""

    ids: tuple[int, ...]
    stop_id: int | None
    logprobs: tuple[float, ...] = ()

    @property
    def tokens(self) -> tuple[int, ...]:
        """The ids, and the stop token if the sample ended by itself."""
        return self.ids if self.stop_id is None else (*self.ids, self.stop_id)


@dataclass(frozen=True, slots=True)
class Need:
    """A wish for at least `count` rollouts after a prefix (of the completion, without the prompt)."""

    prefix: tuple[int, ...]
    count: int
    purpose: Purpose = "search"


@dataclass(slots=True)
class _Node:
    first: list[int | None] = field(default_factory=list)  # first token of each rollout
    right: list[bool] = field(default_factory=list)


class Rollouts:
    """All rollouts of one question, by purpose and prefix, judged as they come in."""

    def __init__(self, question: Question, oracle: Oracle, sampling: Sampling) -> None:
        self.question = question
        self.sampling = sampling
        self._oracle = oracle
        self._nodes: dict[tuple[Purpose, tuple[int, ...]], _Node] = {}
        self.complete: list[tuple[Sample, bool]] = []  # rollouts from the very start, and whether right
        self.tokens = 0  # sampled in all rollouts, stop tokens included

    def ended(self, prefix: tuple[int, ...]) -> bool:
        """Is this prefix a finished completion, whose success is known without sampling?"""
        return bool(prefix) and prefix[-1] in self.sampling.stop_ids

    def count(self, prefix: tuple[int, ...], purpose: Purpose = "search") -> int:
        """How many rollouts there are after `prefix`."""
        node = self._nodes.get((purpose, prefix))
        return len(node.right) if node else 0

    def missing(self, need: Need) -> int:
        """How many more rollouts `need` asks for."""
        return 0 if self.ended(need.prefix) else max(0, need.count - self.count(need.prefix, need.purpose))

    def add(self, prefix: tuple[int, ...], purpose: Purpose, samples: Iterable[Sample]) -> None:
        """Append rollouts in the order of their sample indices. One cut off by the length limit is wrong."""
        node = self._nodes.setdefault((purpose, prefix), _Node())
        for sample in samples:
            right = sample.stop_id is not None and self._oracle(self.question, prefix + sample.ids)
            # a search holds thousands of rollouts: whole ones are kept only where a solution may come from
            node.first.append(sample.tokens[0] if sample.tokens else None)
            node.right.append(right)
            if not prefix and purpose == "search":
                self.complete.append((sample, right))
            self.tokens += len(sample.tokens)

    def successes(self, prefix: tuple[int, ...], n: int, purpose: Purpose = "search") -> int:
        """Successes among the first n rollouts after `prefix` (n times the verdict if it has ended)."""
        if self.ended(prefix):
            return n if self._oracle(self.question, prefix[:-1]) else 0
        return sum(self._nodes[purpose, prefix].right[:n])

    def first_tokens(self, prefix: tuple[int, ...], purpose: Purpose = "search") -> list[tuple[int, bool]]:
        """First tokens of all rollouts after `prefix` in order, with whether the rollout ended right."""
        node = self._nodes.get((purpose, prefix), _Node())
        pairs = zip(node.first, node.right, strict=True)
        return [(token, right) for token, right in pairs if token is not None]

    @property
    def total(self) -> int:
        """Rollouts of this question, for all purposes."""
        return sum(len(node.right) for node in self._nodes.values())


class Transcript:
    """The append-only file of samples, one JSON object a line. `path` None writes nothing.

    In memory it holds where the lines are, not what they say. A line torn by a kill is cut off when the
    file is opened again; a damaged line elsewhere is an error.
    """

    def __init__(self, path: Path | None) -> None:
        self._path = path
        self._lines: dict[tuple[str, str], list[int]] = {}  # (prompt, params) -> where sample k begins
        self._file: IO[bytes] | None = None
        self._end = 0

    def __enter__(self) -> Self:
        if self._path is not None:
            with writing(self._path):
                self._path.parent.mkdir(parents=True, exist_ok=True)
                self._file = self._path.open("ab+")
            self._index(self._path, self._file)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._file is not None and self._path is not None:
            with writing(self._path):
                self._file.close()
            self._file = None

    def read(self, prompt: str, params: str, first: int, count: int) -> list[Sample]:
        """Samples first .. first + count - 1 of one prompt, as far as there are any."""
        samples = []
        for place in self._lines.get((prompt, params), [])[first : first + count]:
            assert self._file is not None
            self._file.seek(place)
            row = json.loads(self._file.readline())
            samples.append(Sample(tuple(row["ids"]), row["stop"], tuple(row.get("logprobs", ()))))
        return samples

    def append(self, prompt: str, params: str, first: int, samples: Sequence[Sample]) -> None:
        """Write samples first, first + 1, ... of one prompt. They are safe once `flush` returns."""
        if self._file is None or self._path is None:
            return
        places = self._lines.setdefault((prompt, params), [])
        with writing(self._path):
            for k, sample in enumerate(samples, start=first):
                row: dict[str, object] = {"prompt": prompt, "params": params, "sample": k}
                row |= {"ids": sample.ids, "stop": sample.stop_id}
                if sample.logprobs:
                    row["logprobs"] = sample.logprobs
                places.append(self._end)
                self._end += self._file.write(json.dumps(row, separators=(",", ":")).encode() + b"\n")

    def flush(self) -> None:
        """Hand everything appended to the operating system: from here on a kill cannot lose it."""
        if self._file is not None and self._path is not None:
            with writing(self._path):
                self._file.flush()

    def _index(self, path: Path, file: IO[bytes]) -> None:
        file.seek(0)
        for number, line in enumerate(file, start=1):
            if not line.endswith(b"\n"):
                break
            try:
                row = json.loads(line)
                places = self._lines.setdefault((row["prompt"], row["params"]), [])
                if row["sample"] != len(places) or not isinstance(row["ids"], list) or "stop" not in row:
                    raise ValueError("it does not continue the samples before it")
            except (ValueError, KeyError, TypeError) as error:
                raise RunError(
                    f"{path}, line {number}: damaged transcript ({error})",
                    f"keep the lines before it (head -n {number - 1}) or delete the file, and run again",
                ) from None
            places.append(self._end)
            self._end += len(line)
        file.truncate(self._end)


@dataclass(slots=True)
class Spent:
    """What a run paid for (sampled) and what it found in the transcript (read)."""

    sampled: int = 0
    sampled_tokens: int = 0
    read: int = 0


@dataclass(slots=True, eq=False)
class _Wish:
    rollouts: Rollouts
    need: Need
    prompt: str  # the transcript's names of the prompt and of how it is sampled
    params: str
    request: Request
    ticket: object = None
    samples: dict[int, Sample] = field(default_factory=dict)


class Desk:
    """Where needs are handed in and met: from the transcript as far as it goes, the rest by the server.

    Each is met as soon as its own samples are there, so that no question waits for the longest rollout of another.
    When the desk closes, what has arrived is written down and what is still open is given up.
    """

    def __init__(self, server: Server, transcript: Transcript, spent: Spent) -> None:
        self._server, self._transcript, self._spent = server, transcript, spent
        self._arrived: SimpleQueue[tuple[_Wish, Event]] = SimpleQueue()
        self._open: list[_Wish] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for wish in self._open:
            self._server.abort(wish.ticket)
        while not self._arrived.empty():
            wish, event = self._arrived.get()
            if isinstance(event, Completion) and event.finish != "abort":
                self._take(wish, event)

    def ask(self, rollouts: Rollouts, need: Need) -> None:
        """Hand in a need. If rollouts are still missing afterwards, a later `wait` brings them."""
        prompt, params = _key(rollouts, need)
        name, had = describe(params), rollouts.count(need.prefix, need.purpose)
        kept = self._transcript.read(prompt, name, had, rollouts.missing(need))
        rollouts.add(need.prefix, need.purpose, kept)
        self._spent.read += len(kept)
        if missing := rollouts.missing(need):
            params = replace(params, n=missing, first_sample=had + len(kept))
            request = Request(rollouts.question.prompt + need.prefix, params)
            wish = _Wish(rollouts, need, prompt, name, request)
            wish.ticket = self._server.submit(
                request, lambda event: self._arrived.put((wish, event)), deltas=False
            )
            self._open.append(wish)

    def wait(self) -> Rollouts | None:
        """Wait until one more need is met, and return whose it is; None when none is open."""
        while self._open:
            wish, event = self._arrived.get()
            if isinstance(event, BaseException):
                raise event
            if isinstance(event, Completion) and self._take(wish, event):
                return wish.rollouts
        return None

    def _take(self, wish: _Wish, completion: Completion) -> bool:
        """Keep one sample; is it the last that its need was waiting for?"""
        wish.samples[completion.sample] = _sample(completion, keep=not wish.need.prefix)
        params = wish.request.params
        if len(wish.samples) < params.n:
            return False
        self._open.remove(wish)
        group = [wish.samples[number] for number in sorted(wish.samples)]
        self._transcript.append(wish.prompt, wish.params, params.first_sample, group)
        self._transcript.flush()
        wish.rollouts.add(wish.need.prefix, wish.need.purpose, group)
        self._spent.sampled += len(group)
        self._spent.sampled_tokens += sum(len(sample.tokens) for sample in group)
        return True


def fill(
    needs: Iterable[tuple[Rollouts, Need]], server: Server, transcript: Transcript, spent: Spent
) -> None:
    """Meet all needs."""
    with Desk(server, transcript, spent) as desk:
        for rollouts, need in needs:
            desk.ask(rollouts, need)
        while desk.wait() is not None:
            pass


def describe(params: SamplingParams) -> str:
    """The sampling parameters as a transcript key: all that decides sample k but k itself."""
    stops = ",".join(map(str, params.stop_ids))
    return (
        f"max_tokens={params.max_tokens} temperature={params.temperature} top_p={params.top_p} "
        f"seed={params.seed} stop={stops}"
    )


def _key(rollouts: Rollouts, need: Need) -> tuple[str, SamplingParams]:
    """Name of the prompt (with the model and the purpose), and how it is sampled.

    Sample k of two prompts with one seed may draw the same random numbers, which would couple the two
    sides of a test; so each prompt and purpose has a seed of its own.
    """
    sampling = rollouts.sampling
    ids = rollouts.question.prompt + need.prefix
    name = f"{sampling.model}/{need.purpose}/{','.join(map(str, ids))}"
    prompt = hashlib.blake2b(name.encode(), digest_size=8).hexdigest()
    seed = hashlib.blake2b(f"{sampling.seed}/{prompt}".encode(), digest_size=6).digest()
    return prompt, SamplingParams(
        max_tokens=1 if need.purpose == "random" else max(1, sampling.max_tokens - len(need.prefix)),
        temperature=sampling.temperature,
        top_p=sampling.top_p,
        seed=int.from_bytes(seed, "big"),
        stop_ids=sampling.stop_ids,
    )


def _sample(completion: Completion, keep: bool) -> Sample:
    # four decimals in memory too, so that a search on re-read samples splits at the same places
    logprobs = tuple(round(x, 4) for x in completion.logprobs) if keep else ()
    return Sample(completion.ids, completion.stop_id, logprobs)
