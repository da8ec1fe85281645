"""Students to ONNX packages: a portable graph, its fused and int8 variants, and the measured choice among them."""
