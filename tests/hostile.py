"""What a stranger may write where a name, a label or a message is expected, by what it is meant to do."""

from __future__ import annotations

FENCE = "`" * 3
HOSTILE = {
    "colour": "\x1b[31mred",
    "title of the window": "\x1b]0;PWNED\x07",
    "clipboard": "\x1b]52;c;cHduZWQ=\x07",
    "one byte": "\x9b31m\x9d0;PWNED\x9c",
    "line": "name\nerror: nothing is wrong",
    "overwritten": "bad\rgood",
    "erased": "bad\x08\x08\x08good",
    "right to left": "txt.\u202eexe\u2066",
    "half a character": "\udcff\ud800",
    "heading": "x\n\n# Heading",
    "heading at the start": "# Heading",
    "rule": "---",
    "list": "1. one",
    "block": f"x\n{FENCE}\ncode\n{FENCE}",
    "script": "<script>alert(1)</script><img src=x onerror=alert(1)>",
    "comment": "<!-- x",
    "entity": "&lt;script&gt;",
    "link": "[here](javascript:alert(1))",
    "picture": "![x](http://198.51.100.1/x.png)",
    "address": "<http://198.51.100.1>",
    "cell": "a | b |\n| c |",
    "bold": "**a** __b__ ~~c~~ $d$",
    "span": "a`b``c",
    "front matter": "x\n---\nbase_model: other\n---\n",
    "flow": "{a: b}, [c], !!python/object/apply:os.system ['id'], &a *a",
    "string": 'x"]); import os; os.system("id"); (["',
    "mathematics": r"$\frac{$ \undefined$",
}
