#!/usr/bin/env bash
# Installs what building and testing need and this machine lacks: the Rust toolchain of rust-toolchain.toml with its
# WebAssembly target, a C compiler and ffmpeg. What is there already is left alone; nothing is asked.
set -euo pipefail
cd "$(dirname "$0")"

say() { printf 'setup: %s\n' "$*" >&2; }

# One package, under the names that the package managers give it.
install() { # what debian fedora arch brew
  local sudo=""
  [ "$(id -u)" = 0 ] || sudo="sudo"
  if command -v apt-get >/dev/null; then
    say "installing $1: $sudo apt-get install -y $2"
    $sudo apt-get update -q >&2 && $sudo apt-get install -y -q --no-install-recommends "$2" >&2
  elif command -v dnf >/dev/null; then
    say "installing $1: $sudo dnf install -y $3"
    $sudo dnf install -y -q "$3" >&2
  elif command -v pacman >/dev/null; then
    say "installing $1: $sudo pacman -S --noconfirm $4"
    $sudo pacman -S --noconfirm --needed "$4" >&2
  elif command -v brew >/dev/null; then
    say "installing $1: brew install $5"
    brew install "$5" >&2
  else
    say "$1 is missing and no package manager was found; install it and run make again"
    exit 1
  fi
}

if ! command -v rustup >/dev/null; then
  say "rustup is missing: see https://rustup.rs, then run make again"
  exit 1
fi
command -v cc >/dev/null || install "a C compiler" build-essential gcc base-devel gcc
{ command -v ffmpeg && command -v ffprobe; } >/dev/null || install ffmpeg ffmpeg ffmpeg-free ffmpeg ffmpeg

# Asks the network only when something is missing.
channel=$(sed -n 's/^channel *= *"\(.*\)"/\1/p' rust-toolchain.toml)
if ! rustup toolchain list | grep -q "^$channel"; then
  say "installing Rust $channel"
  rustup toolchain install "$channel" --profile minimal >&2
fi
if ! rustup target list --toolchain "$channel" --installed | grep -qx wasm32-wasip2; then
  say "installing the target wasm32-wasip2"
  rustup target add --toolchain "$channel" wasm32-wasip2 >&2
fi
for component in clippy rustfmt; do
  rustup component list --toolchain "$channel" --installed | grep -q "^$component" ||
    rustup component add --toolchain "$channel" "$component" >&2
done
