"""Where learning starts on a page: by characters, whatever the tokens are."""

from phi4.text.train_tokenizer import train_tokenizer

TEXT = "Problem: Add 12 and 30.\nSolution:\n12+30=42\nAnswer: 42"


def test_learning_starts_at_the_character_asked_for() -> None:
    tokenizer = train_tokenizer([TEXT] * 20, 400)
    start = TEXT.index("12+30")
    (ids, learn), (all_ids, everything) = tokenizer.encode_from([TEXT, TEXT], [start, 0])
    assert ids == all_ids == tokenizer.encode(TEXT)
    assert tokenizer.decode(id for id, one in zip(ids, learn, strict=True) if one) == TEXT[start:]
    assert everything == [1] * len(ids)


def test_characters_of_several_bytes_are_counted_once() -> None:
    tokenizer = train_tokenizer(["plain text"], 300)
    text = "é€😀: 5"
    ((ids, learn),) = tokenizer.encode_from([text], [text.index("5")])
    assert tokenizer.decode(id for id, one in zip(ids, learn, strict=True) if one) == "5"


def test_what_is_no_text_is_a_question_mark() -> None:
    """Lone surrogates come from broken arguments and from JSON; the library would raise a TypeError."""
    tokenizer = train_tokenizer(["plain text"], 300)
    wanted = tokenizer.encode("é?b")
    assert tokenizer.encode("é\udcffb") == wanted
    assert tokenizer.encode_batch(["é\ud800b"]) == [wanted]
    assert tokenizer.encode_from(["é\ud800b"], [1]) == tokenizer.encode_from(["é?b"], [1])


def test_training_twice_gives_the_same_vocabulary() -> None:
    texts = [f"{word} {number} {word[::-1]}" for number, word in enumerate(["apple", "pear", "plum"] * 50)]
    assert train_tokenizer(texts, 330).fingerprint == train_tokenizer(texts, 330).fingerprint
