"""Blocked document attention is the plain product with a mask, whatever the documents' lengths."""

import pytest
import torch

from phi4.train.objectives import document_attention


@pytest.mark.parametrize("time", [256, 257, 700, 1024])
def test_blocks_equal_a_masked_softmax(time: int) -> None:
    generator = torch.Generator().manual_seed(time)
    batch, heads, groups, channels = 3, 4, 2, 8
    lengths = torch.randint(1, 400, (batch, time), generator=generator)
    documents = torch.stack([torch.repeat_interleave(torch.arange(time), row)[:time] for row in lengths])
    q = torch.randn(batch, time, heads, channels, generator=generator, dtype=torch.float64)
    k, v = (
        torch.randn(batch, time, groups, channels, generator=generator, dtype=torch.float64) for _ in range(2)
    )
    visible = (documents[:, :, None] == documents[:, None, :]) & torch.ones(time, time).tril().bool()
    scores = torch.einsum("bqhk,bthk->bhqt", q, k.repeat_interleave(2, 2)) * channels**-0.5
    weights = scores.masked_fill(~visible[:, None], float("-inf")).softmax(-1)
    expected = torch.einsum("bhqt,bthk->bqhk", weights, v.repeat_interleave(2, 2))
    found = document_attention(documents, torch.float64)(0, q, k, v)
    torch.testing.assert_close(found, expected)
