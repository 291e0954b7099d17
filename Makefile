# `make run` and `make test` need Debian, rustup's stable toolchain and make; what else they need they install.
.DEFAULT_GOAL := help
.PHONY: help run run-https release install dist dist-check test rows fuzz test-long soak mutants bench bench-peers bench-scale fmt format-check lint unit doc samples licences ops-check ops-tools build-tools dist-tools test-tools peer-tools prose docs getting-started instructions instructions-budget count-instructions

# One profile for everything that is tested, so that the dependencies are built once.
CROSSGATE := $(or $(CARGO_TARGET_DIR),target)/debug/crossgate
# The directory where rustup installs cargo, for shells without it in PATH.
export PATH := $(PATH):$(HOME)/.cargo/bin
SAMPLES := $(wildcard ops/config/*.yaml)
# Measurements use the release build. The peers come from Debian, and from PyPI in a virtual environment.
RELEASE := $(or $(CARGO_TARGET_DIR),target)/release
PEERS := target/peers
OPS := target/ops
# Must be the version of the library in Cargo.toml: runner and library share a protocol.
GUNGRAUN := $(abspath $(or $(CARGO_TARGET_DIR),target)/tools/gungraun-0.20.0)
COUNTS := $(or $(CARGO_TARGET_DIR),target)/instructions.json
EXCHANGE_COUNTS := $(or $(CARGO_TARGET_DIR),target)/exchange-instructions.json
# Further arguments for the measuring scripts, such as `BENCH_ARGS=--quick`, and for the checks of ops/.
BENCH_ARGS :=
# The commit in `crossgate --version`; without git only the version is shown.
COMMIT = $(shell git describe --always --dirty --abbrev=12 --exclude='*' 2>/dev/null)
MINUTES :=
CARGO_DEB := $(abspath $(or $(CARGO_TARGET_DIR),target)/tools/cargo-deb-3.8.0)
PACKAGE := PATH="$(CARGO_DEB)/bin:$$PATH" ops/package/build.sh
DIST := target/dist
DIST_CHECK := target/dist-check
PREFIX := /usr/local
BIN = $(DESTDIR)$(PREFIX)/bin
SHARE = $(DESTDIR)$(PREFIX)/share
OPS_ARGS :=
# One program a target, instrumented and, as the code is safe Rust, without a sanitizer: so stable Rust makes them. `make fuzz-NAME`
# runs one; inputs that reach something new are collected beside the programs, those that break something in fuzz/artifacts.
FUZZ := $(patsubst fuzz/corpus/%.txt,fuzz-%,$(wildcard fuzz/corpus/*.txt))
CARGO_FUZZ := $(abspath $(or $(CARGO_TARGET_DIR),target)/tools/cargo-fuzz-0.13.2)
FUZZED := $(abspath $(or $(CARGO_TARGET_DIR),target)/fuzz)
# Which files are broken, and what no test can notice: .cargo/mutants.toml. The copy that is broken has its own target directory, which stays.
MDBOOK := $(abspath $(or $(CARGO_TARGET_DIR),target)/tools/mdbook-0.5.4)
CARGO_MUTANTS := $(abspath $(or $(CARGO_TARGET_DIR),target)/tools/cargo-mutants-27.1.0)
MUTANTS := $(abspath $(or $(CARGO_TARGET_DIR),target)/mutants)
FILE :=

help: ## Lists the targets
	@sed -n 's/^\([a-z-]*\):.*## /\1\t/p' Makefile | expand -t 14

run: build-tools ## Builds without optimisation and starts the demo on PORT=8080 and PAGE_PORT=3000; Ctrl-C ends it
	cargo build --locked --package crossgate
	@ops/demo.sh $(CROSSGATE)

run-https: build-tools ## Starts the demo, with the API over https as well
	@tools/install-missing.sh openssl=openssl
	cargo build --locked --package crossgate
	@ops/demo.sh $(CROSSGATE) https

release: build-tools ## Builds the release binary
	CROSSGATE_COMMIT='$(COMMIT)' cargo build --release --locked --package crossgate

install: ## Installs the release binary, manual pages and completions under PREFIX=/usr/local
# Root needs no Rust if another user has built the binary.
	@if command -v cargo >/dev/null 2>&1; then $(MAKE) --no-print-directory release; else test -x $(RELEASE)/crossgate || \
	  { echo "no $(RELEASE)/crossgate and no cargo: run make release as a user with Rust" >&2; exit 1; }; fi
	install -D -m 755 $(RELEASE)/crossgate $(BIN)/crossgate
	install -d $(SHARE)/bash-completion/completions $(SHARE)/zsh/site-functions $(SHARE)/fish/vendor_completions.d
	$(BIN)/crossgate completions bash >$(SHARE)/bash-completion/completions/crossgate
	$(BIN)/crossgate completions zsh >$(SHARE)/zsh/site-functions/_crossgate
	$(BIN)/crossgate completions fish >$(SHARE)/fish/vendor_completions.d/crossgate.fish
	$(BIN)/crossgate manual $(SHARE)/man/man1

dist: dist-tools $(CARGO_DEB)/bin/cargo-deb release ## Builds the Debian package and the tarball in DIST=target/dist
	$(PACKAGE) $(RELEASE)/crossgate $(DIST)

# With the binary that the tests were built with, since a release takes minutes.
dist-check: dist-tools $(CARGO_DEB)/bin/cargo-deb unit ## Packages the debug build; installs, runs, upgrades and purges it in a separate root
	@rm -rf $(DIST_CHECK)
	$(PACKAGE) $(CROSSGATE) $(DIST_CHECK) --fast
	$(if $(filter 0,$(shell id -u)),,sudo )python3 tools/check/package.py --deb $(DIST_CHECK)/*.deb --tarball $(DIST_CHECK)/*.tar.gz

# Debian's own xz: a package of the debug build of cargo-deb would take minutes.
$(CARGO_DEB)/bin/cargo-deb: | build-tools
	cargo install --locked --debug --no-default-features --version =$(patsubst cargo-deb-%,%,$(notdir $(CARGO_DEB))) --root $(CARGO_DEB) cargo-deb

dist-tools:
	@tools/install-missing.sh python3=python3 dpkg-shlibdeps=dpkg-dev strip=binutils xz=xz-utils adduser=adduser

test: format-check rows prose lint unit doc samples getting-started licences ops-check dist-check instructions ## Runs everything that CI runs
	@echo "all good"

test-long: build-tools ## Runs the long tests one after the other: ten minutes
	cargo test --locked --workspace --test long -- --test-threads 1

soak: build-tools ## Loads the release binary for MINUTES=30 and checks its memory, descriptors and threads
	SOAK_MINUTES=$(or $(MINUTES),30) cargo test --release --locked --package crossgate --test long -- --nocapture soak

fuzz: $(FUZZ) ## Runs every fuzz target for a minute, or MINUTES=20; failing inputs go to fuzz/artifacts

.PHONY: $(FUZZ)
$(FUZZ): fuzz-%: build-tools $(CARGO_FUZZ)/bin/cargo-fuzz
	@tools/install-missing.sh c++=g++ python3=python3
	@mkdir -p $(FUZZED)/corpus/$* fuzz/artifacts/$*
	@rm -rf $(FUZZED)/inputs/$*
	@tools/fuzz-corpus.py unpack $* $(FUZZED)/inputs/$*
	cd fuzz && PATH="$(CARGO_FUZZ)/bin:$$PATH" cargo fuzz run --fuzz-dir libfuzzer --sanitizer none --target-dir $(FUZZED) $* \
	  $(FUZZED)/corpus/$* $(FUZZED)/inputs/$* -- -max_total_time=$$(($(or $(MINUTES),1) * 60)) -timeout=10 -max_len=4096 -artifact_prefix=artifacts/$*/

$(CARGO_FUZZ)/bin/cargo-fuzz: | build-tools
	cargo install --locked --debug --version =$(patsubst cargo-fuzz-%,%,$(notdir $(CARGO_FUZZ))) --root $(CARGO_FUZZ) cargo-fuzz

mutants: build-tools $(CARGO_MUTANTS)/bin/cargo-mutants ## Mutation tests of deciding and parsing code, or of FILE=policy/src/names.rs: hours
ifneq ($(filter policy/%,$(or $(FILE),policy/)),)
	$(call MUTATE,crossgate-policy,tests)
endif
ifneq ($(filter message/%,$(or $(FILE),message/)),)
	$(call MUTATE,crossgate-message,lib)
endif
ifneq ($(filter wire/%,$(or $(FILE),wire/)),)
	$(call MUTATE,crossgate-wire,lib)
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
	@tools/install-missing.sh python3=python3
	cargo build --release --locked --package crossgate
	python3 benches/scale/run.py --crossgate $(RELEASE)/crossgate $(BENCH_ARGS)

instructions: count-instructions ## Counts the instructions of decisions and exchanges and compares them with their budgets
	python3 benches/instructions/check.py $(COUNTS) $(EXCHANGE_COUNTS)

instructions-budget: count-instructions ## Writes the current counts as the budgets of the rustc in use
	python3 benches/instructions/check.py --write $(COUNTS) $(EXCHANGE_COUNTS)

count-instructions: export GUNGRAUN_RUNNER := $(GUNGRAUN)/bin/gungraun-runner
count-instructions: build-tools $(GUNGRAUN)/bin/gungraun-runner
	@tools/install-missing.sh valgrind=valgrind python3=python3
	cargo bench --locked --profile instructions --package crossgate-instructions -- --output-format=json --parallel=auto >$(COUNTS)
	cargo build --locked --package crossgate
	python3 benches/instructions/exchange.py $(CROSSGATE) $(EXCHANGE_COUNTS)

# Unoptimised: it starts valgrind and reads what that wrote, and builds in half the time.
$(GUNGRAUN)/bin/gungraun-runner: | build-tools
	cargo install --locked --debug --version =$(patsubst gungraun-%,%,$(notdir $(GUNGRAUN))) --root $(GUNGRAUN) gungraun-runner

fmt: ## Formats the code
	cargo fmt --all

format-check:
	cargo fmt --all --check

rows: ## Checks that every promise in tools/rows.toml names its tests
	@tools/install-missing.sh python3=python3
	python3 tools/check-rows.py

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

getting-started: unit ## Runs the examples of README.md and docs/getting-started.md
	@tools/install-missing.sh python3=python3 curl=curl
	python3 tools/check/getting_started.py $(CROSSGATE)

docs: build-tools $(MDBOOK)/bin/mdbook ## Renders docs/ as a book, in target/book
	$(MDBOOK)/bin/mdbook build docs

$(MDBOOK)/bin/mdbook: | build-tools
	cargo install --locked --debug --no-default-features --version =$(patsubst mdbook-%,%,$(notdir $(MDBOOK))) --root $(MDBOOK) mdbook

ops-check: unit $(OPS)/installed ## Checks dashboard, alerts, runbook and manifests against the built gateway and a Prometheus
	$(OPS)/venv/bin/python tools/check/run.py --crossgate $(CROSSGATE) $(OPS_ARGS)

prose: ## Checks the words, names, lengths and links of documents and comments
	@tools/install-missing.sh python3=python3
	python3 tools/check-prose.py
	python3 tools/check-docs.py

licences:
	@tools/check-licences.sh

build-tools:
	@tools/install-missing.sh cc=gcc cc=libc6-dev cmake=cmake

test-tools: build-tools
	@tools/install-missing.sh chromium=chromium chromedriver=chromium-driver promtool=prometheus curl=curl h2load=nghttp2-client

# Debian keeps servers in /usr/sbin, which is not on everybody's path.
bench-peers peer-tools dist-tools: export PATH := $(PATH):/usr/sbin

# No program tells whether virtual environments can be made, so that is tried.
peer-tools:
	@tools/install-missing.sh python3=python3 nginx=nginx-light haproxy=haproxy wrk=wrk h2load=nghttp2-client taskset=util-linux curl=curl openssl=openssl strace=strace
	@python3 -c 'import ensurepip' 2>/dev/null || tools/install-missing.sh ensurepip=python3-venv

ops-tools:
	@tools/install-missing.sh python3=python3 promtool=prometheus systemd-analyze=systemd openssl=openssl curl=curl
	@python3 -c 'import ensurepip' 2>/dev/null || tools/install-missing.sh ensurepip=python3-venv

$(PEERS)/installed: benches/peers/requirements.txt | peer-tools
$(OPS)/installed: tools/check/requirements.txt | ops-tools
$(PEERS)/installed $(OPS)/installed:
	python3 -m venv --clear $(@D)/venv
	$(@D)/venv/bin/pip install --quiet --disable-pip-version-check --requirement $<
	touch $@
