"""What an older onnxruntime, which comes first in PYTHONPATH, answers for the graphs of a folder, as JSON.

runs.py GRAPHS TOKENS
"""

import json
import sys
from pathlib import Path

import numpy as np
import onnxruntime

graphs, tokens = sys.argv[1:]
onnxruntime.set_default_logger_severity(4)
given = {name: np.array(values, dtype=np.int64) for name, values in json.loads(tokens).items()}
answers = {}
for file in sorted(Path(graphs).glob("*.onnx")):
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    try:
        session = onnxruntime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])
        answers[file.name] = session.run(["sentence_embedding"], given)[0].tolist()
    except Exception as error:
        answers[file.name] = str(error)
print(json.dumps({"version": onnxruntime.__version__, "answers": answers}))
