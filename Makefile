# Everything a fresh clone needs: `make demo` and `make test` set themselves up.
PYTHON ?= $(shell command -v python3.11 || command -v python3.12 || command -v python3)
VENV := .venv
BIN := $(VENV)/bin
OUT ?= demo-out

.PHONY: demo test test-unit test-integration test-slow docs lint types lock clean

demo: $(VENV)/installed
	$(BIN)/depers demo $(OUT)

test: lint types test-unit test-integration

# Pure functions: neither Ray nor a process.
test-unit: $(VENV)/installed
	$(BIN)/python -m pytest -n auto tests/unit

# Whole runs: real Ray, S3 over HTTP, real YOLOv5. Three at a time, each with a Ray of its own: much of it is waiting.
test-integration: $(VENV)/installed
	$(BIN)/python -m pytest -n 3 --dist loadfile -m "not slow" tests/integration

test-slow: $(VENV)/installed
	$(BIN)/python -m pytest -m slow tests/integration tests/slow

lint: $(VENV)/installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports --no-logo

types: $(VENV)/installed
	$(BIN)/mypy

# The lock is complete, so it is installed as it stands: resolving again would bring back opencv-python.
# Installed by a path, not by a finder: in the folder above the clone, workers took the folder `depers` for the package.
# Compiled once here: Ray starts many Python processes, each of which would compile it again.
$(VENV)/installed: requirements.lock pyproject.toml
	sh .ci/venv "$(PYTHON)" $(VENV)
	$(BIN)/python -m pip install --quiet uv
	VIRTUAL_ENV=$(VENV) $(BIN)/uv pip install --quiet --no-deps --compile-bytecode -r requirements.lock
	VIRTUAL_ENV=$(VENV) $(BIN)/uv pip install --quiet --no-deps --no-build-isolation \
	  --config-setting editable_mode=compat -e .
	touch $@

# The pages that follow from the code: options of all verbs, columns of all tables.
docs: $(VENV)/installed
	$(BIN)/python docs/generate.py

# Names and versions only, for Python 3.11 and 3.12.
lock: $(VENV)/installed
	$(BIN)/uv pip compile --upgrade --universal --python-version 3.11 --group dev --no-header --no-annotate \
	  --no-emit-index-url --no-emit-find-links pyproject.toml -o requirements.lock

clean:
	rm -rf $(VENV) $(OUT)
