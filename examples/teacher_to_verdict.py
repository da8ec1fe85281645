"""From a teacher to a verdict, as cells of a notebook would do it.

python examples/teacher_to_verdict.py TEACHER 'text/*.txt' FOLDER 192 6
"""

import sys
from pathlib import Path

import homoexport
from homoexport.documents.budget import Budget
from homoexport.documents.recipe import DistillSettings
from homoexport.shape import PartialShape

teacher, text, folder = sys.argv[1], sys.argv[2], Path(sys.argv[3])
hidden_size, heads = map(int, sys.argv[4:])

shape = PartialShape(hidden_size=hidden_size, num_attention_heads=heads)
settings = DistillSettings(objective="sentence-embedding", steps=40, batch_size=16)
student = homoexport.distill(teacher, text=text, shape=shape, settings=settings, output=folder / "student")
print(f"{student.details.parameters / 1e6:.1f} M parameters of {student.details.teacher_parameters / 1e6:.1f} M")

homoexport.export(teacher, output=folder / "teacher-onnx", quantize="none")
package = homoexport.export(folder / "student", output=folder / "student-onnx", quantize="int8")
print(f"{package.details.precision}, cosine with the student {package.details.parity.mean_cosine:.4f}")

packages, budget = [folder / "teacher-onnx", folder / "student-onnx"], Budget(latency_p95_ms="2x", file_mb="25%")
measured = homoexport.measure(packages, threads=1, length=32, budget=budget)
for verdict in measured.cells[0].budget:
    print(f"{verdict.line}: {verdict.measured:.2f}, at most {verdict.limit:.2f}: kept is {verdict.kept}")
