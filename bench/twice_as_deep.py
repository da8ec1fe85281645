"""A BERT of twice the layers, each of them twice: a 12-layer teacher for shapes, where no such model is at hand.

    python bench/twice_as_deep.py MODEL_FOLDER OUT_DIR
    homoexport distill recipes/quickstart.yaml --set teacher=OUT_DIR --set student.hidden_size=256 \
        --set student.intermediate_size=1024 --set student.num_attention_heads=8 --set distill.steps=60 -o STUDENT

Its answers are of no use, but its weights are sizes of a trained model's, so that graphs in fewer bits can be held
against it: random ones answer every text alike.
"""

from __future__ import annotations

import copy
import shutil
import sys
from pathlib import Path

from torch import nn
from transformers import AutoModel


def main() -> None:
    """Copy the folder, with the layers twice."""
    source, out = map(Path, sys.argv[1:3])
    shutil.copytree(source, out)
    model = AutoModel.from_pretrained(source)
    layers = model.encoder.layer
    model.encoder.layer = nn.ModuleList(copy.deepcopy(layers[i // 2]) for i in range(2 * len(layers)))
    model.config.num_hidden_layers = len(model.encoder.layer)
    model.save_pretrained(out)


if __name__ == "__main__":
    main()
