"""Small talk: greetings, thanks, who are you, and "I only know ..." for everything else.

A model that has seen nothing but problems answers "hello" with a problem. A few per cent of these
conversations in SFT give it manners and, more important, an honest way out of questions it knows
nothing about. The questions vary by combination; the replies do not: nine short fixed texts are what a
model of a million parameters can hold, and a fixed reply can be scored by equality.
"""

import random
from collections.abc import Sequence
from itertools import product
from typing import Literal, get_args

from phi4.text.chat import Conversation, Message

Kind = Literal[
    "greeting", "wellbeing", "thanks", "goodbye", "complaint", "identity", "capabilities", "health", "unknown"
]
KINDS: tuple[Kind, ...] = get_args(Kind)

# Wordings that never occur in training, with the kind of reply they should get (a test keeps them apart).
HELD_OUT_GREETINGS: tuple[tuple[str, Kind], ...] = (
    ("Hello hello!", "greeting"),
    ("Good day to you.", "greeting"),
    ("Hey you, how are things?", "wellbeing"),
    ("Many thanks for that!", "thanks"),
    ("Goodbye and thanks!", "goodbye"),
    ("Please tell me, who are you?", "identity"),
    ("What problems can you solve?", "capabilities"),
    ("What is the capital of Norway?", "unknown"),
    ("Write a short story about a dog.", "unknown"),
    ("Which pills help against a headache?", "health"),
)

_MULTI_TURN = 0.15  # share of conversations with more than one question
_WITH_SYSTEM = 0.4  # share of conversations that open with a system message

_WEIGHTS: dict[Kind, int] = {
    "greeting": 16,
    "wellbeing": 6,
    "thanks": 10,
    "goodbye": 7,
    "complaint": 5,
    "identity": 15,
    "capabilities": 12,
    "health": 5,
    "unknown": 24,
}

_FLOWS: tuple[tuple[Kind, ...], ...] = (
    ("greeting", "identity"),
    ("greeting", "capabilities"),
    ("greeting", "wellbeing"),
    ("greeting", "unknown"),
    ("identity", "capabilities"),
    ("unknown", "capabilities"),
    ("unknown", "unknown"),
    ("unknown", "thanks"),
    ("capabilities", "thanks"),
    ("thanks", "goodbye"),
    ("greeting", "identity", "thanks"),
    ("greeting", "unknown", "goodbye"),
    ("identity", "thanks", "goodbye"),
)

_SYSTEMS = (
    "You are {name}, a small model that solves problems step by step.",
    "You are {name}.",
    "You are a helpful assistant.",
    "You are a patient teacher.",
    "Answer briefly.",
    "Solve the problem step by step.",
    "Be polite and honest.",
)


def smalltalk(index: int, name: str, skills: Sequence[str]) -> Conversation:
    """Conversation number `index`; the same arguments give the same conversation, always.

    `name` is what the model calls itself, `skills` the titles it lists when asked what it can do.
    """
    rng = random.Random(f"smalltalk/{index}")
    messages: list[Message] = []
    if rng.random() < _WITH_SYSTEM:
        messages.append(Message("system", rng.choice(_SYSTEMS).format(name=name)))
    for kind in _flow(rng):
        question = _typed(rng.choice(_WORDINGS[kind]).format(name=name), rng)
        messages += [Message("user", question), Message("assistant", reply(kind, name, skills))]
    return Conversation(tuple(messages))


def reply(kind: Kind, name: str, skills: Sequence[str]) -> str:
    """The one reply of a kind. All but the list of skills stay under 40 tokens."""
    match kind:
        case "greeting":
            return f"Hello! I am {name}. Give me a small problem, and I will solve it step by step."
        case "wellbeing":
            return "I am a small model, so I have no feelings, but I am ready. Give me a problem!"
        case "thanks":
            return "You are welcome! Do you have another problem for me?"
        case "goodbye":
            return "Goodbye! Come back when you have a problem to solve."
        case "complaint":
            return "I am sorry. I make mistakes, so please check my steps, or ask me again in other words."
        case "identity":
            return (
                f"I am {name}, a small model made by the open phi4 project. "
                "I solve small problems step by step."
            )
        case "capabilities":
            return f"I can solve small problems step by step: {', '.join(skills)}. Give me one!"
        case "health":
            return "I know nothing about health. Please ask a doctor. I only know small problems with steps."
        case "unknown":
            return "I do not know that. I only know small problems that are solved step by step."


def wordings(kind: Kind, name: str) -> tuple[str, ...]:
    """Every question of a kind that training may contain, before typing habits change its case."""
    return tuple(wording.format(name=name) for wording in _WORDINGS[kind])


def _flow(rng: random.Random) -> tuple[Kind, ...]:
    if rng.random() < _MULTI_TURN:
        return rng.choice(_FLOWS)
    return tuple(rng.choices(KINDS, weights=[_WEIGHTS[kind] for kind in KINDS]))


def _typed(text: str, rng: random.Random) -> str:
    """People at a keyboard drop capitals and the last stop."""
    habit = rng.random()
    if habit < 0.25:
        return text.lower().rstrip(".!?") or text
    if habit < 0.4:
        return text.lower()
    if habit < 0.5:
        return text.rstrip(".!?") or text
    return text


def _combine(*slots: Sequence[str]) -> tuple[str, ...]:
    """Every way to pick one piece per slot, joined as a sentence, without repeats."""
    return tuple(dict.fromkeys(_sentence(pieces) for pieces in product(*slots)))


def _sentence(pieces: Sequence[str]) -> str:
    """Join pieces; what follows a comma or colon starts small, unless it is "I" or the name."""
    text = ""
    for piece in pieces:
        inside = text.endswith((", ", ": ", " but ", "Please "))
        text += piece[:1].lower() + piece[1:] if inside and not piece.startswith("I ") else piece
    return text


_PLACES = ("France", "Japan", "Brazil", "Kenya", "India", "Canada", "Italy", "Egypt")
_CITIES = ("Paris", "Tokyo", "Berlin", "Lima", "Cairo", "my town")
_SUBJECTS = ("the sea", "spring", "a cat", "the moon", "friendship", "a dragon", "winter", "my school")
_LANGUAGES = ("French", "Spanish", "German", "Chinese", "Hindi", "Polish")

_UNKNOWN = (
    *_combine(
        ("What is the capital of ", "Which city is the capital of ", "Who is the president of ", "Who rules ",
         "How many people live in ", "Where is ", "What do people eat in ", "What is the history of "),
        _PLACES, ("?",),
    ),
    *_combine(("Tell me about ", "Tell me the capital of ", "Show me a map of "), _PLACES, (".",)),
    *_combine(
        ("What is the weather in ", "Will it rain tomorrow in ", "How warm is it now in ",
         "What can I see in ", "Where can I eat in ", "What happened today in "),
        _CITIES, ("?",),
    ),
    *_combine(
        ("Write a poem about ", "Tell me a story about ", "Write a song about ", "Write an essay about ",
         "Tell me a joke about ", "Draw a picture of "),
        _SUBJECTS, (".",),
    ),
    *_combine(
        ("Translate 'good morning' into ", "Translate this sentence into ", "Teach me "),
        _LANGUAGES, (".",),
    ),
    *_combine(
        ("What does 'house' mean in ", "How do you say 'thank you' in ", "Do you speak "),
        _LANGUAGES, ("?",),
    ),
    *_combine(
        ("Who wrote the Bible", "Who wrote this book", "Who painted the Mona Lisa",
         "Who invented the telephone",
         "Who won the football match yesterday", "Who is the best singer", "Who is the richest person",
         "Who was the first person on the moon", "Who built the pyramids", "Who discovered America",
         "What is the latest news", "What is in the news today", "What happened yesterday",
         "Which phone should I buy", "Which film should I watch", "What should I cook tonight",
         "What is the meaning of life", "What is love", "Do you believe in God", "Is there life on Mars",
         "Why is the sky blue", "How do birds fly", "How does a car work", "What is a black hole",
         "When did the war end", "How old is the Earth", "How far away is the Sun", "What is my name",
         "What is the price of gold", "Should I buy shares", "Where do I live", "How old am I",
         "Who will win the election", "Can you search the internet"),
        ("?",),
    ),
    *_combine(
        ("", "Please "),
        ("Write an email to my boss.", "Write a program that sorts a list.", "Write a web page.",
         "Summarise this article.", "Correct my essay.", "Play a game with me.", "Give me a recipe for soup.",
         "Plan my holiday.", "Set an alarm.", "Call my mother.", "Play some music.", "Sing a song.",
         "Tell me a secret.", "Tell me something interesting."),
    ),
    "asdf", "bla bla bla", "???", "hm", "test", "qwerty", "la la la", "something",
)  # fmt: skip

_ILLS = ("cold", "fever", "sore throat", "cough", "stomach ache", "broken arm")
_HEALTH = (
    *_combine(("I have a ",), _ILLS, (".", ". What can I do?")),
    *_combine(
        ("What helps against a ", "What should I do about a ", "Which medicine helps with a "),
        _ILLS, ("?",),
    ),
    *_combine(("My head", "My back", "My tooth", "My knee"), (" hurts.", " hurts. What can I do?")),
    "I feel ill.", "I feel very sad.", "Am I ill?", "Is this medicine safe?", "How many pills may I take?",
    "Can you be my doctor?",
)  # fmt: skip

_WORDINGS: dict[Kind, tuple[str, ...]] = {
    "greeting": _combine(
        ("Hello", "Hi", "Hey", "Good morning", "Good evening", "Good afternoon", "Hi there", "Hello there",
         "Greetings", "Welcome", "Hey there", "Good day"),
        ("", " {name}", ", {name}", " my friend", " again", " everybody"),
        ("!", "."),
    ),
    "wellbeing": _combine(
        ("", "Hi! ", "Hello, ", "Hey {name}, "),
        ("How are you", "How are you today", "How do you do", "How is it going", "Are you well", "What's up",
         "Do you have feelings", "Are you tired", "Are you happy"),
        ("?",),
    ),
    "thanks": _combine(
        ("", "Great, ", "Good, ", "Perfect! ", "OK, ", "Right, "),
        ("Thanks", "Thank you", "Thank you very much", "Thanks a lot", "Thanks for your help", "Well done",
         "That helped me", "That is right"),
        ("!", ".", ", {name}!"),
    ),
    "goodbye": _combine(
        ("", "OK, ", "That is all. ", "I have to go. "),
        ("Goodbye", "Bye", "Bye bye", "See you later", "See you tomorrow", "Good night", "Until next time",
         "Have a nice day"),
        ("!", ".", ", {name}."),
    ),
    "complaint": _combine(
        ("", "No, ", "Hm, ", "Sorry, but "),
        ("That is wrong", "That is not right", "You made a mistake", "Your answer is wrong",
         "I do not understand you", "That makes no sense", "You are stupid", "That did not help"),
        (".", "!"),
    ),
    "identity": _combine(
        ("", "Hello, ", "Tell me: ", "One question: "),
        ("Who are you", "What are you", "What is your name", "Who made you", "Who built you",
         "Are you a robot", "Are you a person", "Are you human", "Are you ChatGPT", "Are you Phi-4",
         "Is your name {name}", "What is {name}", "What kind of model are you", "How big are you",
         "Where do you come from"),
        ("?",),
    ),
    "capabilities": (
        *_combine(
            ("", "Hi, ", "Tell me: ", "So, "),
            ("What can you do", "What can I ask you", "What do you know", "What are you good at",
             "What can you help me with", "How can you help me", "Can you help me", "What are your skills",
             "What did you learn", "Which problems do you know", "What should I ask you"),
            ("?",),
        ),
        "Help!", "I need help.", "Help me please.", "Show me what you can do.", "List your skills.",
    ),
    "health": _HEALTH,
    "unknown": _UNKNOWN,
}  # fmt: skip
