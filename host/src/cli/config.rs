//! `enginehouse config`: the settings in force.

use std::process::ExitCode;

use serde_json::{Map, Value};

use crate::cli::Global;
use crate::cli::exit::Done;
use crate::cli::house::House;
use crate::cli::view::table;
use crate::config;

#[derive(clap::Args)]
pub struct Args {
    /// Say which layer set each value
    #[arg(long)]
    origin: bool,
    /// Print the reference of all settings (Markdown) instead
    #[arg(long)]
    reference: bool,
}

pub fn run(global: &Global, args: &Args) -> Done {
    if args.reference {
        print!("{}", config::reference_markdown());
        return Ok(ExitCode::SUCCESS);
    }
    let house = House::open(global)?;
    let entries = house.loaded.entries();
    if global.json && args.origin {
        let all: Map<String, Value> = entries
            .into_iter()
            .map(|entry| (entry.key, serde_json::json!({ "value": entry.value, "origin": entry.origin })))
            .collect();
        println!("{}", Value::Object(all));
    } else if global.json {
        println!("{}", serde_json::to_string(house.config.as_ref())?);
    } else {
        let mut table = if args.origin { table(&["SETTING", "VALUE", "FROM"]) } else { table(&["SETTING", "VALUE"]) };
        for entry in entries {
            let mut row = vec![entry.key, entry.value.to_string()];
            if args.origin {
                row.push(entry.origin.to_string());
            }
            table.add_row(row);
        }
        println!("{table}");
    }
    Ok(ExitCode::SUCCESS)
}
