//! A guest that does what it is told, above all what it must not: `{"do": "loop"}` in a task's params chooses. What it saw
//! is its result, as JSON text.

#![expect(clippy::indexing_slicing, clippy::panic, reason = "this guest exists to do what plugins must not")]

mod calls;
mod world;

use enginehouse_sdk::bindings::enginehouse::plugin::log;
use enginehouse_sdk::bindings::enginehouse::plugin::types::{
    Delegation, Failure, FailureClass, Outcome, Product, Task,
};
use enginehouse_sdk::bindings::exports::enginehouse::plugin::guest::Guest;
use serde_json::{Value, json};

/// How `describe` behaves; tests write another word into the built component.
static DESCRIBE: &[u8; 15] = b"describe:normal";

struct Offender;

impl Guest for Offender {
    fn describe() -> String {
        match std::hint::black_box(DESCRIBE) {
            b"describe:panics" => pick_clip(0),
            b"describe:loops " => endless(),
            b"describe:hogs  " => drop(allocate(None)),
            _ => {}
        }
        // Reaches for everything, to show that it gets nothing.
        json!({
            "name": "offender",
            "version": "1.0.0",
            "task_types": { "offender": {} },
            "capabilities": ["engines", "tasks", "artifacts", "media", "assist", "http", "secrets"],
            "seen": { "calls": calls::all(), "world": world::all() },
        })
        .to_string()
    }

    fn handle(task: Task) -> Result<Outcome, Failure> {
        let params: Value = serde_json::from_str(&task.params).unwrap_or_default();
        let text = |value: Value| Ok(Outcome::Text(value.to_string()));
        match params["do"].as_str().unwrap_or_default() {
            "nothing" => text(json!({ "task": task.id, "context": task.context })),
            "loop" => endless(),
            "allocate" => allocate(params["mb"].as_u64()),
            "print" => print(params["lines"].as_u64()),
            "say" => {
                println!("to standard output");
                eprint!("to standard error, without an end");
                log::write(log::Level::Warn, "to the log");
                text(json!("said"))
            }
            "panic" => pick_clip(params["clips"].as_u64().unwrap_or(0)),
            "abort" => std::process::abort(),
            "exit" => std::process::exit(3),
            "recurse" => text(json!(recurse(1))),
            "fail" => Err(Failure {
                class: FailureClass::InvalidInput,
                code: params["code"].as_str().unwrap_or_default().into(),
                message: "as I was told".into(),
                retry: true,
            }),
            "product" => Ok(Outcome::Product(Product {
                artifact: params["artifact"].as_str().unwrap_or_default().into(),
                name: params["name"].as_str().unwrap_or("result.bin").into(),
                facts: params["facts"].to_string(),
            })),
            "delegate" => {
                let facts = params["facts"].as_str().unwrap_or("{}").to_string();
                Ok(Outcome::Delegated(Delegation { output_from: Some("last".into()), facts }))
            }
            "world" => text(world::all()),
            "clock" => text(world::clock()),
            "random" => text(world::random()),
            "call_flood" => calls::flood(),
            "script" => text(calls::script(&params["calls"])),
            "work" => calls::work(&params),
            "all_calls" => text(calls::all()),
            other => Err(Failure {
                class: FailureClass::InvalidInput,
                code: "unknown_offence".into(),
                message: format!("`{other}` is nothing I do"),
                retry: false,
            }),
        }
    }
}

fn endless() -> ! {
    let mut n: u64 = 0;
    loop {
        n = std::hint::black_box(n.wrapping_add(1));
    }
}

fn allocate(mb: Option<u64>) -> Result<Outcome, Failure> {
    let mut kept: Vec<Vec<u8>> = Vec::new();
    while mb.is_none_or(|mb| (kept.len() as u64) < mb) {
        kept.push(std::hint::black_box(vec![1; 1 << 20]));
    }
    Ok(Outcome::Text(kept.len().to_string()))
}

fn print(lines: Option<u64>) -> Result<Outcome, Failure> {
    let mut n = 0;
    while lines.is_none_or(|lines| n < lines) {
        println!("line {n}, long enough to fill a log in a while, and another one after it, and one more");
        n += 1;
    }
    Ok(Outcome::Text(n.to_string()))
}

#[inline(never)]
fn pick_clip(clips: u64) -> ! {
    panic!("too few clips: {clips} of 2")
}

#[inline(never)]
fn recurse(n: u64) -> u64 {
    if std::hint::black_box(n) == 0 { 0 } else { recurse(n + 1) + std::hint::black_box(1) }
}

enginehouse_sdk::bindings::export!(Offender);
