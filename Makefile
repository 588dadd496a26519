# What a person or a machine runs here. `make` alone shows the list.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help

TARGET := $(or $(CARGO_TARGET_DIR),target)
CARGO_DENY_VERSION := 0.20.2
CARGO_DENY := target/tools/cargo-deny-$(CARGO_DENY_VERSION)/bin/cargo-deny
CARGO_FUZZ_VERSION := 0.13.2
CARGO_FUZZ := target/tools/cargo-fuzz-$(CARGO_FUZZ_VERSION)/bin/cargo-fuzz
PROPTEST_CASES ?= 20000
# Of the property of message sequences, in `make test`: about a minute of them.
EDGE_CASES ?= 40000
NIGHTLY ?= nightly
FUZZ_SECONDS ?= 60

.PHONY: help
help: ## show this list
	@echo "Pointsman: picks the model server for every LLM request."
	@echo
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-12s %s\n", $$1, $$2 }' $(firstword $(MAKEFILE_LIST))

.PHONY: demo
demo: needs ## build, start servers, Envoy and picker, send load, compare with round robin and least request
	cargo build --release --locked -p picker -p simulator
	envoy="$$(python3 tools/fetch.py envoy)"; \
	  exec $(TARGET)/release/pointsman-sim demo --envoy "$$envoy" --pointsman $(TARGET)/release/pointsman

.PHONY: test
test: lint test-tools ## everything that CI runs: format, lints, tests with a real Envoy and API server, documentation
	python3 tools/fetch.py envoy >/dev/null
	python3 tools/kubernetes.py >/dev/null
	python3 tools/gateway_api.py >/dev/null
	cargo test --workspace --locked --no-fail-fast
	PROPTEST_CASES=$(EDGE_CASES) cargo test --locked -p picker --lib any_messages_in_any_order
	RUSTDOCFLAGS="-D warnings" cargo doc --workspace --locked --no-deps

.PHONY: test-all
test-all: test deny fuzz ## the test above, then what is slow: licences and sources, every property over many cases

.PHONY: fuzz
fuzz: needs ## the properties of the decision core and of the ext_proc edge over PROPTEST_CASES random cases each; fuzz targets, with nightly
	PROPTEST_CASES=$(PROPTEST_CASES) cargo test --release --locked -p picker-core
	PROPTEST_CASES=$(PROPTEST_CASES) cargo test --release --locked -p picker --lib extproc
	@if rustup toolchain list 2>/dev/null | grep -q '^$(NIGHTLY)'; then \
	  $(MAKE) --no-print-directory fuzz-targets; \
	else \
	  echo "The fuzz targets were NOT run: they need a nightly toolchain (rustup toolchain install $(NIGHTLY))."; \
	fi

.PHONY: fuzz-targets
fuzz-targets: $(CARGO_FUZZ) ## the targets of fuzz/, guided by coverage, for FUZZ_SECONDS each; needs nightly
	for target in splice "--features edge exchange"; do \
	  RUSTUP_TOOLCHAIN=$(NIGHTLY) $(CARGO_FUZZ) run --sanitizer none $$target -- \
	    -max_total_time=$(FUZZ_SECONDS) -timeout=30 -print_final_stats=1; \
	done

$(CARGO_FUZZ): | needs
	cargo install --locked --root target/tools/cargo-fuzz-$(CARGO_FUZZ_VERSION) \
	  cargo-fuzz --version $(CARGO_FUZZ_VERSION)

.PHONY: bench
bench: needs ## compare policies over modelled servers in virtual time: target/bench/summary.json
	cargo build --release --locked -p simulator
	$(TARGET)/release/pointsman-sim bench --cells simulator/data/bench/routing.toml --out target/bench/summary.json

.PHONY: bench-core
bench-core: needs ## time the decision core: a pick, a request scan, a streamed chunk, a metrics page; count a pick's instructions
	@command -v valgrind >/dev/null || { \
	  echo "error: valgrind is missing; it counts the instructions of a pick. Install it (Debian, Ubuntu: apt-get install valgrind)." >&2; exit 1; }
	cargo bench --locked -p picker-core
	@bench="$$(cargo bench --locked -p picker-core --bench pick --no-run 2>&1 | sed -n 's/.*Executable .*(\(.*\))/\1/p')"; \
	for what in pick end; do for count in 10 100 1000; do \
	  valgrind --tool=callgrind --callgrind-out-file=/dev/null --toggle-collect="*Pool::$$what*" "$$bench" --only $$count 1000 2>&1 \
	    | awk -v what="$$what" -v count="$$count" '/Collected/ { printf "%s among %d endpoints: %d instructions\n", what, count, $$NF / 1000 }'; \
	done; done

.PHONY: bench-restart
bench-restart: needs ## restart the picker under load through a real Envoy: what clients lose, by how responses are followed
	cargo build --release --locked -p picker -p simulator
	envoy="$$(python3 tools/fetch.py envoy)"; \
	  $(TARGET)/release/pointsman-sim restart --envoy "$$envoy" --pointsman $(TARGET)/release/pointsman

.PHONY: bench-clocks
bench-clocks: needs ## the same requests in virtual and in real time: how far both agree
	cargo build --release --locked -p simulator
	$(TARGET)/release/pointsman-sim bench --clock both --out target/bench/two-clocks.json

.PHONY: bench-edge
bench-edge: needs ## CPU of ext_proc beside a server that only echoes: target/bench/edge.json
	cargo build --release --locked -p picker -p simulator
	$(TARGET)/release/pointsman-sim bench-edge --pointsman $(TARGET)/release/pointsman

.PHONY: bench-kubernetes
bench-kubernetes: needs ## 1,000 pools and 10,000 pods of a real API server: memory, idle CPU, from Ready to the first pick
	cargo build --release --locked -p picker
	cargo bench --profile dev --locked -p picker --bench kubernetes -- --pointsman $(TARGET)/release/pointsman

.PHONY: fmt
fmt: needs ## format the Rust sources
	cargo fmt --all

.PHONY: lint
lint: needs ## check the format and the lints, changing nothing
	cargo fmt --all --check
	cargo clippy --workspace --all-targets --locked -- -D warnings

.PHONY: generate
generate: needs ## write the CRDs' YAML from their Rust types
	cargo run --locked -p crds --bin crdgen

.PHONY: deny
deny: $(CARGO_DENY) ## licences, duplicates and sources of every dependency
	$(CARGO_DENY) --locked check bans licenses sources

.PHONY: advisories
advisories: $(CARGO_DENY) ## known vulnerabilities in the dependencies (needs github.com)
	$(CARGO_DENY) --locked check advisories

.PHONY: test-tools
test-tools: needs
	python3 -B -m unittest discover -s tools -p 'test_*.py'

$(CARGO_DENY): | needs
	cargo install --locked --root target/tools/cargo-deny-$(CARGO_DENY_VERSION) \
	  cargo-deny --version $(CARGO_DENY_VERSION)

.PHONY: needs
needs:
	@command -v cargo >/dev/null || { \
	  echo "error: cargo is missing. Install Rust with rustup (https://rustup.rs);"; \
	  echo "rust-toolchain.toml then picks the version by itself."; exit 1; } >&2
	@command -v python3 >/dev/null || { \
	  echo "error: python3 is missing. Install Python 3.8 or later (Debian, Ubuntu: apt-get install python3)."; \
	  exit 1; } >&2
