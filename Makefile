# SPDX-License-Identifier: Apache-2.0
# Every target first makes sure that what it needs is installed; see scripts/bootstrap --help.
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help
.PHONY: help bootstrap build demo test test-full asan tsan tidy fuzz lint format bench wheel clean

root := $(CURDIR)
export PATH := $(root)/.venv/bin:$(PATH)
export PYTHONPATH := $(root)/python$(if $(PYTHONPATH),:$(PYTHONPATH))
# Where scripts/bootstrap unpacks Debian packages for want of root.
export CMAKE_PREFIX_PATH := $(root)/.deps/usr$(if $(CMAKE_PREFIX_PATH),:$(CMAKE_PREFIX_PATH))
export MOPTCORE_ASSETS ?= $(root)/.deps
# One compiler cache for every checkout of this repository.
export CCACHE_BASEDIR ?= $(root)
export CCACHE_NOHASHDIR ?= 1
export CMAKE_BUILD_PARALLEL_LEVEL ?= $(shell nproc 2>/dev/null || echo 2)

help:
	@echo "make demo       compress a real network and look at the report (2 minutes once it is built)"
	@echo "make test       build and run every test of CI"
	@echo "make test-full  the exhaustive and slow tests as well"
	@echo "make asan, tsan, tidy, fuzz   the C++ tests under sanitizers; clang-tidy; fuzzers"
	@echo "make lint       what pre-commit checks; make format repairs what can be repaired"
	@echo "make bench      moptcore against every peer that can be installed; make wheel builds dist/*.whl; make clean removes build/"

bootstrap:
	@scripts/bootstrap dev

demo:
	@scripts/bootstrap demo
	@echo "building the extension (minutes the first time, seconds after that)"
	@mkdir -p build && (cmake --preset python && cmake --build --preset python) >build/demo.log 2>&1 \
	  || { tail -n 30 build/demo.log; echo "the build failed; all of its output: build/demo.log"; exit 1; }
	@# On a busy machine threads that spin while they wait take the cores from those that work.
	@GOMP_SPINCOUNT=$${GOMP_SPINCOUNT:-20000} python -m moptcore demo

test: bootstrap
	cmake --workflow --preset dev

test-full:
	@scripts/bootstrap full
	cmake --workflow --preset dev
	MOPTCORE_FULL=1 ctest --preset full
	$(MAKE) asan tsan fuzz

build: bootstrap
	cmake --preset dev && cmake --build --preset dev

asan tsan: bootstrap
	cmake --workflow --preset $@

tidy fuzz:
	@scripts/bootstrap full
	cmake --workflow --preset $@

lint: bootstrap
	pre-commit run --all-files

format: bootstrap
	git ls-files -z '*.cpp' '*.hpp' | xargs -0 clang-format -i
	ruff check --fix --quiet . && ruff format --quiet .

bench:
	@scripts/bootstrap bench
	cmake --preset python && cmake --build --preset python
	.venv-peers/bin/python benchmarks/run.py

wheel: bootstrap
	python -m pip wheel . --no-build-isolation --no-deps --wheel-dir dist

clean:
	rm -rf build dist python/moptcore/_core*.so python/moptcore/_runtime*.so
