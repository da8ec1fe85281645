"""The measuring worker: one model's file in a clean process, timed.

This room imports the standard library, numpy, `homoexport.host` and one runtime, and nothing else, so
that the worker's memory is the deployment's. `stages.measure` packs it into one zip file that any
Python with onnxruntime runs (`python -I worker.pyz`), here or on another machine; or one with another runtime
(`python -I worker.pyz openvino`, or `ctranslate2`).

    protocol    what it is asked and answers
    serve       its loop
    inputs      what one inference is
    model       a loaded model: warming up, timing
    by_onnxruntime, by_openvino, by_ctranslate2     how each runtime opens and runs one
    head        what numpy makes of the states where the runtime gives no more
    traffic     many callers of one session
    around      what a caller does before and after
    machine     memory, processor time, clock rate, energy
"""
