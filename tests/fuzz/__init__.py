"""Mutated inputs at every door through which a stranger's bytes come in: see `watch` for what must not happen."""
