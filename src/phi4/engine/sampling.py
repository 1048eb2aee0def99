"""From logits to tokens, reproducibly: the randomness of a token depends on (seed, sample, position) alone.

What a request asks for takes effect in this order: rows that no token has are struck out; logit_bias is added; the
penalties; the grammar's mask; then, where the temperature is not 0, the temperature, top_k, top_p (of what top_k
left), min_p, and the draw. Reported log-probabilities know none of this but the struck rows: they are the model's own.

Legend: N sequences, V vocabulary, K likeliest tokens of a row, C rows of a part, W words of a bitmask.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from phi4.errors import ModelError
from phi4.text.generation import SamplingParams, Token

_MASK = np.uint64(0xFFFFFFFFFFFFFFFF)
_SHORTLIST = 2048  # likeliest tokens that are looked at before everything is sorted
_COLDEST = 1e-6  # temperatures below this are this one: they would overflow, and all are as good as greedy
_CPU_ELEMENTS, _GPU_ELEMENTS = (
    1 << 18,
    1 << 25,
)  # logits handled at once: what a core's cache holds


@dataclass(slots=True)
class Row:
    """What decides one row of logits: the position is the number of tokens already `written`.

    `allowed`: int32 bitmask [W], bit i % 32 of word i // 32 for token i (llguidance's layout), or None.
    """

    params: SamplingParams
    sample: int
    prompt: Sequence[int]
    written: Sequence[int]
    allowed: Tensor | None = None


def sample(logits_NV: Tensor, rows: Sequence[Row], unused: Tensor | None = None) -> list[Token]:
    """One token per row. `unused`: ids (long, on the logits' device) that no token has.

    A row's token depends on that row alone. Temperature 0 takes the largest logit, the lowest id among equals;
    otherwise the draw is by inverse transform in float64, over the tokens in the order of their ids.
    """
    chunk = max(1, (_GPU_ELEMENTS if logits_NV.is_cuda else _CPU_ELEMENTS) // logits_NV.shape[1])
    starts = range(0, len(rows), chunk)
    parts = ((logits_NV[start : start + chunk], rows[start : start + chunk]) for start in starts)
    return [token for part_NV, part in parts for token in _sample(part_NV, part, unused)]


def check_params(params: SamplingParams, vocab_size: int) -> None:
    """Raises ModelError with one line for the first value that is out of range, not a number, or names no token."""
    for name, low, high in _RANGES:
        value = getattr(params, name)
        whole = isinstance(low, int)
        fits = type(value) is int if whole else type(value) in (int, float)
        if not fits or not low <= value <= high:
            kind = "a whole number" if whole else "a number"
            raise ModelError(f"{name} is {value!r:.40}; it must be {kind} from {low:g} to {high:g}")
    if params.max_tokens == 0 and not params.prompt_logprobs:
        raise ModelError("max_tokens is 0; it must be at least 1", "0 is for prompt_logprobs alone")
    if params.top_p == 0:
        raise ModelError(
            "top_p is 0; it must be above 0 and at most 1", "temperature 0 takes the likeliest token"
        )
    if params.deadline is not None and not 0 < params.deadline < float("inf"):
        raise ModelError(f"deadline is {params.deadline!r:.40}; it must be a number of seconds above 0")
    for id, bias in params.logit_bias:
        if type(id) is not int or not 0 <= id < vocab_size:
            raise ModelError(f"logit_bias names token {id!r:.40}; the vocabulary has 0 to {vocab_size - 1}")
        if not -100 <= bias <= 100:
            raise ModelError(f"logit_bias of token {id} is {bias!r:.40}; it must be from -100 to 100")
    for id in params.stop_ids:
        if type(id) is not int or id < 0:
            raise ModelError(f"{id!r:.40} is not a token to stop at")
    if len(params.stop) > _STOPS or any(not 0 < len(text) <= _STOP_LENGTH for text in params.stop):
        raise ModelError(f"stop takes at most {_STOPS} strings of 1 to {_STOP_LENGTH} characters")


_STOPS, _STOP_LENGTH = 64, 1000
_RANGES: tuple[tuple[str, float, float], ...] = (  # whole numbers where the bounds are
    ("max_tokens", 0, 1 << 30),
    ("n", 1, 1 << 16),
    ("first_sample", 0, 1 << 62),
    ("seed", -(1 << 63), (1 << 64) - 1),
    ("top_k", 0, 1 << 30),
    ("top_logprobs", 0, 256),
    ("temperature", 0.0, 1e6),
    ("top_p", 0.0, 1.0),
    ("min_p", 0.0, 1.0),
    ("repetition_penalty", 0.01, 100.0),
    ("presence_penalty", -2.0, 2.0),
    ("frequency_penalty", -2.0, 2.0),
)


def uniforms(seeds: NDArray[np.uint64], samples: NDArray[np.uint64], positions: NDArray[np.uint64]) -> Tensor:
    """One number in [0, 1) per sequence: a counter-based hash (splitmix64's finaliser, chained)."""
    state = _mix(seeds)
    state = _mix(state ^ samples)
    state = _mix(state ^ positions)
    return torch.from_numpy((state >> np.uint64(11)).astype(np.float64) * 2.0**-53)


def _mix(x: NDArray[np.uint64]) -> NDArray[np.uint64]:
    with np.errstate(over="ignore"):
        x = x + np.uint64(0x9E3779B97F4A7C15)
        x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return (x ^ (x >> np.uint64(31))) & _MASK


def _sample(logits_NV: Tensor, rows: Sequence[Row], unused: Tensor | None) -> list[Token]:
    own_NV = logits_NV if logits_NV.dtype == torch.float64 else logits_NV.float()
    if unused is not None and len(unused):
        own_NV = own_NV.index_fill(1, unused, -torch.inf)
    scores_NV = _adjusted(own_NV, rows)
    token_N = scores_NV.argmax(-1)
    drawn = [i for i, row in enumerate(rows) if row.params.temperature > 0]
    if len(drawn) == len(rows):
        token_N = _draw(scores_NV, rows)
    elif drawn:
        token_N[drawn] = _draw(scores_NV[drawn], [rows[i] for i in drawn])
    total_N = own_NV.logsumexp(-1)
    logprob_N = own_NV.gather(1, token_N[:, None])[:, 0] - total_N
    ids, logprobs = torch.stack([token_N.double(), logprob_N.double()]).tolist()
    tops = _tops(own_NV, total_N, [row.params.top_logprobs for row in rows])
    return [Token(int(id), logprob, top) for id, logprob, top in zip(ids, logprobs, tops, strict=True)]


def _adjusted(own_NV: Tensor, rows: Sequence[Row]) -> Tensor:
    """The logits after bias, penalties and grammar; the very same tensor where no row asks for any."""
    scores_NV = own_NV
    masked = [i for i, row in enumerate(rows) if row.allowed is not None]
    changed = [i for i, row in enumerate(rows) if _biased(row.params)]
    if masked or changed:
        scores_NV = own_NV.clone()
    for i in changed:
        _bias(scores_NV[i], rows[i])
    if masked:
        allowed_NW = torch.stack([a for row in rows if (a := row.allowed) is not None]).to(own_NV.device)
        bits = torch.arange(32, dtype=torch.int32, device=own_NV.device)
        allowed_NV = ((allowed_NW[:, :, None] >> bits) & 1).flatten(1)[:, : own_NV.shape[1]].bool()
        index = _put(masked, own_NV)
        scores_NV[index] = scores_NV[index].masked_fill(~allowed_NV, -torch.inf)
    return scores_NV


def _biased(params: SamplingParams) -> bool:
    penalties = (params.repetition_penalty, params.presence_penalty, params.frequency_penalty)
    return bool(params.logit_bias) or penalties != (1, 0, 0)


def _bias(scores_V: Tensor, row: Row) -> None:
    """Add a row's bias and apply its penalties, in place."""
    params = row.params
    if params.logit_bias:
        ids, biases = zip(*params.logit_bias, strict=True)
        scores_V.index_add_(0, _put(ids, scores_V), torch.tensor(biases).to(scores_V))
    if params.repetition_penalty != 1:
        ids_S = _put(np.unique([*row.prompt, *row.written]), scores_V)
        seen_S = scores_V[ids_S]
        factor = params.repetition_penalty
        scores_V[ids_S] = torch.where(seen_S > 0, seen_S / factor, seen_S * factor)
    if row.written and (params.presence_penalty or params.frequency_penalty):
        written, counts = np.unique(row.written, return_counts=True)
        price = params.presence_penalty + params.frequency_penalty * counts
        scores_V.index_add_(0, _put(written, scores_V), torch.from_numpy(-price).to(scores_V))


def _draw(scores_NV: Tensor, rows: Sequence[Row]) -> Tensor:
    """token_N, drawn. None of the rows is greedy."""
    params = [row.params for row in rows]
    temperature_N = _reals([max(p.temperature, _COLDEST) for p in params], scores_NV)
    uniform_N = uniforms(
        np.array([p.seed & 0xFFFFFFFFFFFFFFFF for p in params], dtype=np.uint64),
        np.array([row.sample for row in rows], dtype=np.uint64),
        np.array([len(row.written) for row in rows], dtype=np.uint64),
    ).to(scores_NV.device)
    p_NV = (scores_NV.double() / temperature_N[:, None]).softmax(-1)
    least_N = (
        _reals([p.min_p for p in params], scores_NV) * p_NV.amax(-1) if any(p.min_p for p in params) else None
    )
    vocab = scores_NV.shape[1]
    if any(0 < p.top_k < vocab or p.top_p < 1 for p in params):
        top_k_N = _put([p.top_k or vocab for p in params], scores_NV).clamp_max(vocab)
        top_p_N = _reals([p.top_p for p in params], scores_NV)
        p_NV = _keep(p_NV, *_boundary(p_NV, top_k_N, top_p_N, min(_SHORTLIST, vocab)))
    if least_N is not None:  # a share of the largest: the cut before has not taken that one away
        p_NV = p_NV.masked_fill(p_NV < least_N[:, None], 0)
    return _invert(p_NV, uniform_N)


def _boundary(p_NV: Tensor, top_k_N: Tensor, top_p_N: Tensor, shortlist: int) -> tuple[Tensor, Tensor]:
    """How many tokens are kept, and the probability of the last of them.

    They are the top_k likeliest, and of those the fewest whose share of the mass reaches top_p.
    """
    vocab = p_NV.shape[1]
    value_NK = _largest(p_NV, shortlist)
    mass_NK = value_NK.cumsum(-1)
    last_N1 = (top_k_N - 1).clamp_max(shortlist - 1)[:, None]
    whole_N1 = torch.where(top_k_N[:, None] < vocab, mass_NK.gather(1, last_N1), 1.0)
    # The mass of the likelier tokens must not have reached top_p yet: the first one always stays.
    inside_NK = (mass_NK - value_NK < top_p_N[:, None] * whole_N1) | (top_p_N[:, None] >= 1)
    count_N = torch.minimum(inside_NK.sum(-1), top_k_N)
    least_N = value_NK.gather(1, count_N[:, None] - 1)[:, 0]
    if shortlist < vocab:
        # The boundary lies further down, or the mass it is a share of is not known yet.
        open_N = (top_k_N > shortlist) & (top_k_N < vocab) | (top_k_N == vocab) & inside_NK[:, -1] & (
            top_p_N < 1
        )
        index = open_N.nonzero()[:, 0]
        if len(index):
            count_N[index], least_N[index] = _boundary(p_NV[index], top_k_N[index], top_p_N[index], vocab)
    whole = (top_k_N == vocab) & (top_p_N >= 1)
    return torch.where(whole, vocab, count_N), torch.where(whole, 0.0, least_N)


def _largest(p_NV: Tensor, count: int) -> Tensor:
    """The largest values of each row, largest first."""
    if p_NV.is_cuda:
        return p_NV.topk(count).values
    # On CPUs NumPy's vectorised selection and sorting of bare values is 2 to 30 times faster than PyTorch's.
    values = p_NV.numpy()
    if count < values.shape[1]:
        values = np.partition(values, -count, axis=-1)[:, -count:]
    return torch.from_numpy(np.sort(values, axis=-1)).flip(-1)


def _keep(p_NV: Tensor, count_N: Tensor, least_N: Tensor) -> Tensor:
    """The probabilities of the `count` likeliest tokens, the others 0; of equal ones the lower ids stay."""
    kept_NV = p_NV >= least_N[:, None]
    crowded = (kept_NV.sum(-1) > count_N).nonzero()[:, 0]
    if len(crowded):  # several are as likely as the last one
        p_CV = p_NV[crowded]
        equal_CV = p_CV == least_N[crowded, None]
        above_CV = kept_NV[crowded] & ~equal_CV
        room_C1 = count_N[crowded, None] - above_CV.sum(-1, keepdim=True)
        kept_NV[crowded] = above_CV | equal_CV & (equal_CV.cumsum(-1) <= room_C1)
    return p_NV.masked_fill(~kept_NV, 0)


def _likeliest(values_NV: Tensor, count: int) -> Tensor:
    """Ids of the largest values, largest first; of equal ones the lower id comes first and is kept."""
    if count < values_NV.shape[1]:
        value_NK, id_NK = values_NV.topk(count, dim=-1)
        if not bool(((values_NV >= value_NK[:, -1:]).sum(-1) > count).any()):
            id_NK = id_NK.sort(-1).values
            return id_NK.gather(1, values_NV.gather(1, id_NK).argsort(dim=-1, descending=True, stable=True))
    # Several are equal to the last one, of which topk took any.
    return values_NV.argsort(dim=-1, descending=True, stable=True)[:, :count]


def _invert(weight_NC: Tensor, uniform_N: Tensor) -> Tensor:
    """The column in which `uniform` of each row's weight lies; never one without weight."""
    mass_NC = weight_NC.cumsum(-1)
    whole_N1 = mass_NC[:, -1:]
    aim_N1 = torch.minimum(uniform_N[:, None] * whole_N1, whole_N1.nextafter(torch.zeros_like(whole_N1)))
    found_N = torch.searchsorted(mass_NC, aim_N1, right=True)[:, 0]
    return found_N.clamp_max(weight_NC.shape[1] - 1)


def _tops(own_NV: Tensor, total_N: Tensor, counts: Sequence[int]) -> list[tuple[tuple[int, float], ...]]:
    """For each row the `counts` likeliest tokens that are possible at all."""
    asked = [i for i, count in enumerate(counts) if count > 0]
    tops: list[tuple[tuple[int, float], ...]] = [() for _ in counts]
    if not asked:
        return tops
    index = _put(asked, own_NV)
    rows_NV = own_NV if len(asked) == len(counts) else own_NV[index]
    id_NK = _likeliest(rows_NV, min(max(counts), own_NV.shape[1]))
    logprob_NK = rows_NV.gather(1, id_NK) - total_N[index, None]
    for i, ids, logprobs in zip(asked, id_NK.tolist(), logprob_NK.tolist(), strict=True):
        pairs = zip(ids[: counts[i]], logprobs, strict=False)
        tops[i] = tuple((id, logprob) for id, logprob in pairs if logprob > -torch.inf)
    return tops


def _put(values: Sequence[int] | NDArray[np.int64], like: Tensor) -> Tensor:
    return torch.as_tensor(values, dtype=torch.long, device=like.device)


def _reals(values: Sequence[float], like: Tensor) -> Tensor:
    return torch.tensor(values, dtype=torch.float64, device=like.device)
