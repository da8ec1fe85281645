"""The doors: each target makes its good inputs in a folder, and then gives readers of mutated ones."""

from __future__ import annotations

import bz2
import gzip
import hashlib
import io
import json
import lzma
import os
import random
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pyarrow
import pyarrow.parquet
import yaml

from homoexport.documents.artifact import Manifest, verify
from homoexport.documents.document import digest_of
from homoexport.documents.recipe import FinetuneRecipe, Recipe, TextSource, parse_as, read_recipe_tree
from homoexport.encoder import encoder_of, load_encoder, max_length_of, write_sentence_files
from homoexport.host import MeasuredHost, describe_host
from homoexport.runtime.inference import open_package
from homoexport.runtime.worker import protocol
from homoexport.stages.measure.process import Worker
from homoexport.stages.measure.targets import find_target
from homoexport.text.sources import columns_of, find_files, read_rows
from tests.conftest import tiny_bert, tiny_tokenizer, write_sentences
from tests.fuzz.good import good_documents
from tests.fuzz.mutate import mutated_bytes, mutated_json, mutated_value
from tests.stages.measure.tiny_onnx import write_package

Reader = Callable[[], object]
Target = Callable[[Path], Callable[[random.Random], Reader]]
SHIPPED = Path(__file__).parents[2] / "recipes"


def recipes(folder: Path) -> Callable[[random.Random], Reader]:
    """Recipes of runs and of fine-tuning, with --set."""
    texts = [
        (FinetuneRecipe if path.name == "glue.yaml" else Recipe, path.read_bytes())
        for path in sorted(SHIPPED.rglob("*.yaml"))
    ]
    path = folder / "recipe.yaml"
    odd = [
        "text.sources.0=1",
        "text.sources.²=1",
        "budget.file_mb=0b_",
        "a.b.c=[1",
        "seed=1e400",
        "=",
        "student=*a",
        "distill=!!set {x}",
    ]

    def make(draw: random.Random) -> Reader:
        kind, text = draw.choice(texts)
        if draw.random() < 0.5:
            tree = mutated_value(yaml.safe_load(text), draw)
            text = yaml.safe_dump(tree).encode("utf-8", "surrogatepass")
        path.write_bytes(mutated_bytes(text, draw) if draw.random() < 0.6 else text)
        given = [
            mutated_bytes(draw.choice(odd).encode(), draw).decode(errors="replace") for _ in range(draw.randrange(3))
        ]
        if draw.random() < 0.2:
            kind = draw.choice([Recipe, FinetuneRecipe])
        return lambda: parse_as(kind, read_recipe_tree(path), where=str(path), overrides=given)

    return make


def documents(folder: Path) -> Callable[[random.Random], Reader]:
    """Every document that is read again, and logs."""
    good = good_documents(folder)

    def make(draw: random.Random) -> Reader:
        path, read = good[draw.choice(list(good))]
        content = path.read_bytes()
        changed = folder / "changed" / path.name
        changed.parent.mkdir(exist_ok=True)
        lines = path.suffix == ".jsonl"
        changed.write_bytes(mutated_bytes(content, draw) if lines else mutated_json(content, draw))
        return lambda: read(changed)

    return make


def replies(folder: Path) -> Callable[[random.Random], Reader]:
    """What a worker on another machine may answer."""
    good = [
        protocol.Greeting(1, 5, {"python": "3"}, ["CPUExecutionProvider"], MeasuredHost(**vars(describe_host())), [0]),
        protocol.Refusal("model", "no"),
        protocol.LoadReply(1, ["CPUExecutionProvider"], {"Add": 1}),
        protocol.WarmReply(1, 2, steady=True, median_ns=1.0),
        protocol.TimeReply([1, 2], None, 0),
        protocol.AnswerReply([1, 1], "AACAPw=="),
        protocol.MemoryReply(1, None),
        protocol.CountersReply(1, 1, None, None, None),
    ]

    def make(draw: random.Random) -> Reader:
        reply = draw.choice(good)
        fields = {"ok": not isinstance(reply, protocol.Refusal), **vars(reply)}
        line = mutated_json(json.dumps(fields, default=vars).encode(), draw)[:50_000]
        worker = Worker.__new__(Worker)
        worker.subject, worker.target = "package", find_target("cpu")
        worker._stderr, worker._ahead = io.BytesIO(), b""

        def read() -> None:
            reading, writing = os.pipe()
            process: Any = SimpleNamespace(stdout=os.fdopen(reading, "rb"), wait=lambda timeout=0: 1, kill=lambda: None)
            worker._process = process
            with process.stdout:
                os.write(writing, line + b"\n")
                os.close(writing)
                kind = protocol.WarmReply if isinstance(reply, protocol.Refusal) else type(reply)
                worker._receive(kind, "warm")

        return read

    return make


def packages(folder: Path) -> Callable[[random.Random], Reader]:
    """Packages of which a file was changed, and mostly its digest, too."""
    whole, changed = write_package(folder / "whole"), folder / "changed"
    names = ["manifest.json", "tokenizer.json", "tokenizer_config.json", "config.json"]

    def make(draw: random.Random) -> Reader:
        shutil.rmtree(changed, ignore_errors=True)
        shutil.copytree(whole, changed)
        path = changed / draw.choice(names)
        path.write_bytes(mutated_json(path.read_bytes(), draw))
        if path.name != "manifest.json" and draw.random() < 0.9:
            manifest = json.loads((changed / "manifest.json").read_bytes())
            content = path.read_bytes()
            manifest["files"][path.name] = {"sha256": hashlib.sha256(content).hexdigest(), "bytes": len(content)}
            manifest["digest"] = digest_of({name: entry["sha256"] for name, entry in manifest["files"].items()})
            (changed / "manifest.json").write_text(json.dumps(manifest))

        def read() -> None:
            verify(changed, Manifest)
            open_package(changed).embed(["w1 w2", "", "w3 \x00 é " * 40])

        return read

    return make


def texts(folder: Path) -> Callable[[random.Random], Reader]:
    """Text files of every format, plain and compressed."""
    lines = write_sentences(folder / "good.txt", 40).read_text().splitlines()
    table = io.BytesIO()
    pyarrow.parquet.write_table(pyarrow.table({"text": lines, "label": list(range(len(lines)))}), table)
    good = {
        "txt": "\n".join(lines).encode(),
        "jsonl": "\n".join(json.dumps({"text": line, "label": 1}) for line in lines).encode(),
        "csv": ("text,label\n" + "\n".join(f'"{line}",1' for line in lines)).encode(),
        "tsv": ("text\tlabel\n" + "\n".join(f"{line}\t1" for line in lines)).encode(),
        "parquet": table.getvalue(),
    }
    packed = {"": bytes, ".gz": gzip.compress, ".bz2": bz2.compress, ".xz": lzma.compress, ".zip": None}
    columns = columns_of(TextSource(files="x"))

    def make(draw: random.Random) -> Reader:
        kind, suffix = draw.choice(list(good)), draw.choice(list(packed))
        content = mutated_bytes(good[kind], draw) if draw.random() < 0.7 else good[kind]
        pack = packed[suffix]
        if pack is not None:
            content = pack(content)
        else:
            archive = io.BytesIO()
            with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as file:
                file.writestr(f"a.{kind}", content)
                file.writestr("b.txt.gz", gzip.compress(good["txt"]))
            content = archive.getvalue()
        path = folder / f"text.{'' if suffix == '.zip' else kind}{suffix}".replace("..", ".")
        path.write_bytes(mutated_bytes(content, draw) if suffix and draw.random() < 0.7 else content)

        def read() -> None:
            try:
                for _ in read_rows(find_files(str(path)), columns):
                    pass
            finally:
                path.unlink()

        return read

    return make


def models(folder: Path) -> Callable[[random.Random], Reader]:
    """Model folders: config.json, the tokenizer's files and those of sentence-transformers."""
    whole, changed = folder / "whole", folder / "changed"
    model, tokenizer = tiny_bert(layers=1), tiny_tokenizer()
    model.save_pretrained(whole)
    tokenizer.save_pretrained(whole)
    write_sentence_files(encoder_of(model, tokenizer), whole, hidden_size=32, max_length=32)
    prompts = {"prompts": {"query": "w1 ", "document": None}, "default_prompt_name": "query"}
    (whole / "config_sentence_transformers.json").write_text(json.dumps(prompts))
    names = [path.relative_to(whole) for path in sorted(whole.rglob("*.json"))]

    def make(draw: random.Random) -> Reader:
        shutil.rmtree(changed, ignore_errors=True)
        shutil.copytree(whole, changed)
        path = changed / draw.choice(names)
        path.write_bytes(mutated_json(path.read_bytes(), draw))

        def read() -> None:
            max_length_of(load_encoder(str(changed)))

        return read

    return make


TARGETS: dict[str, Target] = {
    "recipes": recipes,
    "documents": documents,
    "replies": replies,
    "packages": packages,
    "texts": texts,
    "models": models,
}
