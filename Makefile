# `make run` and `make test` need Debian, rustup's stable toolchain and make; what else they need they install.
.DEFAULT_GOAL := help
.PHONY: help run test bench fmt format-check lint unit doc samples licences build-tools test-tools

# One profile for everything that is tested, so that the dependencies are built once.
CROSSGATE := $(or $(CARGO_TARGET_DIR),target)/debug/crossgate
# Where rustup puts cargo, for shells that do not know it yet.
export PATH := $(PATH):$(HOME)/.cargo/bin
SAMPLES := $(wildcard ops/config/*.yaml)

help: ## Says what there is
	@sed -n 's/^\([a-z-]*\):.*## /\1\t/p' Makefile | expand -t 14

run: build-tools ## Builds (unoptimised: the shorter wait) and starts the demo; Ctrl-C ends it
	cargo build --locked --package crossgate
	@ops/demo.sh $(CROSSGATE)

test: format-check lint unit doc samples licences ## Everything that CI runs
	@echo "all good"

bench: build-tools ## Prints the time of a decision
	cargo bench --locked --package crossgate-benches

fmt: ## Formats the code
	cargo fmt --all

format-check:
	cargo fmt --all --check

lint: build-tools
	cargo clippy --locked --workspace --all-targets -- -D warnings

# nextest runs every test in a process of its own and in parallel; it does not know doctests.
unit: test-tools
	@if cargo nextest --version >/dev/null 2>&1; then \
	  set -x; cargo nextest run --locked --workspace && cargo test --locked --workspace --doc; \
	else \
	  set -x; cargo test --locked --workspace; \
	fi

# The private items are documented too, so a public page may point at them.
doc: build-tools
	RUSTDOCFLAGS="-D warnings -A rustdoc::private-intra-doc-links" cargo doc --locked --workspace --no-deps --document-private-items

# With the binary that the tests were built with: another set of features would build the dependencies again.
samples: unit
	$(CROSSGATE) check $(SAMPLES)
	$(CROSSGATE) test scripts

licences:
	@ops/check-licences.sh

build-tools:
	@ops/install-missing.sh cc=gcc cc=libc6-dev cmake=cmake

test-tools: build-tools
	@ops/install-missing.sh chromium=chromium chromedriver=chromium-driver promtool=prometheus
