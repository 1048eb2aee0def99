"""How charts look: one quiet matplotlib style, drawn to SVG that belongs to the page.

Charts are drawn in the light theme's colours; `to_svg` then turns every colour into the page's CSS
variable, so one drawing serves light, dark and paper. Text stays text, in the page's own typeface.
"""

import hashlib
import io
import logging
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Literal

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine

WIDE, NARROW = 880, 350  # pixels: the page's column, and a phone's

INK, MUTED, RULE, PALE = "#23272f", "#667081", "#e3dfd6", "#d5d0c5"
STAGE_COLOURS = {"pretrain": "#94a0ae", "midtrain": "#3c968f", "sft": "#c78717", "dpo": "#b3392f"}
OTHER_COLOUR = "#6d5fa8"

_VARIABLES = {INK: "ink", MUTED: "muted", RULE: "rule", PALE: "pale", OTHER_COLOUR: "stage-other"} | {
    colour: f"stage-{stage}" for stage, colour in STAGE_COLOURS.items()
}
_RC: Any = {  # rcParams; their keys are a closed type that differs between matplotlib versions
    "svg.fonttype": "none",
    "text.parse_math": False,
    "font.family": "DejaVu Sans",  # ships with matplotlib: the same layout on every machine
    "font.size": 12,
    "text.color": INK,
    "axes.edgecolor": RULE,
    "axes.labelcolor": MUTED,
    "axes.linewidth": 1,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.spines.left": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": RULE,
    "grid.linewidth": 1,
    "xtick.color": RULE,
    "ytick.color": RULE,
    "xtick.labelcolor": MUTED,
    "ytick.labelcolor": MUTED,
    "xtick.major.size": 0,
    "ytick.major.size": 0,
    "xtick.major.pad": 6,
    "xtick.minor.size": 0,
    "ytick.minor.size": 0,
    "lines.solid_capstyle": "round",
    "figure.dpi": 72,
}
_MAX_LABEL = 44  # characters


def colour(stage: str) -> str:
    """The colour a stage has in every chart, chip and card."""
    return STAGE_COLOURS.get(stage, OTHER_COLOUR)


@contextmanager
def drawing(width: int, height: int, salt: str) -> Iterator[Figure]:
    """A figure of `width` x `height` pixels in the house style, laid out when saved."""
    logging.getLogger("matplotlib.font_manager").setLevel(logging.ERROR)
    with mpl.rc_context({**_RC, "svg.hashsalt": f"{salt}-{width}"}), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a glyph our font lacks is drawn by the reader's browser
        layout = ConstrainedLayoutEngine(w_pad=0.02, h_pad=0.02, wspace=0.03, hspace=0.03)
        figure = Figure(figsize=(width / 72, height / 72), layout=layout, facecolor="none")
        FigureCanvasSVG(figure)
        yield figure


def to_svg(figure: Figure) -> str:
    """The figure as an <svg> element for inlining: no ids but the ones in use, no external names."""
    out = io.StringIO()
    figure.savefig(out, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    svg = re.sub(r"<metadata>.*?</metadata>|<style.*?</style>", "", out.getvalue(), flags=re.DOTALL)
    svg = re.sub(r"<svg[^>]*?(viewBox=\"[^\"]*\")[^>]*>", r"<svg \1>", svg[svg.index("<svg") :], count=1)
    svg = re.sub(r'<g id="[^"]*"', "<g", svg).replace(" xlink:href=", " href=")
    svg = re.sub(r"(style=\"font-size: [\d.]+px); font-family: '[^'\"<>]*'", r"\1", svg)
    svg = re.sub(r' (?:d|x|y|transform)="[^"<>]*"', _short_numbers, svg)
    for value, name in _VARIABLES.items():
        svg = svg.replace(value, f"var(--{name})")
    return _stable_ids(re.sub(r">\s+<", "><", svg).strip())


def _stable_ids(svg: str) -> str:
    """Ids by order of appearance under a hash of the drawing: matplotlib's own vary from process to process."""
    names = list(dict.fromkeys(re.findall(r' id="([^"]+)"', svg)))
    for number, name in enumerate(names):
        svg = re.sub(rf'(id="|#){re.escape(name)}(?=["\)])', rf"\g<1>@{number}", svg)
    prefix = "s" + hashlib.blake2b(svg.encode(), digest_size=5).hexdigest()
    return re.sub(r'(id="|#)@(?=\d)', rf"\g<1>{prefix}-", svg)


def _short_numbers(attribute: re.Match[str]) -> str:
    """Two decimals of a pixel are plenty, and half the file."""
    return re.sub(r"(\.\d\d)\d+", r"\1", attribute[0]).replace(" \n", " ").replace("\n", " ")


def label(text: str) -> str:
    """One line of at most 44 characters, whatever the data says."""
    line = " ".join(text.split())
    return line if len(line) <= _MAX_LABEL else f"{line[: _MAX_LABEL - 1]}…"


def bare(axes: Axes, *, grid: Literal["x", "y"] | None = None) -> None:
    """Keep only the grid lines that help reading: "x", "y" or none."""
    axes.grid(False)
    if grid is not None:
        axes.grid(True, axis=grid)
    if grid != "y":
        axes.spines["bottom"].set_visible(False)
