"""The people and things of our problems: short lists, so that a small vocabulary will do."""

PEOPLE = (
    "Ana", "Ben", "Cleo", "Dan", "Ella", "Finn", "Gia", "Hugo", "Iris", "Jack",
    "Kira", "Leo", "Mia", "Noah", "Olga", "Paul", "Rosa", "Sam", "Tara", "Omar",
)  # fmt: skip

THINGS = (
    "apples", "pens", "books", "stamps", "shells", "coins", "marbles", "cards", "stickers", "buttons",
    "beads", "cups", "pears", "plums", "nuts", "balls", "keys", "stones", "candles", "ribbons",
)  # fmt: skip
