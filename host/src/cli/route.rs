//! `enginehouse route TYPE` and `route --all`: which handler serves a task type, and why.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context as _, anyhow};
use serde_json::{Map, Value, json};

use crate::cli::Global;
use crate::cli::exit::{self, Done, Stop};
use crate::cli::house::House;
use crate::cli::view::table;
use crate::router;
use crate::task::{Handler, Route};

#[derive(clap::Args)]
pub struct Args {
    /// Task type
    #[arg(required_unless_present = "all")]
    task_type: Option<String>,
    /// Params of the task, a JSON object: some decide the route (`engine`)
    #[arg(long, value_name = "PARAMS.json")]
    params: Option<PathBuf>,
    /// Every known task type
    #[arg(long, conflicts_with_all = ["task_type", "params"])]
    all: bool,
}

pub async fn run(global: &Global, args: &Args) -> Done {
    let house = House::open(global)?;
    let offers = house.offers().await?;
    let decide =
        |task_type: &str, params: &Map<String, Value>| router::route(task_type, params, &offers, &house.config.routing);
    if let Some(task_type) = &args.task_type {
        let route = decide(task_type, &params(args)?);
        if global.json {
            println!("{}", serde_json::to_string(&route)?);
        } else {
            println!("{}", name(&route.handler));
            println!("{}", route.reason);
            if let Some(fallback) = &route.if_retired {
                println!("retired, it would go to {}: {}", name(&fallback.handler), fallback.reason);
            }
        }
        return Ok(ExitCode::SUCCESS);
    }
    let mut types: Vec<String> = router::known_types().iter().map(|known| known.name.to_string()).collect();
    let offered = offers.plugins.keys().chain(offers.comfyui_templates.keys());
    for extra in offered.chain(&house.config.routing.comfy_task_types) {
        if !types.contains(extra) {
            types.push(extra.clone());
        }
    }
    let routes: Vec<Route> = types.iter().map(|t| decide(t, &Map::new())).collect();
    if global.json {
        println!("{}", json!({ "routes": routes }));
        return Ok(ExitCode::SUCCESS);
    }
    let mut table = table(&["TYPE", "HANDLER", "IF RETIRED"]);
    for route in routes {
        let retired = route.if_retired.map(|f| name(&f.handler)).unwrap_or_default();
        table.add_row([route.task_type, name(&route.handler), retired]);
    }
    println!("{table}");
    Ok(ExitCode::SUCCESS)
}

fn name(handler: &Handler) -> String {
    match handler {
        Handler::Plugin { name, version, digest } => format!("plugin {name} {version} ({})", digest.short()),
        Handler::Comfyui { name: Some(name) } => format!("comfyui, template {name}"),
        Handler::Wan2gp { name: Some(name) } => format!("wan2gp, preset {name}"),
        other => other.kind().to_string(),
    }
}

fn params(args: &Args) -> Result<Map<String, Value>, Stop> {
    let Some(path) = &args.params else { return Ok(Map::new()) };
    let text = std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
    match serde_json::from_str(&text) {
        Ok(Value::Object(map)) => Ok(map),
        _ => Err(Stop::new(exit::USAGE, anyhow!("{}: expected a JSON object", path.display()))),
    }
}
