"""The measuring worker: one ONNX file in a clean process, timed.

This room imports the standard library, numpy, onnxruntime and `homoexport.host`, and nothing else, so
that the worker's memory is the deployment's. `stages.measure` packs it into one zip file that any
Python with onnxruntime runs (`python -I worker.pyz`), here or on another machine.

    protocol    what it is asked and answers
    serve       its loop
    inputs      what one inference is
    model       the session: loading, warming up, timing
    traffic     many callers of one session
    around      what a caller does before and after
    machine     memory, processor time, clock rate, energy
"""
