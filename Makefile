# `make run` and `make test` need Debian, rustup's stable toolchain and make; what else they need they install.
.DEFAULT_GOAL := help
.PHONY: help run run-https release install test rows fuzz test-long soak mutants bench bench-peers bench-scale fmt format-check lint unit doc samples licences ops-check ops-tools build-tools test-tools peer-tools instructions instructions-budget count-instructions

# One profile for everything that is tested, so that the dependencies are built once.
CROSSGATE := $(or $(CARGO_TARGET_DIR),target)/debug/crossgate
# Where rustup puts cargo, for shells that do not know it yet.
export PATH := $(PATH):$(HOME)/.cargo/bin
SAMPLES := $(wildcard ops/config/*.yaml)
# What is measured is built as it is shipped. What it is compared with comes from Debian and, in an environment of its own, from PyPI.
RELEASE := $(or $(CARGO_TARGET_DIR),target)/release
PEERS := target/peers
OPS := target/ops
# The library's version in Cargo.toml: the two talk to each other.
GUNGRAUN := $(abspath $(or $(CARGO_TARGET_DIR),target)/tools/gungraun-0.20.0)
COUNTS := $(or $(CARGO_TARGET_DIR),target)/instructions.json
# More for the measuring scripts, such as `BENCH_ARGS=--quick`, and for the checks of ops/.
BENCH_ARGS :=
MINUTES :=
PREFIX := /usr/local
BIN = $(DESTDIR)$(PREFIX)/bin
SHARE = $(DESTDIR)$(PREFIX)/share
OPS_ARGS :=
# One program a target, instrumented and, as the code is safe Rust, without a sanitizer: so stable Rust makes them. `make fuzz-NAME`
# runs one; inputs that reach something new are collected beside the programs, those that break something in fuzz/artifacts.
FUZZ := $(patsubst fuzz/corpus/%,fuzz-%,$(wildcard fuzz/corpus/*))
CARGO_FUZZ := $(abspath $(or $(CARGO_TARGET_DIR),target)/tools/cargo-fuzz-0.13.2)
FUZZED := $(abspath $(or $(CARGO_TARGET_DIR),target)/fuzz)
# Which files are broken, and what no test can notice: .cargo/mutants.toml. The copy that is broken has its own target directory, which stays.
CARGO_MUTANTS := $(abspath $(or $(CARGO_TARGET_DIR),target)/tools/cargo-mutants-27.1.0)
MUTANTS := $(abspath $(or $(CARGO_TARGET_DIR),target)/mutants)
FILE :=

help: ## Says what there is
	@sed -n 's/^\([a-z-]*\):.*## /\1\t/p' Makefile | expand -t 14

run: build-tools ## Builds (unoptimised: the shorter wait) and starts the demo; Ctrl-C ends it
	cargo build --locked --package crossgate
	@ops/demo.sh $(CROSSGATE)

run-https: build-tools ## The same, with the API over https too
	@ops/install-missing.sh openssl=openssl
	cargo build --locked --package crossgate
	@ops/demo.sh $(CROSSGATE) https

release: build-tools ## Builds what is shipped
	cargo build --release --locked --package crossgate

install: ## Installs what is shipped, with manual pages and completions, under PREFIX=/usr/local
# Root may have no Rust, and need not if somebody else has built it.
	@if command -v cargo >/dev/null 2>&1; then $(MAKE) --no-print-directory release; else test -x $(RELEASE)/crossgate || \
	  { echo "there is no $(RELEASE)/crossgate, and no cargo to build it: run make release as whoever has Rust" >&2; exit 1; }; fi
	install -D -m 755 $(RELEASE)/crossgate $(BIN)/crossgate
	install -d $(SHARE)/bash-completion/completions $(SHARE)/zsh/site-functions $(SHARE)/fish/vendor_completions.d
	$(BIN)/crossgate completions bash >$(SHARE)/bash-completion/completions/crossgate
	$(BIN)/crossgate completions zsh >$(SHARE)/zsh/site-functions/_crossgate
	$(BIN)/crossgate completions fish >$(SHARE)/fish/vendor_completions.d/crossgate.fish
	$(BIN)/crossgate manual $(SHARE)/man/man1

test: format-check rows lint unit doc samples licences ops-check instructions ## Everything that CI runs
	@echo "all good"

test-long: build-tools ## Runs the tests that take minutes, one after the other: ten minutes
	cargo test --locked --workspace --test long -- --test-threads 1

soak: build-tools ## Loads what is shipped for MINUTES=30, and watches its memory, descriptors and threads
	SOAK_MINUTES=$(or $(MINUTES),30) cargo test --release --locked --package crossgate --test long -- --nocapture soak

fuzz: $(FUZZ) ## Feeds every fuzz target for a minute, or MINUTES=20, and keeps what breaks one in fuzz/artifacts

.PHONY: $(FUZZ)
$(FUZZ): fuzz-%: build-tools $(CARGO_FUZZ)/bin/cargo-fuzz
	@ops/install-missing.sh c++=g++
	@mkdir -p $(FUZZED)/corpus/$* fuzz/artifacts/$*
	cd fuzz && PATH="$(CARGO_FUZZ)/bin:$$PATH" cargo fuzz run --fuzz-dir libfuzzer --sanitizer none --target-dir $(FUZZED) $* \
	  $(FUZZED)/corpus/$* corpus/$* -- -max_total_time=$$(($(or $(MINUTES),1) * 60)) -timeout=10 -max_len=4096 -artifact_prefix=artifacts/$*/

$(CARGO_FUZZ)/bin/cargo-fuzz: | build-tools
	cargo install --locked --debug --version =$(patsubst cargo-fuzz-%,%,$(notdir $(CARGO_FUZZ))) --root $(CARGO_FUZZ) cargo-fuzz

mutants: build-tools $(CARGO_MUTANTS)/bin/cargo-mutants ## Breaks what decides and parses, or FILE=policy/src/names.rs, bit by bit; fails if no test notices: hours
ifneq ($(filter-out gateway/%,$(or $(FILE),policy)),)
	$(call MUTATE,crossgate-policy,tests)
endif
ifneq ($(filter gateway/%,$(or $(FILE),gateway/)),)
	$(call MUTATE,crossgate,lib)
endif

# The tests over sockets take minutes, and every parser has its own in the library.
MUTATE = PATH="$(CARGO_MUTANTS)/bin:$$PATH" CARGO_TARGET_DIR=$(MUTANTS) cargo mutants --package $(1) --cargo-arg=--locked --cargo-arg=--$(2) \
  --output $(MUTANTS)/$(1) $(addprefix --file ,$(FILE))

$(CARGO_MUTANTS)/bin/cargo-mutants: | build-tools
	cargo install --locked --debug --version =$(patsubst cargo-mutants-%,%,$(notdir $(CARGO_MUTANTS))) --root $(CARGO_MUTANTS) cargo-mutants

bench: build-tools ## Runs the criterion benches: a quarter of an hour, building included
	cargo bench --locked --package crossgate-benches

bench-peers: build-tools peer-tools $(PEERS)/installed ## Compares the cost of requests with nginx, HAProxy, Envoy and Pingora: 20 minutes
	cargo build --release --locked --package crossgate --package crossgate-benches --bins
	$(PEERS)/venv/bin/python benches/peers/run.py --crossgate $(RELEASE)/crossgate --pingora $(RELEASE)/bare-pingora $(BENCH_ARGS)

bench-scale: build-tools ## Measures start, memory and reloads with many tenants, origins and connections: 5 minutes
	@ops/install-missing.sh python3=python3
	cargo build --release --locked --package crossgate
	python3 benches/scale/run.py --crossgate $(RELEASE)/crossgate $(BENCH_ARGS)

instructions: count-instructions ## Counts the instructions of decisions and holds them to their budgets
	python3 benches/instructions/check.py $(COUNTS)

instructions-budget: count-instructions ## Makes what decisions take now the budgets of the rustc in use
	python3 benches/instructions/check.py --write $(COUNTS)

count-instructions: export GUNGRAUN_RUNNER := $(GUNGRAUN)/bin/gungraun-runner
count-instructions: build-tools $(GUNGRAUN)/bin/gungraun-runner
	@ops/install-missing.sh valgrind=valgrind python3=python3
	cargo bench --locked --profile instructions --package crossgate-instructions -- --output-format=json --parallel=auto >$(COUNTS)

# Unoptimised: it starts valgrind and reads what that wrote, and builds in half the time.
$(GUNGRAUN)/bin/gungraun-runner: | build-tools
	cargo install --locked --debug --version =$(patsubst gungraun-%,%,$(notdir $(GUNGRAUN))) --root $(GUNGRAUN) gungraun-runner

fmt: ## Formats the code
	cargo fmt --all

format-check:
	cargo fmt --all --check

rows: ## Looks whether every row of what must hold has its tests
	@ops/install-missing.sh python3=python3
	python3 ops/check-rows.py

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

ops-check: unit $(OPS)/installed ## Holds dashboard, alerts, runbook and manifests to the built gateway, with a Prometheus that scrapes it
	$(OPS)/venv/bin/python ops/check/run.py --crossgate $(CROSSGATE) $(OPS_ARGS)

licences:
	@ops/check-licences.sh

build-tools:
	@ops/install-missing.sh cc=gcc cc=libc6-dev cmake=cmake

test-tools: build-tools
	@ops/install-missing.sh chromium=chromium chromedriver=chromium-driver promtool=prometheus curl=curl h2load=nghttp2-client

# Debian keeps servers in /usr/sbin, which is not on everybody's path.
bench-peers peer-tools: export PATH := $(PATH):/usr/sbin

# No program tells whether virtual environments can be made, so that is tried.
peer-tools:
	@ops/install-missing.sh python3=python3 nginx=nginx-light haproxy=haproxy wrk=wrk h2load=nghttp2-client taskset=util-linux
	@python3 -c 'import ensurepip' 2>/dev/null || ops/install-missing.sh ensurepip=python3-venv

ops-tools:
	@ops/install-missing.sh python3=python3 promtool=prometheus systemd-analyze=systemd openssl=openssl curl=curl
	@python3 -c 'import ensurepip' 2>/dev/null || ops/install-missing.sh ensurepip=python3-venv

$(PEERS)/installed: benches/peers/requirements.txt | peer-tools
$(OPS)/installed: ops/check/requirements.txt | ops-tools
$(PEERS)/installed $(OPS)/installed:
	python3 -m venv --clear $(@D)/venv
	$(@D)/venv/bin/pip install --quiet --disable-pip-version-check --requirement $<
	touch $@
