"""`phi4 export MODEL --to gguf|hf|ollama`: a model in the form another tool wants, compared before it counts."""

import argparse
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from phi4.cli.models import add_adapter_option
from phi4.errors import UsageError

if TYPE_CHECKING:
    from phi4.text.tokenizer import Tokenizer

HELP = "Write a model as a GGUF file, a Hugging Face folder, or a folder for `ollama create`; it is read back first."
TYPES = ("f32", "f16", "bf16", "q8_0", "q4_0", "q4_1")
K_QUANTS = ("q4_k_m", "q5_k_m", "q6_k")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of `phi4 export`."""
    parser.add_argument("model", help="a short name, model folder, run folder or .gguf file")
    add_adapter_option(parser)
    parser.add_argument("--to", required=True, choices=("gguf", "hf", "ollama"), help="the form")
    parser.add_argument("--type", choices=TYPES, help="encoding of a GGUF file (default f16)")
    parser.add_argument(
        "--quant", choices=K_QUANTS, help="instead of --type: a K-quant, by llama.cpp's quantiser"
    )
    parser.add_argument(
        "--llama-cpp",
        default="",
        metavar="PYTHON",
        help="the Python that has llama-cpp-python (default: $PHI4_LLAMA_CPP, or this one)",
    )
    parser.add_argument(
        "--out", required=True, type=Path, metavar="PATH", help="new file (gguf) or folder (hf, ollama)"
    )


def run(args: argparse.Namespace) -> int:
    """Export; nothing that exists is overwritten, and nothing half-done stays."""
    from phi4.cli.models import read_card, read_model, resolve
    from phi4.model.lora import merge
    from phi4.run.files import atomic_folder
    from phi4.weights.folder import save_model
    from phi4.weights.gguf_quantize import find_quantizer, write_k_quantized
    from phi4.weights.gguf_write import Written, write_gguf
    from phi4.weights.quantize import dequantized

    if args.type and args.quant:
        raise UsageError("--type and --quant are two answers to one question", "leave one of them out")
    if args.quant and args.to == "hf":
        raise UsageError("--quant is for gguf and ollama", "`phi4 quantize` makes int8 and int4 folders")
    if args.quant:
        find_quantizer(args.llama_cpp)  # before the model is read
    kind = args.quant or args.type or "f16"
    if args.out.exists():
        raise UsageError(f"{args.out} exists already and was left alone", "choose another --out")
    path = resolve(args.model)
    model, tokenizer = read_model(path, args.adapter)
    merge(model)
    for notice in tokenizer.notices:
        print(f"phi4: {notice}", file=sys.stderr)
    if model.config.quantization is not None:
        model = dequantized(model)  # the other forms have encodings of their own
    name = read_card(path).name
    written: Written | None = None

    def write(file: Path) -> Written:
        if args.quant:
            return write_k_quantized(file, model, tokenizer, kind, name, interpreter=args.llama_cpp)
        return write_gguf(file, model, tokenizer, kind, name)

    if args.to == "gguf":
        written = write(args.out)
    elif args.to == "ollama":
        with atomic_folder(args.out) as folder:
            written = write(folder / f"{name}.gguf")
            (folder / "Modelfile").write_text(modelfile(f"{name}.gguf", tokenizer), encoding="utf-8")
    else:
        with atomic_folder(args.out) as folder:
            save_model(folder, model, tokenizer)
    result: dict[str, object] = {"path": str(args.out), "to": args.to}
    if written is None:
        print(f"{args.out}: read back, the logits are the same")
    else:
        result |= {
            "type": kind,
            "bytes": written.bytes,
            "error": written.error,
            "kl": written.divergence,
        }
        print(
            f"{args.out}: {written.bytes / 1e6:,.1f} MB; read back: largest relative error {written.error:.2g}"
            + ("" if written.divergence is None else f", KL divergence {written.divergence:.2g} nats")
        )
    if args.to == "ollama":
        print(f"next: ollama create {name} -f {args.out / 'Modelfile'}")
    if args.json:
        print(json.dumps(result))
    return 0


def modelfile(gguf: str, tokenizer: "Tokenizer") -> str:
    """An Ollama Modelfile with the model's own template. Raises UsageError for a template Ollama cannot be told."""
    stops = "".join(
        f'PARAMETER stop "{token}"\n' for token in tokenizer.template.stops if token in tokenizer.special
    )
    return f'FROM ./{gguf}\nTEMPLATE """{go_template(tokenizer)}"""\n{stops}'


def go_template(tokenizer: "Tokenizer") -> str:
    """The chat template in the language Ollama uses, without the newlines its own library file has."""
    from phi4.text.templates import Phi4Mini, Turns

    template = tokenizer.template
    if isinstance(template, Turns):
        separator, line = template.separator, template.newline
        default = ""
        if template.default_system:
            default = (
                '{{- if or (not .Messages) (ne (index .Messages 0).Role "system") }}'
                f"<|im_start|>system{line}{separator}{template.default_system}<|im_end|>{line}{{{{ end }}}}"
            )
        return (
            f"{default}{{{{- range .Messages }}}}<|im_start|>{{{{ .Role }}}}{line}{separator}"
            f"{{{{ .Content }}}}<|im_end|>{line}{{{{ end }}}}<|im_start|>assistant{line}{separator}"
        )
    if isinstance(template, Phi4Mini):
        return "{{- range .Messages }}<|{{ .Role }}|>{{ .Content }}<|end|>{{ end }}<|assistant|>"
    raise UsageError(
        f"the {template.name} template has no Ollama form here", "export --to gguf keeps the model's own"
    )
