"""What the newest fastembed, sentence-transformers and optimum-intel answer with packages, as JSON.

by_newest.py FOLDER, which has `package`, `reranker`, and what the page of docs/loading.md on fastembed says, `page.py`
"""

import json
import os
import sys
from pathlib import Path

import torch
import transformers
from optimum.intel import OVModelForFeatureExtraction, OVModelForSequenceClassification
from sentence_transformers import CrossEncoder, SentenceTransformer

os.chdir(sys.argv[1])
texts = ["A cat sat on the mat.", "Why?"]
pairs, plain = list(zip(texts, texts[::-1], strict=True)), torch.nn.Identity()
openvino = {"backend": "openvino", "model_kwargs": {"file_name": "openvino_model.xml"}}


def answered(kind, name, given):
    tokens = transformers.AutoTokenizer.from_pretrained(name)(*given, padding=True, return_tensors="pt")
    return tokens["attention_mask"][..., None], kind.from_pretrained(name, subfolder="openvino")(**tokens)


names: dict[str, object] = {}
exec(Path("page.py").read_text(), names)
mask, output = answered(OVModelForFeatureExtraction, "package", [texts])
_, logits = answered(OVModelForSequenceClassification, "reranker", [texts, texts[::-1]])
answers = {
    "transformers": transformers.__version__,
    "vectors": {
        "fastembed": [vector.tolist() for vector in names["vectors"]],
        "sentence-transformers": SentenceTransformer("package", **openvino).encode(texts).tolist(),
        "optimum-intel": ((output.last_hidden_state * mask).sum(1) / mask.sum(1)).tolist(),
    },
    "scores": {
        "fastembed": list(names["scores"]),
        "sentence-transformers": CrossEncoder("reranker", **openvino).predict(pairs, activation_fn=plain).tolist(),
        "optimum-intel": logits.logits[:, 0].tolist(),
    },
}
print(json.dumps(answers))
