"""homoexport: distil a slim Transformer encoder to a deployment budget, and prove it on the target."""
