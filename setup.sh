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
    # Through env: sudo does not hand on what stands in front of it.
    $sudo apt-get update -q >&2 &&
      $sudo env DEBIAN_FRONTEND=noninteractive apt-get install -y -q --no-install-recommends "$2" >&2
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
# Some distributions (Fedora's ffmpeg-free) leave out the encoder that every video is written with.
encoders=$(ffmpeg -hide_banner -encoders 2>/dev/null || true)
if [[ $encoders != *libx264* ]]; then
  say "this ffmpeg has no libx264: install one that has (Fedora: enable RPM Fusion, then dnf swap ffmpeg-free ffmpeg --allowerasing) and run make again"
  exit 1
fi

# Asks the network only when something is missing. Answers are read whole before they are searched: a search that stops at
# its first hit would break the pipe of the program it reads from, and that counts as a failure.
channel=$(sed -n 's/^channel *= *"\(.*\)"/\1/p' rust-toolchain.toml)
toolchains=$(rustup toolchain list)
if ! grep -q "^$channel" <<<"$toolchains"; then
  say "installing Rust $channel"
  rustup toolchain install "$channel" --profile minimal >&2
fi
targets=$(rustup target list --toolchain "$channel" --installed)
if ! grep -qx wasm32-wasip2 <<<"$targets"; then
  say "installing the target wasm32-wasip2"
  rustup target add --toolchain "$channel" wasm32-wasip2 >&2
fi
components=$(rustup component list --toolchain "$channel" --installed)
for component in clippy rustfmt; do
  grep -q "^$component" <<<"$components" ||
    rustup component add --toolchain "$channel" "$component" >&2
done
