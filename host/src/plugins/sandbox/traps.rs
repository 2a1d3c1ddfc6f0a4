//! A guest that broke off, in words: what happened, where, and its own last words.

use wasmtime::{Trap, WasmBacktrace};
use wasmtime_wasi::I32Exit;

use crate::task::Failure;

/// Longest quotation of what a plugin said, in characters.
const QUOTED: usize = 400;

/// The failure of a task whose guest did not return. `stderr` is the end of what it wrote there.
pub(super) fn failure(error: &wasmtime::Error, plugin: &str, stderr: &str) -> Failure {
    let backtrace = error.downcast_ref::<WasmBacktrace>().map(|trace| readable(&trace.to_string())).unwrap_or_default();
    let evidence = [backtrace.trim_end(), stderr.trim_end()];
    let detail = match evidence {
        ["", ""] => None,
        [backtrace, ""] => Some(backtrace.to_string()),
        ["", stderr] => Some(format!("standard error:\n{stderr}")),
        [backtrace, stderr] => Some(format!("{backtrace}\nstandard error:\n{stderr}")),
    };
    // Stopped by the host, which has said why.
    if let Some(failure) = error.downcast_ref::<Failure>() {
        let mut failure = failure.clone();
        failure.detail = match (failure.detail, detail) {
            (Some(first), Some(second)) => Some(format!("{first}\n{second}")),
            (first, second) => first.or(second),
        };
        return failure;
    }
    let place = function(&backtrace).map_or_else(String::new, |name| format!(" in `{name}`"));
    let what = if let Some(exit) = error.downcast_ref::<I32Exit>() {
        format!("ended itself with exit status {}{place}", exit.0)
    } else if let Some(words) = panic(stderr) {
        format!("panicked{place}: {words}")
    } else if let Some(words) = exception(stderr) {
        format!("raised {words}")
    } else if let Some(trap) = error.downcast_ref::<Trap>() {
        format!("trapped{place}: {}", in_words(*trap))
    } else {
        let cause = error.root_cause().to_string();
        format!("broke off{place}: {}", cause.lines().next().unwrap_or("without a reason"))
    };
    let failure = Failure::internal("trap", format!("The plugin {plugin} {what}."));
    Failure { detail, ..failure }
}

fn in_words(trap: Trap) -> String {
    match trap {
        Trap::UnreachableCodeReached => "it reached code that must never be reached (abort or panic)".into(),
        Trap::StackOverflow => "its stack overflowed (endless recursion?)".into(),
        Trap::MemoryOutOfBounds => "it touched memory that it does not have".into(),
        other => {
            let text = other.to_string();
            text.strip_prefix("wasm trap: ").unwrap_or(&text).to_string()
        }
    }
}

/// The innermost function of the plugin itself: what lies above it is the machinery of panics and allocation.
fn function(backtrace: &str) -> Option<String> {
    const MACHINERY: [&str; 12] = [
        "core::",
        "std::",
        "alloc::",
        "dlmalloc::",
        "wasi::",
        "wasip2::",
        "rust_",
        "__",
        "abort",
        "_start",
        "panic",
        "exit",
    ];
    backtrace
        .lines()
        .filter_map(|line| line.split_once(" - ").map(|(_, frame)| frame))
        .map(|frame| frame.split_once('!').map_or(frame, |(_, name)| name).trim())
        .find(|name| {
            let inner = name.trim_start_matches('<');
            !inner.starts_with("wasm function") && !MACHINERY.iter().any(|prefix| inner.starts_with(prefix))
        })
        .map(|name| name.chars().take(120).collect())
}

/// A backtrace without what compilers add to names to tell them apart: `a[0123456789abcdef]::b` and
/// `a::b::h0123456789abcdef` are `a::b`.
fn readable(backtrace: &str) -> String {
    let lines = backtrace.lines().map(|line| without_hash(&without_brackets(line)).to_string());
    lines.collect::<Vec<_>>().join("\n")
}

fn without_brackets(line: &str) -> String {
    let mut plain = String::new();
    let mut rest = line;
    while let Some((before, after)) = rest.split_once('[') {
        plain.push_str(before);
        match after.split_once(']') {
            Some((hash, behind)) if is_hash(hash) => rest = behind,
            _ => {
                plain.push('[');
                rest = after;
            }
        }
    }
    plain + rest
}

fn without_hash(line: &str) -> &str {
    match line.rsplit_once("::h") {
        Some((rest, hash)) if is_hash(hash) => rest,
        _ => line,
    }
}

fn is_hash(text: &str) -> bool {
    (10..=16).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_hexdigit())
}

/// The message of a Rust panic: `thread '…' panicked at src/lib.rs:5:9:`, then the message.
fn panic(stderr: &str) -> Option<String> {
    let (_, after) = stderr.rsplit_once("panicked at ")?;
    let (place, message) = after.split_once('\n').unwrap_or((after, ""));
    let message = message.split("\nnote: ").next().unwrap_or_default().trim();
    let place = place.trim_end_matches(':');
    Some(if message.is_empty() { format!("at {place}") } else { format!("{} (at {place})", quoted(message)) })
}

/// The last line of a Python traceback: `ValueError: …`.
fn exception(stderr: &str) -> Option<String> {
    let (_, after) = stderr.rsplit_once("Traceback (most recent call last):")?;
    after.lines().rfind(|line| !line.trim().is_empty()).map(quoted)
}

fn quoted(text: &str) -> String {
    let text = text.trim().trim_end_matches('.');
    let mut short: String = text.chars().take(QUOTED).collect();
    if short.len() < text.len() {
        short.push('…');
    }
    short
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_message_of_a_panic_is_found() {
        let stderr = "warning\n\nthread '<unnamed>' (1) panicked at plugins/x/src/lib.rs:7:5:\nno clips: 0 of 2.\nnote: run \
                      with `RUST_BACKTRACE=1` environment variable to display a backtrace\n";
        assert_eq!(panic(stderr).unwrap(), "no clips: 0 of 2 (at plugins/x/src/lib.rs:7:5)");
        assert_eq!(panic("all is well"), None);
        let python = "Traceback (most recent call last):\n  File \"x.py\", line 1\nValueError: no clips\n";
        assert_eq!(exception(python).unwrap(), "ValueError: no clips");
    }

    #[test]
    fn the_function_named_is_the_plugins_own() {
        let backtrace = "error while executing at wasm backtrace:\n    0:  0x1 - x.wasm!__rust_start_panic\n    \
                         1:  0x2 - x.wasm!<core[0123456789abcdef]::panicking>::panic_fmt::h0123456789abcdef\n    \
                         2:  0x3 - x.wasm!stitch[f123456789abcde]::pick::<[u8]>\n    3:  0x4 - x.wasm!stitch::handle\n";
        let backtrace = readable(backtrace);
        assert!(backtrace.contains("!<core::panicking>::panic_fmt\n"), "{backtrace}");
        assert_eq!(function(&backtrace).unwrap(), "stitch::pick::<[u8]>");
        assert_eq!(function(""), None);
    }
}
