"""Control arms for the pivotal pairs: the same number of preferences, chosen without the search.

If training on pivotal pairs helps, it could be because of where they sit, or merely because it is
preference training at all. Random-token pairs keep the form and drop the evidence; full-response pairs are
what everybody else trains on: a right answer against a wrong one of the same question.
"""

import random
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from phi4.data.record import Record, TokenPair
from phi4.errors import RunError
from phi4.pivotal.pairs import Pair, preference
from phi4.pivotal.rollouts import Need, Oracle, Question, Rollouts, Spent, Transcript, fill
from phi4.pivotal.stage import SearchConfig
from phi4.run.folder import fingerprint
from phi4.text.generation import Deliver, Request, Server

RANDOM_STEP = "random-token"
RESPONSE_STEP = "full-response"
_DRAWS = 64  # one-token samples per position; a small model is certain of most of its tokens


def random_token_pairs(
    pairs: Sequence[Pair],
    questions: Sequence[Question],
    oracle: Oracle,
    server: Server,
    config: SearchConfig,
    folder: Path | None,
    tokenizer: str,
    seed: int = 0,
) -> list[Record]:
    """For each pair another position of the same solution and two tokens sampled there, in random order.

    Positions are tried in random order until one has two different tokens among 64 draws. A solution whose
    every other position is certain gives no record; the caller tops up by cutting the other arms to length.
    """
    by_id = {question.id: question for question in questions}
    rollouts = {id: Rollouts(question, oracle, config.sampling) for id, question in by_id.items()}
    positions = {number: _positions(pair, number, seed) for number, pair in enumerate(pairs)}
    key, model = fingerprint(config), config.sampling.model
    found: dict[int, Record] = {}
    with Transcript(folder / "rollouts.jsonl" if folder else None) as transcript:
        while open_pairs := [number for number, left in positions.items() if left and number not in found]:
            tries = {n: pairs[n].solution[: positions[n].pop()] for n in open_pairs}
            # a dict, because two pairs of one solution may want the same position
            wishes = {
                (pairs[n].question, prefix): (rollouts[pairs[n].question], Need(prefix, _DRAWS, "random"))
                for n, prefix in tries.items()
            }
            fill(wishes.values(), server, transcript, Spent())
            for n, prefix in tries.items():
                question = by_id[pairs[n].question]
                drawn = rollouts[question.id].first_tokens(prefix, "random")
                distinct = list(dict.fromkeys(token for token, _ in drawn))[:2]
                if len(distinct) == 2:
                    random.Random(f"order/{seed}/{n}").shuffle(distinct)
                    accepted, rejected = distinct
                    content = TokenPair(tokenizer, question.prompt + prefix, (accepted,), (rejected,))
                    meta = {"index": len(prefix)}
                    found[n] = preference(question, content, key, model, RANDOM_STEP, n, meta)
    return [found[number] for number in sorted(found)]


def full_response_pairs(
    pairs: Sequence[Pair],
    questions: Sequence[Question],
    oracle: Oracle,
    config: SearchConfig,
    folder: Path,
    tokenizer: str,
) -> list[Record]:
    """For each pair a right and a wrong finished completion of its question, out of the transcript.

    Several pairs of one question get different completions while there are any. Raises RunError when
    the transcript does not hold the question's rollouts.
    """
    by_id = {question.id: question for question in questions}
    used: Counter[str] = Counter()
    records = []
    key, model = fingerprint(config), config.sampling.model
    with Transcript(folder / "rollouts.jsonl") as transcript:
        for number, pair in enumerate(pairs):
            question = by_id[pair.question]
            rollouts = Rollouts(question, oracle, config.sampling)
            fill([(rollouts, Need((), config.filter_rollouts))], _NoServer(), transcript, Spent())
            finished = [(s.tokens, right) for s, right in rollouts.complete if s.stop_id is not None]
            right = list(dict.fromkeys(tokens for tokens, good in finished if good))
            wrong = list(dict.fromkeys(tokens for tokens, good in finished if not good))
            turn = used[pair.question]
            used[pair.question] += 1
            if right and wrong:
                chosen = right[turn % len(right)], wrong[turn % len(wrong)]
                content = TokenPair(tokenizer, question.prompt, *chosen)
                records.append(preference(question, content, key, model, RESPONSE_STEP, number, {}))
    return records


class _NoServer:
    """Stands where a server is asked for but the transcript must hold everything."""

    def submit(self, request: Request, deliver: Deliver, *, deltas: bool = True) -> object:
        raise RunError("a question has no rollouts in the transcript", "run the search again")

    def abort(self, ticket: object) -> None:
        pass


def _positions(pair: Pair, number: int, seed: int) -> list[int]:
    positions = [index for index in range(len(pair.solution)) if index != pair.index]
    random.Random(f"positions/{seed}/{number}").shuffle(positions)
    return positions
