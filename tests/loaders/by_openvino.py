"""What optimum-intel and sentence-transformers answer with the openvino folder of packages, as JSON.

by_openvino.py SENTENCES CLASSIFIER TEXTS
"""

import json
import sys

from optimum.intel import OVModelForFeatureExtraction, OVModelForSequenceClassification
from sentence_transformers import SentenceTransformer
from transformers import AutoTokenizer

sentences, classifier, told = sys.argv[1:]
texts = json.loads(told)
# The package's own configuration names its ONNX file, for the onnx backend.
by_name = SentenceTransformer(sentences, backend="openvino", model_kwargs={"file_name": "openvino_model.xml"})
tokens = AutoTokenizer.from_pretrained(sentences)(texts, padding=True, return_tensors="pt")
states = OVModelForFeatureExtraction.from_pretrained(sentences, subfolder="openvino")(**tokens).last_hidden_state
mask = tokens["attention_mask"][..., None]
tokens = AutoTokenizer.from_pretrained(classifier)(texts, padding=True, return_tensors="pt")
logits = OVModelForSequenceClassification.from_pretrained(classifier, subfolder="openvino")(**tokens).logits
answers = {
    "sentence-transformers": by_name.encode(texts).tolist(),
    "optimum-intel": ((states * mask).sum(1) / mask.sum(1)).tolist(),
    "classifier": logits.tolist(),
}
print(json.dumps(answers))
