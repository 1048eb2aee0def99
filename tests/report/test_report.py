"""The report page: whole, partial and hostile run folders."""

import argparse
import base64
import hashlib
import json
import re
from dataclasses import dataclass
from html.parser import HTMLParser
from pathlib import Path
from xml.etree import ElementTree

import pytest

from phi4.cli import report as report_cli
from phi4.errors import RunError
from phi4.report.contents import PivotalPair
from phi4.report.page import command, pivotal_solutions, render_page, write_report
from phi4.report.read import read_run
from phi4.report.words import amount, duration, percent, points
from phi4.run.config import apply_overrides, to_json
from tests.report.fake_run import FAMILIES, STAGES, write_fake_run, write_json, write_lines

HOSTILE = "<script>alert(1)</script><img src=x onerror=alert(2)>\"'&$\\alpha$]]>-->\x00\x1b[31m\u202e\ud800"
VOID = {"meta", "br", "img", "link", "input", "hr", "use", "path"}


class Page(HTMLParser):
    """What a browser would see: elements with attributes, visible text, and whether tags balance."""

    def __init__(self, html: str) -> None:
        super().__init__(convert_charrefs=True)
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.open: list[str] = []
        self.unbalanced: list[str] = []
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID or tag in ("use", "path"):
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        if not self.open or self.open.pop() != tag:
            self.unbalanced.append(tag)

    def handle_data(self, data: str) -> None:
        if not self.open or self.open[-1] not in ("style", "script"):
            self.text += data


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_fake_run(tmp_path_factory.mktemp("runs"))


@pytest.fixture(scope="module")
def html(finished: Path) -> str:
    return write_report(finished).read_text(encoding="utf-8")


def test_finished_run_tells_everything(html: str) -> None:
    page = Page(html)
    assert not page.unbalanced
    assert not page.open
    sections = [attrs.get("id") for tag, attrs in page.elements if tag == "section"]
    assert sections == ["scores", "answers", "training", "data", "pivotal", "ablations", "recipe"]
    links = {attrs["href"] for tag, attrs in page.elements if tag == "a"}
    assert links == {f"#{section}" for section in sections}
    assert "1.56\N{NARROW NO-BREAK SPACE}M-parameter" in page.text
    assert "Three unseen problems it solved, and one it did not" in page.text
    assert "phi4 make pico --set pretrain.lr=0.004" in page.text
    assert "CC0-1.0" in page.text
    assert "held out key: 7,214" in page.text
    assert "is not finished" not in page.text
    assert len(html) < 1_000_000


def test_scores_are_those_of_the_run(html: str, finished: Path) -> None:
    table = html[html.index('<table class="scores">') :]
    table = table[: table.index("</table>")]
    rows = re.findall(r"<tr[^>]*>\s*<td>(.*?)</td>(.*?)</tr>", table, flags=re.DOTALL)
    assert len(rows) == len(FAMILIES) + 2  # all trained, and all never trained on
    final = json.loads((finished / "evals/dpo.json").read_text())["families"]
    by_title = {name.replace("_", " ").capitalize(): score for name, score in final.items()}
    for title, cells in rows[:-2]:
        score = by_title[title.removesuffix(" †")]
        shown = re.findall(r"<td class=\"n[^\"]*\">([^<]*)", cells)[3]
        assert abs(float(shown) - 100 * score["accuracy"]) <= 0.5
        assert title.endswith("†") == (not score["trained"])
    assert rows[-3][0] == "Averages †"  # transfer families stand last


def test_page_loads_nothing(html: str) -> None:
    page = Page(html)
    for tag, attrs in page.elements:
        assert tag not in ("img", "link", "iframe", "object", "embed", "base", "form")
        for name in ("src", "href", "xlink:href", "action", "srcset", "data"):
            assert (attrs.get(name) or "#").startswith("#"), (tag, attrs)
        assert not any(name.startswith("on") for name in attrs)
    assert not re.search(r"url\((?!#)|@import|https?://", html)


def test_partial_run_shows_what_there_is(tmp_path: Path) -> None:
    folder = write_fake_run(tmp_path, stages=("pretrain",))
    page = Page(write_report(folder).read_text(encoding="utf-8"))
    assert "Midtrain, SFT, Pivotal DPO have not run" in page.text
    sections = [attrs.get("id") for tag, attrs in page.elements if tag == "section"]
    assert sections == ["scores", "answers", "training", "data", "recipe"]


def test_run_that_has_only_begun(tmp_path: Path) -> None:
    write_json(tmp_path / "run.json", {"name": "tiny"})
    page = Page(write_report(tmp_path).read_text(encoding="utf-8"))
    assert "tiny" in page.text
    assert not page.unbalanced


@pytest.mark.parametrize("missing", ["data", "evals", "pivotal", "pretrain"])
def test_any_folder_may_be_missing(finished: Path, tmp_path: Path, missing: str) -> None:
    for path in finished.rglob("*.json*"):
        name = path.relative_to(finished)
        if name.parts[0] != missing:
            target = tmp_path / name
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(path.read_bytes())
    assert not Page(render_page(read_run(tmp_path))).unbalanced


def test_hostile_text_is_shown_not_obeyed(tmp_path: Path) -> None:
    folder = write_fake_run(tmp_path)
    for path in [*folder.rglob("*.json"), *folder.rglob("*.jsonl")]:
        if path.name == "metrics.jsonl":
            continue
        lines = path.read_text().splitlines()
        path.write_text("\n".join(json.dumps(_poison(json.loads(line))) for line in lines))
    html = write_report(folder).read_text(encoding="utf-8")
    page = Page(html)
    scripts = [attrs for tag, attrs in page.elements if tag == "script"]
    assert scripts == [{}]
    assert not any(tag == "img" or "onerror" in attrs for tag, attrs in page.elements)
    assert "<script>alert(1)</script>" in page.text  # as words
    assert not set(page.text) & set("\x00\x1b\u202e")
    assert not page.unbalanced
    for svg in re.findall(r"<svg.*?</svg>", html, flags=re.DOTALL):
        ElementTree.fromstring(svg)


def _poison(value: object, key: str = "") -> object:
    """Every free string becomes hostile; the few that name a stage, date or arithmetic kind stay."""
    if isinstance(value, dict):
        return {
            (k + HOSTILE if key in ("families", "dropped") else k): _poison(v, k) for k, v in value.items()
        }
    if isinstance(value, list):
        return [_poison(item, key) for item in value]
    keep = ("stage", "mode", "fingerprint", "question_id", "created")
    return value + HOSTILE if isinstance(value, str) and key not in keep else value


def test_same_folder_same_bytes(finished: Path, html: str, tmp_path: Path) -> None:
    assert write_report(finished).read_text(encoding="utf-8") == html
    assert write_report(write_fake_run(tmp_path)).read_text(encoding="utf-8") == html


def test_damage_is_named_not_fatal(tmp_path: Path) -> None:
    folder = write_fake_run(tmp_path)
    (folder / "data/funnel.json").write_text('{"steps": [')
    (folder / "model/model.safetensors").write_bytes(b"\xff" * 64)
    write_json(folder / "data/mixture.json", {"not": "a list"})
    write_json(folder / "evals/recall.json", [1, None, {"stage": 3, "length": "x", "n": -1}])
    write_json(
        folder / "evals/sft.json", {"stage": "sft", "families": {"a": 7, "b": {"n": 0, "accuracy": 1}}}
    )
    with (folder / "pretrain/metrics.jsonl").open("a") as file:
        file.write('{"step": 1466, "tokens": 6004')
    write_lines(
        folder / "sft/metrics.jsonl", [{"step": 1, "tokens": 5, "loss": float("nan"), "tok_s": 1e999}]
    )
    page = Page(write_report(folder).read_text(encoding="utf-8"))
    assert "Could not be read and is missing above: " in page.text
    assert "data/funnel.json" in page.text
    assert "model/model.safetensors" in page.text
    assert not page.unbalanced


def test_not_a_run_folder(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="not a run folder"):
        write_report(tmp_path)


@dataclass(frozen=True)
class Part:
    name: str
    share: float


@dataclass(frozen=True)
class Config:
    parts: tuple[Part, ...] = (Part("a", 0.5), Part("b", 0.2), Part("b", 0.3))
    names: tuple[str, ...] = ("x", "y")
    nothing: Part | None = None


def test_settings_are_named_as_the_configuration_names_them(tmp_path: Path) -> None:
    recipe, provenance = apply_overrides(Config(), ["a.share=0.7"])
    write_json(tmp_path / "run.json", {"name": "x", "recipe": to_json(recipe), "provenance": provenance})
    run = read_run(tmp_path)
    assert {setting.path: setting.source for setting in run.settings} == provenance
    assert command(run) == "phi4 make x --set parts.a.share=0.7"


def test_policy_names_the_script_that_is_there(html: str) -> None:
    script = re.search(r"<script>(.*?)</script>", html, flags=re.DOTALL)
    assert script is not None
    digest = base64.b64encode(hashlib.sha256(script[1].encode()).digest()).decode()
    assert f"script-src 'sha256-{digest}'" in html


def test_charts_take_their_colours_from_the_page(html: str) -> None:
    charts = "".join(re.findall(r"<svg.*?</svg>", html, flags=re.DOTALL))
    assert not set(re.findall(r"#[0-9a-f]{6}\b", charts))
    used = set(re.findall(r"var\((--[\w-]+)\)", charts))
    defined = set(re.findall(r"(--[\w-]+):", html))
    assert used <= defined
    assert {f"--stage-{stage}" for stage in STAGES} <= used
    ids = re.findall(r'id="([^"]*)"', html)
    assert len(ids) == len(set(ids))


def test_pivotal_tokens_gather_by_solution() -> None:
    def pair(question: str, index: int) -> PivotalPair:
        tokens = tuple("abcdef")
        return PivotalPair(question, "f", "?", tokens[index], "x", 0.5, 0.9, 0.1, 64, 64, tokens, index)

    solutions = pivotal_solutions((pair("q1", 4), pair("q2", 0), pair("q1", 1)))
    assert [[p.pivotal_index for p in s.pairs] for s in solutions] == [[1, 4], [0]]
    for solution in solutions:
        assert "".join(piece.text for piece in solution.pieces) == "abcdef"
        for piece in solution.pieces:
            assert piece.pair is None or piece.text == piece.pair.accepted_text


@pytest.mark.parametrize(
    ("rate", "shown"),
    [
        (0, "0"),
        (1, "100"),
        (0.925, "92"),
        (0.999, "99.9"),
        (0.9999, ">99.9"),
        (0.004, "0.4"),
        (0.0001, "<0.1"),
    ],
)
def test_percent_never_rounds_to_perfect(rate: float, shown: str) -> None:
    assert percent(rate) == f"{shown}\N{NARROW NO-BREAK SPACE}%"


def test_words() -> None:
    plain = [text.replace("\N{NARROW NO-BREAK SPACE}", " ") for text in map(duration, (59.4, 582, 11_100))]
    assert plain == ["59 s", "9 min 42 s", "3 h 05 min"]
    assert amount(1_234_567) == "1.23\N{NARROW NO-BREAK SPACE}M"
    assert points(-0.124) == "\N{MINUS SIGN}12.4 points"


def test_command_line(finished: Path, capsys: pytest.CaptureFixture[str]) -> None:
    parser = argparse.ArgumentParser()
    report_cli.add_arguments(parser)
    arguments = parser.parse_args([str(finished)])
    arguments.json = True
    assert report_cli.run(arguments) == 0
    assert Path(json.loads(capsys.readouterr().out)["report"]) == (finished / "report.html").resolve()
    assert report_cli.find_run("pico", finished.parent) == finished
    assert report_cli.find_run("pico-3fa9", finished.parent) == finished
    with pytest.raises(RunError, match="no run nano"):
        report_cli.find_run("nano", finished.parent)
