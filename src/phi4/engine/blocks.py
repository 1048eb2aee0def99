"""Which blocks of the key-value cache belong to whom: reference counts, promises, and the prefix cache.

A block holds the keys and values of BLOCK consecutive tokens of every layer. Full blocks are remembered under a key
that chains the tokens from the start of the text on, so a later text with the same beginning takes them over.
A remembered block that nobody uses stays until its place is needed, the one unused longest first.
"""

import hashlib
from array import array
from collections import OrderedDict
from collections.abc import Iterable, Sequence


def chain(parent: bytes, tokens: Sequence[int]) -> bytes:
    """The key of a full block of `tokens` behind the block with key `parent`."""
    return hashlib.blake2b(parent + array("q", tokens).tobytes(), digest_size=16).digest()


def root(salt: str, *, long: bool) -> bytes:
    """The parent of a text's first block. Texts with another salt or another rotation never share blocks."""
    return hashlib.blake2b(salt.encode(), digest_size=16, person=b"long" if long else b"short").digest()


class BlockPool:
    """`count` blocks. Blocks are promised before they are taken, so taking never fails."""

    def __init__(self, count: int) -> None:
        self.count = count
        self.promised = 0
        self._free = list(range(count - 1, -1, -1))
        self._references = [0] * count
        self._block_of: dict[bytes, int] = {}
        self._key_of: dict[int, bytes] = {}
        self._idle: OrderedDict[int, None] = OrderedDict()  # remembered and unused, unused longest first

    @property
    def available(self) -> int:
        """Blocks that are neither used nor promised."""
        return len(self._free) + len(self._idle) - self.promised

    @property
    def used(self) -> int:
        """Blocks somebody holds."""
        return self.count - len(self._free) - len(self._idle)

    def find(self, keys: Iterable[bytes]) -> list[int]:
        """The remembered blocks of the longest beginning of `keys`; nobody's yet (see `share`)."""
        found = []
        for key in keys:
            block = self._block_of.get(key)
            if block is None:
                break
            found.append(block)
        return found

    def idle(self, blocks: Iterable[int]) -> int:
        """How many of these are unused now and would no longer be available once shared."""
        return sum(not self._references[block] for block in blocks)

    def share(self, block: int) -> None:
        """One more holder of a remembered or used block."""
        if not self._references[block]:
            del self._idle[block]
        self._references[block] += 1

    def take(self) -> int:
        """A block of one's own, out of what was promised."""
        self.promised -= 1
        if self._free:
            block = self._free.pop()
        else:
            block, _ = self._idle.popitem(last=False)
            del self._block_of[self._key_of.pop(block)]
        self._references[block] = 1
        return block

    def release(self, block: int) -> None:
        """One holder fewer."""
        self._references[block] -= 1
        if self._references[block]:
            return
        if block in self._key_of:
            self._idle[block] = None
        else:
            self._free.append(block)

    def remember(self, block: int, key: bytes) -> None:
        """A full block's key. When another block has it already, that one stays the remembered one."""
        if key not in self._block_of and block not in self._key_of:
            self._block_of[key] = block
            self._key_of[block] = key

    def forget(self) -> None:
        """Drop every remembered block that nobody uses."""
        while self._idle:
            block, _ = self._idle.popitem()
            del self._block_of[self._key_of.pop(block)]
            self._free.append(block)
