# Everything a developer, the build server or a newcomer runs. One profile (release), one target folder.
# From a fresh clone with Rust on the machine, `make test` and `make demo` prepare the rest themselves.

CARGO ?= cargo
TARGET := $(or $(CARGO_TARGET_DIR),target)
FALKIRK := $(TARGET)/release/falkirk
SHOP := $(TARGET)/shop_1_2.wasm
JS := $(TARGET)/shop_js.wasm
BENCH ?=
T ?=

.DEFAULT_GOAL := help
# The steps share one target folder and its lock: running them side by side gains nothing.
.NOTPARALLEL:

.PHONY: help
help: ## this list
	@sed -n 's/^\([a-z-]*\):[^#]*## /\1|/p' $(MAKEFILE_LIST) | awk -F'|' '{ printf "  make %-12s %s\n", $$1, $$2 }'

.PHONY: setup
setup: ## what is missing on this machine: the WebAssembly target, PostgreSQL
	@tests/setup/rust
	@tests/setup/postgres >/dev/null

.PHONY: build
build: ## the falkirk binary
	$(CARGO) build --release --workspace

.PHONY: transforms
transforms: build ## the shop's transform as a WebAssembly component
	$(FALKIRK) build transforms/shop -o $(SHOP)

.PHONY: demo
demo: setup transforms ## the whole story on two private servers
	FALKIRK_PG_BIN="$$(tests/setup/postgres)" $(FALKIRK) demo

.PHONY: test
test: setup transforms ## every test; T=name runs the ones whose name holds it
	FALKIRK_PG_BIN="$$(tests/setup/postgres)" $(CARGO) test --release --workspace $(T)

.PHONY: test-pg
test-pg: setup transforms ## the tests against servers, on another major version: make test-pg PG=14
	@test -n "$(PG)" || { echo "which PostgreSQL? make test-pg PG=14" >&2; exit 2; }
	FALKIRK_PG_BIN="$$(tests/setup/postgres $(PG))" $(CARGO) test --release --workspace $(T)

.PHONY: torture
torture: setup transforms ## the long tiers: the same tests with many more rounds
	FALKIRK_TORTURE=long FALKIRK_PG_BIN="$$(tests/setup/postgres)" \
		$(CARGO) test --release --workspace $(T) -- --nocapture

.PHONY: guest-js
guest-js: ## the guest in JavaScript, which `make bench` measures then; needs Node 20 and npm
	@mkdir -p $(TARGET)
	cd examples/guests/js && npm install --prefix . --no-save --no-package-lock @bytecodealliance/componentize-js@0.23.0
	node examples/guests/js/build.mjs $(JS)

.PHONY: bench
bench: setup transforms ## speed beside PostgreSQL's own replication; BENCH="--quick --only copy"
	@if [ -f $(JS) ]; then export FALKIRK_JS_GUEST="$${FALKIRK_JS_GUEST:-$(JS)}"; fi; \
	FALKIRK_PG_BIN="$$(tests/setup/postgres)" $(CARGO) run --release -p falkirk-tests --bin bench -- $(BENCH)

.PHONY: check
check: ## what must hold before a merge, without a server
	$(CARGO) fmt --all --check
	$(CARGO) clippy --release --workspace --all-targets -- -D warnings
	RUSTDOCFLAGS="-D warnings" $(CARGO) doc --release --workspace --no-deps
	$(CARGO) test --release -p falkirk --test tidy
	@if $(CARGO) deny --version >/dev/null 2>&1; then tests/setup/audit; \
	else echo "cargo-deny is not installed: \`make audit\` installs and runs it"; fi

.PHONY: audit
audit: ## licences, sources and known holes of all dependencies; installs cargo-deny (3 minutes)
	@tests/setup/audit

.PHONY: clean
clean: ## removes what was built
	$(CARGO) clean
