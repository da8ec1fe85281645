"""Every closed choice, once: recipes, commands, stages and documents take these values."""

from __future__ import annotations

from typing import Final, Literal, get_args

# What models are for, as model hubs call it.
ModelTask = Literal[
    "fill-mask", "sentence-similarity", "feature-extraction", "text-classification", "token-classification"
]
CLASSIFYING: tuple[ModelTask, ...] = ("text-classification", "token-classification")
TruncationSide = Literal["left", "right"]
PoolingMode = Literal["mean", "cls", "lasttoken", "max", "weightedmean", "mean_sqrt_len_tokens"]
# What models answer, the output that a task is there for first: B batch, S sequence, D hidden, V vocabulary, C labels.
OUTPUT_NAMES: dict[ModelTask, tuple[str, ...]] = {
    "sentence-similarity": ("sentence_embedding", "last_hidden_state"),  # [B, D], [B, S, D]
    "fill-mask": ("logits",),  # [B, S, V]
    "feature-extraction": ("last_hidden_state",),  # [B, S, D]
    "text-classification": ("logits",),  # [B, C]
    "token-classification": ("logits",),  # [B, S, C]
}

# Distilling.
Objective = Literal["masked-lm", "sentence-embedding", "classification", "token-classification"]
Method = Literal["homodistil", "one-shot", "from-scratch", "layers", "minilm", "tinybert", "repair"]
AT_RANDOM: tuple[Method, ...] = ("from-scratch", "minilm", "tinybert")  # whose students have nothing of the teacher's
Importance = Literal["sensitivity", "magnitude", "platon"]
ScheduleShape = Literal["cubic", "linear"]
PruneGroup = Literal["hidden", "ffn", "heads", "head-width"]
GroupKind = Literal["hidden", "heads", "query_key", "value_out", "ffn"]  # of neurons that a model is made of
AttentionKind = Literal["scores", "probabilities"]
Side = Literal["teacher", "student"]
TextUnit = Literal["sentence", "row"]
TermInput = Literal["embedding", "states", "projections"]  # of a model's inside, what a loss term reads
TrainingPrecision = Literal["auto", "fp32", "bf16", "fp16"]

# Exporting: what a user asks for, and what a file holds.
Quantization = Literal["auto", "none", "int8", "int8-static", "int4", "fp16"]
EmbeddingChoice = Literal["auto", "fp32", "int8", "int4", "pq"]
EmbeddingPrecision = Literal["fp32", "int8", "int4", "pq"]
WeightPrecision = Literal["fp32", "int8", "int4", "fp16"]
Scheme = Literal["fp32", "int8", "int8-unsigned", "int8-7-bit", "int8-static", "int8-qdq", "int4", "fp16"]
AttentionForm = Literal["unfused", "multi-head", "flash", "standard"]
CostUnit = Literal["ms", "instructions"]  # of what graphs are chosen by
GraphChoice = Literal["auto", "standard", "flash", "multi-head", "unfused"]
Calibration = Literal["min-max", "percentile"]
Runtime = Literal["onnxruntime", "openvino", "ctranslate2"]  # what runs a file
RuntimeChoice = Literal["auto", Runtime]
OTHER_RUNTIMES: dict[Runtime, str] = {"openvino": "OpenVINO", "ctranslate2": "CTranslate2"}  # each an extra of ours
BrowserProvider = Literal["wasm", "webgpu"]  # onnxruntime-web's execution providers
BROWSER_PROVIDERS: tuple[BrowserProvider, ...] = get_args(BrowserProvider)

# What a folder with a manifest holds.
# A model is one that was fine-tuned, be it a teacher or a student.
ArtifactKind = Literal["student", "model", "package", "measurement", "plan", "evaluation"]
WorkKind = Literal["student", "run", "finetuning"]  # what a folder is of that can be resumed

# Evaluating and fine-tuning.
LabelledTask = Literal["sts", "search", "classification", "tagging"]  # judged on labels that people gave
UnlabelledTask = Literal["fidelity", "masked-lm"]  # judged on any text
EvaluationTask = Literal[LabelledTask, UnlabelledTask]
EVALUATION_TASKS: dict[EvaluationTask, str] = {  # with what the command's help says of them
    "sts": "cosine similarities against people's scores",
    "search": "queries that should find their documents",
    "fidelity": "what a model keeps of its teacher's search results or decisions",
    "masked-lm": "masked tokens restored",
    "classification": "labels or scores",
    "tagging": "labels of words, and entities",
}
LABELLED_TASKS: tuple[LabelledTask, ...] = get_args(LabelledTask)
UNLABELLED_TASKS: tuple[UnlabelledTask, ...] = get_args(UnlabelledTask)
LearnedGlueTask = Literal["cola", "sst2", "mrpc", "stsb", "qqp", "mnli", "qnli", "rte", "wnli"]
LEARNED_GLUE_TASKS: tuple[LearnedGlueTask, ...] = get_args(LearnedGlueTask)
GlueTask = Literal[LearnedGlueTask, "mnli-mm"]  # MNLI has a second set to be judged on
GLUE_TASKS: tuple[GlueTask, ...] = get_args(GlueTask)
JudgedTask = Literal[EvaluationTask, GlueTask]
AskedTask = Literal[JudgedTask, "mteb"]
OwnTask = Literal["classification", "scores"]
LearnedTask = Literal[OwnTask, "glue", LearnedGlueTask]
Split = Literal["train", "dev"]

# Measuring.
TOO_NOISY: Final = "too noisy to call"
TOO_CLOSE: Final = "too close to call"  # of a quality, which the machine's noise does not change
SpeedVerdict = Literal["faster", "slower", "same", "too noisy to call"]
Steadiness = Literal["steady", "too noisy to call"]
