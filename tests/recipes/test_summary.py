"""What is shown as solved is solved: right answers out of wrong steps are not."""

import json
from pathlib import Path

from phi4.recipes.measure import solved
from phi4.run.folder import RunFolder
from phi4.skills.catalog import family


def _item(name: str, index: int, response: str) -> dict[str, object]:
    return {"family": name, "index": index, "response": response, "correct": True}


def test_only_sound_working_is_shown(tmp_path: Path) -> None:
    addition = family("addition")
    first, second = addition.problem(0), addition.problem(1)
    slipped = "\n".join(["1+1=3", *first.steps, f"Answer: {first.answer}"])
    items = [_item("addition", 0, slipped), _item("addition", 1, second.solution)]
    (tmp_path / "evals").mkdir()
    (tmp_path / "evals" / "sft.items.jsonl").write_text("".join(json.dumps(item) + "\n" for item in items))
    assert [item["index"] for item in solved(RunFolder(tmp_path), "sft")] == [1]
