"""The measuring worker: one ONNX file in a clean process, timed.

This room imports the standard library, numpy, onnxruntime and `homoexport.host`, and nothing else, so
that the worker's memory is the deployment's. `homoexport.measure` packs it into one zip file that any
Python with onnxruntime runs (`python -I worker.pyz`), here or on another machine.

The worker reads one JSON object a line from stdin and answers with one a line on stdout; its first
line is a greeting. Times are nanoseconds, memory is bytes.

    {"command": "load", "model", "outputs", "threads", "providers"}
    {"command": "inputs", "batch_size", "length", "vocab_size"}   the same random token ids every time
    {"command": "inputs", "batch_size", "rows", "pad_token_id"}   real texts' token ids, padded by batch
    {"command": "warm", "seconds"}        one first inference, then runs until the latency is steady
    {"command": "time", "runs", "cores"}  one untimed run, then `runs` timed ones, on those cores; energy, too
    {"command": "unpin"}                  on any core again
    {"command": "answer", "output"}       the first batch's answer, base64 of little-endian float32
    {"command": "memory"}                 the kernel's high-water mark, and what is resident now
    {"command": "grow", "batch_sizes", "length", "vocab_size", "shrink"}   memory after each of these batches
    {"command": "streams", "streams", "seconds"}           callers that share the session, each in a closed loop
    {"command": "arrivals", "rate_per_s", "requests", "seconds", "seed"}   callers that come by chance (open loop)
    {"command": "tokenize", "tokenizer", "texts", "max_length", "runs"}
    {"command": "post", "task", "output", "runs"}   what a caller does with the answer, timed
    {"command": "spin", "seconds", "cores"}   a fixed piece of work, again and again: is the machine quiet?
    {"command": "counters"}               processor time used here and on the whole host, clock rate
    {"command": "modules"}                what this process has imported
    {"command": "quit"}

An answer holds `"ok": true` and its figures, or `"ok": false`, `"kind"` (`memory` or `model`) and
`"error"`. Where stdin ends, as it does when the parent dies, so does the worker.
"""

PROTOCOL_VERSION = 1
