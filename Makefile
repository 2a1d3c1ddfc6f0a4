# Two commands do everything on a fresh machine: `make demo` and `make test`. Both install what they need.
#
#   make demo    builds, then renders a travel video on this machine (no GPU needed)
#   make test    builds, then runs every test (with COMFYUI_ROOT set: those against a real ComfyUI, too)
#   make build   host at $(TARGET)/release/enginehouse, components at plugins/dist/NAME.wasm
#   make test-real   holds the host against a real engine: COMFYUI_ROOT (and COMFYUI_PYTHON) name a checkout
#   make check   formatting and clippy, warnings are errors
#   make bench   reproduces the published figures

CARGO_TARGET_DIR ?= target
TARGET := $(CARGO_TARGET_DIR)
export CARGO_TARGET_DIR
HOST := $(TARGET)/release/enginehouse
# Everything that runs natively; components are built for wasm32-wasip2 by the host itself.
PLUGINS := -p extract_frame -p travel_orchestrator -p travel_segment -p travel_stitch
NATIVE := -p enginehouse -p enginehouse-sdk -p enginehouse-tests $(PLUGINS)

.PHONY: demo test test-real build setup check bench clean

demo: build
	$(HOST) demo

test: build
	cargo test --release --locked --no-fail-fast $(NATIVE) $(if $(COMFYUI_ROOT),-- --include-ignored)

test-real: build
	@test -n "$(COMFYUI_ROOT)" || { echo "make test-real needs COMFYUI_ROOT (a ComfyUI checkout) and COMFYUI_PYTHON"; exit 2; }
	cargo test --release --locked $(NATIVE) --test comfyui -- --ignored --nocapture a_real_server_keeps_the_contract

build: setup
	cargo build --release --locked $(NATIVE) --bin enginehouse
	$(HOST) plugin build

setup:
	@./setup.sh

check: setup
	cargo fmt --all --check
	cargo clippy --release --locked --all-targets $(NATIVE) -- -D warnings
	cargo clippy --release --locked -p noop $(PLUGINS) --target wasm32-wasip2 -- -D warnings

bench: build
	cargo build --release --locked $(NATIVE) --bin comfyui-standin
	$(HOST) bench comfyui
	$(HOST) bench dispatch
	$(HOST) bench render

clean:
	cargo clean
	rm -rf plugins/dist demo
