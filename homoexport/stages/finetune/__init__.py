"""Fine-tuning: a model learns a task of the user's, from labels, from a teacher, and with int8 in the loop."""

from homoexport.stages.finetune.train import FinetuneProgress, Trained, train_classifier

__all__ = ["FinetuneProgress", "Trained", "train_classifier"]
