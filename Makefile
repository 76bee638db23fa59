# Every target does its own set-up (scripts/setup), so that each is the only command one has to type.
# PYTHON=/path/to/python3 chooses the interpreter, for the first command in a fresh checkout.

export PYTHON

help: ## this text
	@echo "ramet: new processes that share exactly what you say"
	@echo
	@sed -n 's/^\([a-z0-9-]*\):.*## \(.*\)/  make \1#\2/p' $(MAKEFILE_LIST) | awk -F'#' '{ printf "%-20s %s\n", $$1, $$2 }'

dev: ## set up everything that development needs
	@scripts/setup run test check bench

demo: ## an untrusted program analyses a data file in a sandbox
	@scripts/setup run
	@.venv/bin/python examples/demo/demo.py

test: ## all tests; started by root, as root and as an ordinary user
	@scripts/setup run test
	@scripts/test $(ARGS)

test-pythons: ## functions and the core under the other versions of Python that are here
	@scripts/setup run test
	@scripts/pythons $(ARGS)

test-cgroup2: ## the tests of control groups on version 2, in virtual machines
	@scripts/setup run test vm
	@scripts/test-cgroup2 $(ARGS)

check: ## style, types, C warnings under gcc, clang and for aarch64
	@scripts/setup run test check
	@scripts/check

sanitize: ## the C code under AddressSanitizer and UBSan, and fuzzed
	@scripts/setup run test sanitize
	@scripts/sanitize $(ARGS)

bench: ## measure against bubblewrap, unshare, subprocess and plain C
	@scripts/setup run bench
	@.venv/bin/python benchmarks/bench.py $(ARGS)

clean: ## remove what was built, and the virtual environment
	rm -rf .venv build dist src/ramet/_init src/ramet/_core*.so .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

.PHONY: help dev demo test test-pythons test-cgroup2 check sanitize bench clean
