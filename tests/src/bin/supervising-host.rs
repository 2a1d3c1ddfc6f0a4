//! A host that does nothing but keep one scripted engine, for tests that kill hosts.
//!
//! `supervising-host FOLDER GUARD FAMILY SCRIPT` says `up` when it begins and `ready PID` each time the engine is ready, and
//! starts it anew whenever it ends.

use std::path::Path;

use anyhow::{Result, bail};
use enginehouse::clock::Clock;
use enginehouse::engines::supervisor::{Supervisor, leftovers};
use enginehouse_tests::scripted::{Scripted, options};
use tokio_util::sync::CancellationToken;

#[tokio::main]
async fn main() -> Result<()> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [folder, guard, family, script] = args.as_slice() else {
        bail!("usage: supervising-host FOLDER GUARD FAMILY SCRIPT")
    };
    println!("up");
    let folder = Path::new(folder);
    let options = options(folder, Path::new(guard), Clock::system());
    leftovers::end(&options.folder);
    let engine = Scripted { family: family.clone(), ..Scripted::new(folder, script) };
    let supervisor = Supervisor::new(engine, options);
    loop {
        let running = supervisor.ensure(&|_| {}, &CancellationToken::new()).await?;
        println!("ready {}", running.pid);
        running.gone().await;
    }
}
