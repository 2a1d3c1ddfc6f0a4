//! `enginehouse engines …`: the processes that engines run in, and what they print. Works with and without a running worker:
//! what is shown is what the worker recorded.

use std::io::{Read as _, Seek as _, SeekFrom};
use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context as _, anyhow};
use serde_json::{Value, json};

use crate::cli::Global;
use crate::cli::exit::{self, Done, Stop};
use crate::cli::house::House;
use crate::cli::view::table;
use crate::clock::Timestamp;
use crate::engines::supervisor::{Record, State, log_path, read_log};
use crate::nearest::nearest;
use crate::store::holder;
use crate::task::EngineKind;

/// How often `--follow` looks for more.
const LOOK_EVERY: Duration = Duration::from_millis(200);

#[derive(clap::Subcommand)]
pub enum Command {
    /// Which engines there are, whether they run, what went wrong last
    Ls,
    /// What an engine printed
    Logs {
        /// comfyui or wan2gp
        name: String,
        /// How many lines, the last ones
        #[arg(short = 'n', long, default_value_t = 100)]
        lines: usize,
        /// Go on until interrupted
        #[arg(short, long)]
        follow: bool,
    },
}

/// One engine as it is shown.
struct Row {
    kind: EngineKind,
    state: String,
    /// Why it is in this state, and what to do.
    reason: Option<String>,
    record: Option<Record>,
}

pub async fn run(global: &Global, command: Command) -> Done {
    let house = House::open(global)?;
    match command {
        Command::Ls => ls(global, &house),
        Command::Logs { name, lines, follow } => logs(global, &house, &name, lines, follow).await,
    }
}

fn ls(global: &Global, house: &House) -> Done {
    let rows = [EngineKind::Comfyui, EngineKind::Wan2gp]
        .into_iter()
        .map(|kind| row(house, kind))
        .collect::<Result<Vec<Row>, Stop>>()?;
    if global.json {
        println!("{}", json!({ "engines": rows.iter().map(Row::json).collect::<Vec<_>>() }));
        return Ok(ExitCode::SUCCESS);
    }
    let mut table = table(&["ENGINE", "STATE", "PID", "SINCE", "STARTS", "REASON", "LAST ERROR"]);
    for row in &rows {
        table.add_row([
            row.kind.to_string(),
            row.state.clone(),
            row.pid().map_or("-".into(), |pid| pid.to_string()),
            row.since().map_or("-".into(), |since| since.to_string()),
            row.record.as_ref().map_or("-".into(), |record| record.status.starts.to_string()),
            row.reason.clone().unwrap_or_default(),
            row.last_error().unwrap_or_default(),
        ]);
    }
    println!("{table}");
    Ok(ExitCode::SUCCESS)
}

impl Row {
    fn json(&self) -> Value {
        let status = self.record.as_ref().map(|record| &record.status);
        json!({
            "engine": self.kind,
            "state": self.state,
            "reason": self.reason,
            "pid": self.pid(),
            "since": self.since(),
            "starts": status.map_or(0, |status| status.starts),
            "restarts": status.map_or(0, |status| status.restarts),
            "last_exit": status.and_then(|status| status.last_exit.as_ref()),
            "last_error": status.and_then(|status| status.last_error.as_ref()),
        })
    }

    fn pid(&self) -> Option<u32> {
        let record = self.record.as_ref().filter(|record| !is_past(record))?;
        record.engine.map(|engine| engine.pid)
    }

    fn since(&self) -> Option<Timestamp> {
        let record = self.record.as_ref().filter(|record| !is_past(record))?;
        match record.status.state {
            State::Starting { since } | State::Ready { since, .. } | State::Stopping { since } => Some(since),
            _ => None,
        }
    }

    fn last_error(&self) -> Option<String> {
        let error = self.record.as_ref()?.status.last_error.as_ref()?;
        Some(format!("{} {}", error.at, error.words))
    }
}

/// What is recorded is of a worker that has ended: its engines have ended with it.
fn is_past(record: &Record) -> bool {
    holder::is_gone(&record.host, &holder::this_process())
}

fn row(house: &House, kind: EngineKind) -> Result<Row, Stop> {
    let folder = house.home.engines();
    let record = Record::read(&folder, kind.as_str())
        .with_context(|| format!("cannot read {}", Record::path(&folder, kind.as_str()).display()))?;
    let engines = &house.config.engines;
    let (root, setting) = match kind {
        EngineKind::Comfyui => (&engines.comfyui.root, "engines.comfyui.root"),
        EngineKind::Wan2gp => (&engines.wan2gp.root, "engines.wan2gp.root"),
    };
    let url = engines.comfyui.url.as_ref().filter(|_| kind == EngineKind::Comfyui);
    let when_needed = || ("stopped".to_string(), Some("it is started when it is needed".to_string()));
    let (state, reason) = match record.as_ref().filter(|record| !is_past(record)).map(|record| &record.status.state) {
        Some(State::BackingOff { until, why } | State::Unavailable { until, why }) if *until <= house.clock.now() => {
            ("stopped".into(), Some(format!("{why}; it is started again when it is needed")))
        }
        Some(state @ (State::BackingOff { until, why } | State::Unavailable { until, why })) => {
            (state.word().into(), Some(format!("{why}; next start at {until}")))
        }
        Some(State::Stopped) => when_needed(),
        Some(state) => (state.word().into(), None),
        _ if url.is_some() => {
            let reason =
                url.map(|url| format!("somebody else runs it at {url}; this host neither starts nor stops it"));
            ("elsewhere".into(), reason)
        }
        None if root.is_none() && engines.animatic => {
            let reason =
                format!("no {kind} is configured, so the stand-in serves its jobs; set {setting} for a real one");
            ("animatic".into(), Some(reason))
        }
        None if root.is_none() => {
            ("not configured".into(), Some(format!("set {setting} to the folder of a {kind} checkout")))
        }
        None => when_needed(),
    };
    Ok(Row { kind, state, reason, record })
}

async fn logs(global: &Global, house: &House, name: &str, lines: usize, follow: bool) -> Done {
    let known = [EngineKind::Comfyui, EngineKind::Wan2gp].map(EngineKind::as_str);
    if !known.contains(&name) {
        let meant = nearest(name, known).map_or(String::new(), |word| format!("; did you mean `{word}`?"));
        return Err(Stop::new(
            exit::USAGE,
            anyhow!("there is no engine `{name}`: expected {}{meant}", known.join(" or ")),
        ));
    }
    let folder = house.home.engines();
    let path = log_path(&folder, name);
    // Before the lines are read: what comes in between is shown twice rather than not at all.
    let mut end = std::fs::metadata(&path).map_or(0, |found| found.len());
    let found = read_log(&folder, name, lines).with_context(|| format!("cannot read {}", path.display()))?;
    if found.is_empty() && !follow {
        eprintln!("{name} has printed nothing yet: there is no {}", path.display());
    }
    found.iter().for_each(|line| show(global, line));
    if !follow {
        return Ok(ExitCode::SUCCESS);
    }
    let mut rest = String::new();
    loop {
        tokio::time::sleep(LOOK_EVERY).await;
        rest.push_str(&more(&path, &mut end).with_context(|| format!("cannot read {}", path.display()))?);
        while let Some((line, after)) = rest.split_once('\n') {
            show(global, line);
            rest = after.to_string();
        }
    }
}

fn show(global: &Global, line: &str) {
    match line.split_once(' ') {
        Some((at, text)) if global.json => println!("{}", json!({ "at": at, "line": text })),
        _ => println!("{line}"),
    }
}

/// What has been written since. A file that is shorter than before is a new one.
fn more(path: &Path, end: &mut u64) -> std::io::Result<String> {
    let mut file = match std::fs::File::open(path) {
        Ok(file) => file,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(String::new()),
        Err(e) => return Err(e),
    };
    if file.metadata()?.len() < *end {
        *end = 0;
    }
    file.seek(SeekFrom::Start(*end))?;
    let mut bytes = Vec::new();
    file.read_to_end(&mut bytes)?;
    *end = end.saturating_add(u64::try_from(bytes.len()).unwrap_or(0));
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}
