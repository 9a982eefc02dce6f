"""``lightning-seq export`` and ``import``: a checkpoint as a directory of transformers, and back."""

import json
from argparse import ArgumentParser, RawDescriptionHelpFormatter
from pathlib import Path

from lightning_seq.commands import find_own_modules

COMMANDS = {
    "export": "a checkpoint for transformers: --checkpoint FILE --output DIR",
    "import": "a checkpoint from transformers: --directory DIR --output FILE",
}

EXPORTED = """\
norm "layer" with learned positions becomes a GPT2LMHeadModel, norm "rms" with
rotary positions and swiglu a LlamaForCausalLM; what neither can express is
refused. The directory is loaded back and its logits are compared with the
checkpoint's before it gets its name. It needs pip install
"lightning-seq[transformers]", and no network.
"""
IMPORTED = """\
The directory holds a GPT2LMHeadModel or a LlamaForCausalLM as save_pretrained
writes them: config.json, weights, and mostly a tokenizer. Its code is never
run. The checkpoint's logits are compared with the directory's before it gets
its name. Then `generate`, `evaluate` and `attention` take it, and
fit --weights FILE.ckpt goes on training it. It needs pip install
"lightning-seq[transformers]", and no network.
"""


def main(argv: list[str]) -> int:
    """Runs the command that ``argv`` begins with."""
    options = (_export_parser() if argv[0] == "export" else _import_parser()).parse_args(argv[1:])
    # torch takes seconds: --help and wrong usage need not wait
    if argv[0] == "export":
        if options.trust:
            find_own_modules()
        from lightning_seq.cli.hugging_face import export_checkpoint

        found = export_checkpoint(options.checkpoint, options.output, options.trust)
    else:
        from lightning_seq.cli.hugging_face_import import import_directory

        found = import_directory(options.directory, options.output)
    if options.json:
        print(json.dumps(found, allow_nan=False))
        return 0
    print(f"{found['class']}, {found['parameters']:,} parameters, {found['tokenizer'] or 'no tokenizer'}")
    print(
        f"largest difference of the logits: {found['difference']:.1e}, of {found['compared']:,}\n"
        f"as large as {found['largest']:.1f} (allowed: {found['allowed']:.1e})"
    )
    print(f"written: {found['output']}")
    return 0


def _parser(command: str, usage: str, description: str, epilog: str) -> ArgumentParser:
    return ArgumentParser(
        prog=f"lightning-seq {command}",
        usage=f"%(prog)s {usage} [option ...]",
        description=description,
        epilog=epilog,
        formatter_class=RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )


def _export_parser() -> ArgumentParser:
    usage, said = "--checkpoint FILE --output DIR", "Write a Transformer as a directory of transformers."
    parser = _parser("export", usage, said, EXPORTED)
    add = parser.add_argument
    add("--checkpoint", required=True, metavar="FILE", help="a .ckpt file: runs/.../checkpoints/best.ckpt")
    add("--output", required=True, type=Path, metavar="DIR", help="a new directory")
    add("--trust", action="store_true", help="import the class outside this package that a checkpoint names")
    add("--json", action="store_true", help="print one JSON object")
    return parser


def _import_parser() -> ArgumentParser:
    usage, said = "--directory DIR --output FILE.ckpt", "Make a checkpoint of a directory of transformers."
    parser = _parser("import", usage, said, IMPORTED)
    add = parser.add_argument
    add("--directory", required=True, type=Path, metavar="DIR", help="what save_pretrained wrote")
    add("--output", required=True, type=Path, metavar="FILE.ckpt", help="a new file")
    add("--json", action="store_true", help="print one JSON object")
    return parser
