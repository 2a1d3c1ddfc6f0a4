# Two commands do everything on a fresh machine: `make demo` and `make test`. Both install what they need.
#
#   make demo    builds, then renders a travel video on this machine (no GPU needed)
#   make test    builds, then runs every test
#   make build   host at $(TARGET)/release/enginehouse, components at plugins/dist/NAME.wasm
#   make check   formatting and clippy, warnings are errors
#   make bench   reproduces the published figures

CARGO_TARGET_DIR ?= target
TARGET := $(CARGO_TARGET_DIR)
export CARGO_TARGET_DIR
HOST := $(TARGET)/release/enginehouse
# Everything that runs natively; components are built for wasm32-wasip2 by the host itself.
PLUGINS := -p extract_frame -p travel_orchestrator -p travel_segment -p travel_stitch
NATIVE := -p enginehouse -p enginehouse-sdk -p enginehouse-tests $(PLUGINS)

.PHONY: demo test build setup check bench clean

demo: build
	$(HOST) demo

test: build
	cargo test --release --locked --no-fail-fast $(NATIVE)

build: setup
	cargo build --release --locked -p enginehouse
	$(HOST) plugin build

setup:
	@./setup.sh

check: setup
	cargo fmt --all --check
	cargo clippy --release --locked --all-targets $(NATIVE) -- -D warnings
	cargo clippy --release --locked -p noop $(PLUGINS) --target wasm32-wasip2 -- -D warnings

bench: build
	$(HOST) bench dispatch
	$(HOST) bench render

clean:
	cargo clean
	rm -rf plugins/dist demo
