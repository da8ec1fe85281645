"""What loading, trimming and exporting must know of a model: little enough to be read off any encoder."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import transformers
from torch import nn

from homoexport.errors import TeacherError

IS_TRANSFORMERS_5 = int(transformers.__version__.partition(".")[0]) >= 5  # or newer


@dataclass(frozen=True, kw_only=True)
class Traits:
    """Of a model that nothing is known of but that transformers loads it; adapters of families say more."""

    pretrains_lm_head: bool = True  # whether `...ForPreTraining` models have a masked-LM head
    takes_additive_mask: bool = False  # [B, 1, S, S], ready-made, right for all layers and heads, on transformers 5

    def prepare_config(self, config: Any) -> None:
        """Settings to load a model with: a decoder's answers are not to hold the keys and values of all its layers."""
        if hasattr(config, "use_cache"):
            config.use_cache = False

    def settled_ids(self, model: nn.Module) -> int:
        """Ids from 0 on that mean what they mean to the model's code, so that they cannot be counted anew.

        RoBERTa and its kin count positions from after the padding's id, which their position table knows.
        """
        tables = (module for name, module in model.named_modules() if name.endswith("position_embeddings"))
        padding = (getattr(table, "padding_idx", None) for table in tables)
        return max((index + 1 for index in padding if index is not None), default=0)

    def longest_sequence(self, model: nn.Module) -> int | None:
        """Tokens that the positions suffice for; None where they have no end."""
        config: Any = model.config
        positions = getattr(config, "max_position_embeddings", None)
        if not isinstance(positions, int) or positions < 1:  # XLNet says -1, T5 nothing
            return None
        return positions - self.settled_ids(model)


def refuse_before_5(config: Any, key: str, *, why: str) -> None:
    """Refuse (TeacherError) what only transformers 5 does as a config says."""
    if not IS_TRANSFORMERS_5:
        what = f"a {config.model_type} whose config has {key} needs transformers 5: {transformers.__version__} {why}"
        where = str(getattr(config, "name_or_path", "") or "config.json")
        raise TeacherError(what, where=where, hint="pip install 'transformers>=5'")
