# Two commands do everything on a fresh machine: `make demo` and `make test`.
PYTHON ?= python3
BIN := .venv/bin
DEMO ?= .demo

.PHONY: demo test lint docs format validate fuzz faults gpu oldest trainers clean

# Made with pip: other installers do not read constraints.txt.
.venv/.made: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet -c constraints.txt -e '.[dev]'
	touch $@

demo: .venv/.made
	$(BIN)/opd-diag score sample_data/rollouts_step0.jsonl --teacher sample_data/teacher \
		--student sample_data/students/step0 --student sample_data/students/step150 \
		--student sample_data/students/step300 --out $(DEMO)
	$(BIN)/opd-diag analyze all $(DEMO)
	$(BIN)/opd-diag plot $(DEMO)
	$(BIN)/opd-diag report $(DEMO)
	@echo "The figures are in $(DEMO)/plots."

# On up to four cores; the tests of a file share what they made.
test: .venv/.made
	$(BIN)/pytest -n logical --maxprocesses 4 --dist loadfile

lint: .venv/.made
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# The site of docs/, README and the notebooks, in .site; every broken link is an error.
docs: .venv/.made
	$(BIN)/pip install --quiet -c constraints.txt -e '.[docs]'
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build

# Rates over hundreds of seeds; some hours on two cores, less for single studies.
validate: .venv/.made
	$(BIN)/python -m benchmarks.validate

# Twenty times the examples of the suite; a few minutes.
fuzz: .venv/.made
	OPD_DIAG_FUZZ=20 $(BIN)/pytest tests/rollouts/test_fuzz.py tests/faults/test_fuzz.py

# Inject faults, and write what was lost to benchmarks/results/faults.md.
faults: .venv/.made
	$(BIN)/python -m benchmarks.faults

# Everything that needs a GPU, in at most eight minutes; CONTRIBUTING.md says what it does.
gpu: .venv/.made
	$(BIN)/python -m benchmarks.gpu

# The suite with the oldest version that pyproject.toml allows of everything but torch.
oldest:
	$(PYTHON) -m venv .venv-oldest
	$(PYTHON) -c "import tomllib; \
		needs = tomllib.load(open('pyproject.toml', 'rb'))['project']['dependencies']; \
		print(*(n.replace('>=', '==') for n in needs if not n.startswith('torch')), sep='\n')" \
		> .venv-oldest/oldest.txt
	grep '^torch==' constraints.txt >> .venv-oldest/oldest.txt
	.venv-oldest/bin/pip install --quiet -c .venv-oldest/oldest.txt -e '.[dev]'
	.venv-oldest/bin/pytest -o filterwarnings=default

# What trainers' own loaders make of an export, in an environment of their own.
trainers:
	$(PYTHON) -m venv .venv-trainers
	.venv-trainers/bin/pip install --quiet -c constraints.txt -e '.[dev]' trl tinker tensordict datasets
	.venv-trainers/bin/pytest tests/exports/test_trainers.py

format: .venv/.made
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:
	rm -rf .site .venv .venv-oldest .venv-trainers $(DEMO)
