//! Loading: four layers, the later ones stronger: built-in values, the settings file, the environment, flags. Each value
//! keeps its origin, so that a problem can name the line or the variable that caused it; all problems are reported at
//! once.

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};

use serde::{Serialize, Serializer};
use toml::Value;
use toml::de::{DeTable, DeValue};

use super::reference::{ACCEPTED, Kind, OUTSIDE, SETTINGS, Setting, variable};
use super::{Config, rules};
use crate::home::Home;
use crate::nearest::nearest;

/// How variables of the environment begin; two underscores separate the parts of a key.
pub const PREFIX: &str = "ENGINEHOUSE_";

/// In the keys of the table: the name of a plugin.
pub const NAME: &str = "NAME";

/// A settings file that was read.
#[derive(Clone, Copy, Debug)]
pub struct File<'a> {
    /// For messages.
    pub path: &'a Path,
    pub text: &'a str,
}

/// Where a value comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origin {
    Default,
    /// Lines count from 1.
    File {
        path: PathBuf,
        line: usize,
    },
    /// The variable.
    Environment(String),
    /// A `--set`.
    Flag,
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Origin::Default => f.write_str("default"),
            Origin::File { path, line } => write!(f, "{}:{line}", path.display()),
            Origin::Environment(variable) => f.write_str(variable),
            Origin::Flag => f.write_str("--set"),
        }
    }
}

impl Serialize for Origin {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.collect_str(self)
    }
}

/// The settings in force.
#[derive(Clone, Debug)]
pub struct Loaded {
    pub config: Config,
    /// By key: every key of the reference, and those of the plugins that were named.
    pub origins: BTreeMap<String, Origin>,
}

/// One effective value, for people.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Entry {
    pub key: String,
    /// Null: not set.
    pub value: serde_json::Value,
    pub origin: Origin,
}

impl Loaded {
    /// Every effective value in the order of the reference. Settings hold no secrets, only the names of variables and
    /// files that do.
    pub fn entries(&self) -> Vec<Entry> {
        let Ok(tree) = serde_json::to_value(&self.config) else { return Vec::new() };
        let mut entries = Vec::new();
        for setting in SETTINGS {
            collect(&tree, &mut Vec::new(), setting.key, &mut |key, value| {
                let origin = self.origins.get(&key).cloned().unwrap_or(Origin::Default);
                entries.push(Entry { key, value: value.clone(), origin });
            });
        }
        entries
    }
}

/// Follows the rest of a setting's key through the effective values; `NAME` stands for every member.
fn collect(
    value: &serde_json::Value,
    walked: &mut Vec<String>,
    rest: &str,
    found: &mut dyn FnMut(String, &serde_json::Value),
) {
    if rest.is_empty() {
        return found(walked.join("."), value);
    }
    let (part, rest) = rest.split_once('.').unwrap_or((rest, ""));
    let Some(members) = value.as_object() else { return };
    for (name, value) in members.iter().filter(|(name, _)| part == NAME || part == name.as_str()) {
        walked.push(name.clone());
        collect(value, walked, rest, found);
        walked.pop();
    }
}

/// Why settings cannot be used: every problem that was found, one a line.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{}", self.problems.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n"))]
pub struct ConfigError {
    pub problems: Vec<Problem>,
}

/// One thing that is wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// File and line, variable, or flag.
    pub place: String,
    /// What is wrong and what to do.
    pub message: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.place, self.message)
    }
}

impl Config {
    /// Puts the layers together. `env` may hold any variables, those of other programs are passed over; flags are
    /// (key, value). Values of both are read as TOML and, failing that, as text; lists may be written `a,b`.
    pub fn load(
        file: Option<File<'_>>,
        env: &BTreeMap<String, String>,
        flags: &[(String, String)],
    ) -> Result<Loaded, ConfigError> {
        let mut loading = Loading::default();
        if let Some(file) = file {
            loading.file(file);
        }
        loading.environment(env);
        for (key, value) in flags {
            loading.text(key.trim(), value, Origin::Flag);
        }
        loading.finish()
    }

    /// Loads the settings of a home; a home without a settings file has the built-in ones.
    pub fn of_home(
        home: &Home,
        env: &BTreeMap<String, String>,
        flags: &[(String, String)],
    ) -> Result<Loaded, ConfigError> {
        let path = home.config();
        match std::fs::read_to_string(&path) {
            Ok(text) => Self::load(Some(File { path: &path, text: &text }), env, flags),
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => Self::load(None, env, flags),
            Err(e) => {
                let message = format!("The settings file could not be read: {e}.");
                Err(ConfigError { problems: vec![Problem { place: path.display().to_string(), message }] })
            }
        }
    }
}

/// The variables of this process that settings may come from. Values that are no UTF-8 are passed over.
pub fn process_environment() -> BTreeMap<String, String> {
    std::env::vars_os()
        .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
        .collect()
}

#[derive(Default)]
struct Loading {
    tree: toml::Table,
    origins: BTreeMap<String, Origin>,
    problems: Vec<Problem>,
}

impl Loading {
    fn problem(&mut self, place: impl ToString, message: impl Into<String>) {
        self.problems.push(Problem { place: place.to_string(), message: message.into() });
    }

    fn file(&mut self, file: File<'_>) {
        let line = |offset: usize| 1 + file.text.bytes().take(offset).filter(|b| *b == b'\n').count();
        match (DeTable::parse(file.text), file.text.parse::<toml::Table>()) {
            (Ok(places), Ok(values)) => {
                let place = |path: &[String]| Origin::File {
                    path: file.path.to_path_buf(),
                    line: line(offset(places.get_ref(), path).unwrap_or(0)),
                };
                self.section(&mut Vec::new(), values, &place);
            }
            (Err(e), _) | (_, Err(e)) => {
                let line = line(e.span().map_or(0, |span| span.start));
                let place = format!("{}:{line}", file.path.display());
                self.problem(
                    place,
                    format!("The settings file is no valid TOML: {}.", e.message().trim_end_matches('.')),
                );
            }
        }
    }

    fn section(&mut self, path: &mut Vec<String>, table: toml::Table, place: &dyn Fn(&[String]) -> Origin) {
        for (name, value) in table {
            path.push(name);
            let key = path.join(".");
            match (find(path), value) {
                (Some(setting), value) => self.value(setting, path, value, place(path)),
                (None, Value::Table(table)) if is_section(path) => self.section(path, table, place),
                (None, _) if is_section(path) => {
                    self.problem(place(path), format!("`{key}` is a section: expected `[{key}]` and its keys."));
                }
                (None, _) => self.problem(place(path), unknown(&key, str::to_string)),
            }
            path.pop();
        }
    }

    fn environment(&mut self, env: &BTreeMap<String, String>) {
        for (name, key) in ACCEPTED {
            if let Some(value) = env.get(*name) {
                self.text(key, value, Origin::Environment((*name).to_string()));
            }
        }
        for (name, value) in env {
            let Some(key) = name.strip_prefix(PREFIX) else { continue };
            if OUTSIDE.iter().any(|(outside, _)| outside == name) {
                continue;
            }
            self.text(&key.to_lowercase().replace("__", "."), value, Origin::Environment(name.clone()));
        }
    }

    /// A value from the environment or a flag.
    fn text(&mut self, key: &str, text: &str, origin: Origin) {
        let path: Vec<String> = key.split('.').map(String::from).collect();
        match (find(&path), &origin) {
            (Some(setting), _) => self.value(setting, &path, from_text(setting.kind, text), origin),
            // What a plugin's settings are called is up to the plugin.
            (None, _) if inside_table(&path) => {
                let value = text.parse().unwrap_or_else(|_| Value::String(text.to_string()));
                self.put(&path, value, origin);
            }
            (None, Origin::Environment(_)) => {
                let message = unknown(key, variable);
                self.problem(origin, message);
            }
            (None, _) => {
                let message = unknown(key, str::to_string);
                self.problem(origin, message);
            }
        }
    }

    /// Checks a value of a known key and takes it in.
    fn value(&mut self, setting: &Setting, path: &[String], value: Value, origin: Origin) {
        let key = path.join(".");
        let value = plain(value);
        if !fits(setting.kind, &value) {
            let expected = setting.kind.expected(setting.unit);
            return self.problem(origin, format!("`{key}` is {}: expected {expected}.", shown(&value)));
        }
        if setting.kind == Kind::OptionalText && value.as_str() == Some("") {
            remove(&mut self.tree, path);
            self.origins.insert(key, origin);
            return;
        }
        // Alone, so that the struct's own complaint belongs to this place.
        let mut alone = toml::Table::new();
        insert(&mut alone, path, value.clone());
        match alone.try_into::<Config>() {
            Ok(_) => self.put(path, value, origin),
            Err(e) => self.problem(origin, format!("`{key}` cannot be used: {}.", e.message().trim_end_matches('.'))),
        }
    }

    fn put(&mut self, path: &[String], value: Value, origin: Origin) {
        insert(&mut self.tree, path, value);
        self.origins.insert(path.join("."), origin);
    }

    fn finish(mut self) -> Result<Loaded, ConfigError> {
        for setting in SETTINGS.iter().filter(|setting| !setting.is_per_plugin()) {
            self.origins.entry(setting.key.to_string()).or_insert(Origin::Default);
        }
        match std::mem::take(&mut self.tree).try_into::<Config>() {
            Ok(config) => {
                for broken in rules::broken(&config) {
                    // Of several values that do not go together, one that somebody set is the culprit.
                    let origin = |key: &String| self.origins.get(key).cloned().unwrap_or(Origin::Default);
                    let origins: Vec<Origin> = broken.keys.iter().map(origin).collect();
                    let culprit = origins.iter().find(|origin| **origin != Origin::Default).cloned();
                    self.problem(culprit.unwrap_or(Origin::Default), broken.message);
                }
                if self.problems.is_empty() {
                    return Ok(Loaded { config, origins: self.origins });
                }
            }
            Err(e) if self.problems.is_empty() => self.problem("settings", e.message()),
            Err(_) => {}
        }
        Err(ConfigError { problems: self.problems })
    }
}

/// Whether a key of the table, cut to the length of the path, matches it.
fn matches(pattern: &str, path: &[String], whole: bool) -> bool {
    let mut parts = pattern.split('.');
    path.iter().all(|name| parts.next().is_some_and(|part| part == name || (part == NAME && !name.is_empty())))
        && (!whole || parts.next().is_none())
}

fn find(path: &[String]) -> Option<&'static Setting> {
    SETTINGS.iter().find(|setting| matches(setting.key, path, true))
}

fn is_section(path: &[String]) -> bool {
    SETTINGS.iter().any(|setting| matches(setting.key, path, false))
}

/// A key below a table whose keys are the operator's: `plugins.settings.NAME.anything`.
fn inside_table(path: &[String]) -> bool {
    (1..path.len()).filter_map(|length| find(path.get(..length)?)).any(|setting| setting.kind == Kind::Table)
}

/// What to say of a key that no setting has. `spelled` writes a key the way this layer does.
fn unknown(key: &str, spelled: impl Fn(&str) -> String) -> String {
    let parts: Vec<&str> = key.split('.').collect();
    // Plugins' names stay as they were given.
    let known: Vec<String> = SETTINGS
        .iter()
        .flat_map(|setting| [setting.key, setting.section()])
        .filter(|known| !known.is_empty())
        .map(|known| {
            let part = |(i, part)| if part == NAME { parts.get(i).copied().unwrap_or(part) } else { part };
            known.split('.').enumerate().map(part).collect::<Vec<_>>().join(".")
        })
        .collect();
    let last = parts.last().copied().unwrap_or_default();
    let elsewhere = || known.iter().find(|known| known.rsplit('.').next() == Some(last)).map(String::as_str);
    let hint = nearest(key, known.iter().map(String::as_str)).or_else(elsewhere);
    let hint = hint.map_or_else(
        || " `enginehouse config` prints them all.".to_string(),
        |meant| format!(" Did you mean `{}`?", spelled(meant)),
    );
    format!("There is no setting `{key}`.{hint}")
}

fn fits(kind: Kind, value: &Value) -> bool {
    match kind {
        Kind::Choice(words) => value.as_str().is_some_and(|word| words.contains(&word)),
        Kind::Text => value.as_str().is_some_and(|text| !text.is_empty()),
        Kind::OptionalText => value.is_str(),
        Kind::Switch => value.is_bool(),
        Kind::Whole { at_least } => {
            value.as_integer().and_then(|number| u64::try_from(number).ok()).is_some_and(|number| number >= at_least)
        }
        Kind::Port => value.as_integer().is_some_and(|number| u16::try_from(number).is_ok()),
        Kind::Positive => {
            let number = value.as_float().or_else(|| value.as_integer().map(|number| number as f64));
            number.is_some_and(|number| number > 0.0 && number.is_finite())
        }
        Kind::List => value.as_array().is_some_and(|list| list.iter().all(Value::is_str)),
        Kind::Tables => value.as_array().is_some_and(|list| list.iter().all(Value::is_table)),
        Kind::Table => value.is_table(),
    }
}

fn from_text(kind: Kind, text: &str) -> Value {
    let parsed = text.trim().parse::<Value>().ok();
    match (kind, parsed) {
        // `7` is a fine name of a program: text stays text unless it is quoted.
        (Kind::Text | Kind::OptionalText | Kind::Choice(_), Some(Value::String(quoted))) => Value::String(quoted),
        (Kind::Text | Kind::OptionalText | Kind::Choice(_), _) => Value::String(text.to_string()),
        (Kind::List, Some(Value::Array(list))) => Value::Array(list),
        (Kind::List, Some(Value::String(quoted))) => Value::Array(vec![Value::String(quoted)]),
        (Kind::List, _) => {
            let items = text.split(',').map(str::trim).filter(|item| !item.is_empty());
            Value::Array(items.map(|item| Value::String(item.to_string())).collect())
        }
        (_, Some(value)) => value,
        (_, None) => Value::String(text.to_string()),
    }
}

/// Dates as text: JSON, which plugins get their settings as, has none.
fn plain(value: Value) -> Value {
    match value {
        Value::Datetime(date) => Value::String(date.to_string()),
        Value::Array(list) => Value::Array(list.into_iter().map(plain).collect()),
        Value::Table(table) => Value::Table(table.into_iter().map(|(key, value)| (key, plain(value))).collect()),
        other => other,
    }
}

fn shown(value: &Value) -> String {
    let text = value.to_string();
    let text: String =
        if text.chars().count() > 60 { text.chars().take(57).chain("…".chars()).collect() } else { text };
    format!("`{text}`")
}

fn insert(table: &mut toml::Table, path: &[String], value: Value) {
    match path {
        [] => {}
        [last] => {
            table.insert(last.clone(), value);
        }
        [first, rest @ ..] => {
            let inner = table.entry(first.clone()).or_insert_with(|| Value::Table(toml::Table::new()));
            if !inner.is_table() {
                *inner = Value::Table(toml::Table::new());
            }
            if let Some(inner) = inner.as_table_mut() {
                insert(inner, rest, value);
            }
        }
    }
}

fn remove(table: &mut toml::Table, path: &[String]) {
    match path {
        [] => {}
        [last] => {
            table.remove(last);
        }
        [first, rest @ ..] => {
            if let Some(inner) = table.get_mut(first).and_then(Value::as_table_mut) {
                remove(inner, rest);
            }
        }
    }
}

/// Where a key stands in the text of the settings file.
fn offset(table: &DeTable<'_>, path: &[String]) -> Option<usize> {
    let (first, rest) = path.split_first()?;
    let (key, value) = table.iter().find(|(key, _)| key.get_ref().as_ref() == first)?;
    let inner = match value.get_ref() {
        DeValue::Table(inner) => offset(inner, rest),
        _ => None,
    };
    inner.or(Some(key.span().start))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Mode;

    fn load(toml: &str, env: &[(&str, &str)], flags: &[(&str, &str)]) -> Result<Loaded, ConfigError> {
        let file = File { path: "enginehouse.toml".as_ref(), text: toml };
        let env = env.iter().map(|(k, v)| (k.to_string(), v.to_string())).collect();
        let flags: Vec<_> = flags.iter().map(|(k, v)| (k.to_string(), v.to_string())).collect();
        Config::load(Some(file), &env, &flags)
    }

    fn problem(toml: &str, env: &[(&str, &str)], flags: &[(&str, &str)]) -> String {
        load(toml, env, flags).unwrap_err().to_string()
    }

    #[test]
    fn later_layers_win_and_every_value_knows_its_origin() {
        let toml = "[worker]\nlease_seconds = 90\ndrain_seconds = 9\n\n[routing]\nrefuse = [\"a\"]\n";
        let env =
            [("ENGINEHOUSE_WORKER__LEASE_SECONDS", "100"), ("ENGINEHOUSE_ROUTING__MODE", "simple"), ("PATH", "x")];
        let loaded = load(toml, &env, &[("worker.lease_seconds", "110"), ("routing.refuse", "b, c")]).unwrap();
        assert_eq!(loaded.config.worker.lease_seconds, 110);
        assert_eq!(loaded.config.worker.drain_seconds, 9);
        assert_eq!(loaded.config.routing.mode, Mode::Simple);
        assert_eq!(loaded.config.routing.refuse, ["b", "c"]);
        let origin = |key: &str| loaded.origins[key].to_string();
        assert_eq!(origin("worker.lease_seconds"), "--set");
        assert_eq!(origin("worker.drain_seconds"), "enginehouse.toml:3");
        assert_eq!(origin("routing.mode"), "ENGINEHOUSE_ROUTING__MODE");
        assert_eq!(origin("worker.max_attempts"), "default");
        let entry = loaded.entries().into_iter().find(|entry| entry.key == "worker.drain_seconds").unwrap();
        assert_eq!((entry.value, entry.origin.to_string().as_str()), (9.into(), "enginehouse.toml:3"));
    }

    #[test]
    fn an_unknown_key_is_an_error_with_its_place_and_the_nearest_known_one() {
        let text = problem("[worker]\n\nleese_seconds = 1\n", &[], &[]);
        assert!(text.starts_with("enginehouse.toml:3: There is no setting `worker.leese_seconds`."), "{text}");
        assert!(text.ends_with("Did you mean `worker.lease_seconds`?"), "{text}");
        let text = problem("[workers]\nlease_seconds = 1\n", &[], &[]);
        assert!(text.contains(":1: ") && text.contains("`worker`?"), "{text}");
        let text = problem("lease_seconds = 1\n", &[], &[]);
        assert!(text.contains("Did you mean `worker.lease_seconds`?"), "{text}");
        let text = problem("", &[("ENGINEHOUSE_WORKER__LEASE_SECOND", "1")], &[]);
        assert!(text.starts_with("ENGINEHOUSE_WORKER__LEASE_SECOND: "), "{text}");
        assert!(text.contains("`ENGINEHOUSE_WORKER__LEASE_SECONDS`"), "{text}");
        let text = problem("", &[], &[("media.ffmpg", "x")]);
        assert!(text.starts_with("--set: ") && text.contains("`media.ffmpeg`"), "{text}");
        let text = problem("[plugins.grants.magic_edit]\nadresses = []\n", &[], &[]);
        assert!(text.contains(":2: ") && text.contains("`plugins.grants.magic_edit.addresses`"), "{text}");
    }

    #[test]
    fn a_wrong_type_says_what_is_expected() {
        let text = problem("[worker]\nlease_seconds = \"long\"\n", &[], &[]);
        assert_eq!(
            text,
            "enginehouse.toml:2: `worker.lease_seconds` is `\"long\"`: expected a whole number of seconds, at least 1."
        );
        for (toml, expected) in [
            ("[worker]\nlease_seconds = 0\n", "at least 1"),
            ("[worker]\nlease_seconds = -3\n", "at least 1"),
            ("[worker]\nmax_attempts = 5000000000\n", "cannot be used"),
            ("[routing]\nmode = \"fast\"\n", "one of hybrid, simple"),
            ("[routing]\nrefuse = \"a\"\n", "a list of texts"),
            ("[engines]\nanimatic = 1\n", "true or false"),
            ("[plugins.limits]\ncpu_seconds = 0\n", "above 0"),
            ("worker = 3\n", "is a section"),
            ("[media]\nffmpeg = \"\"\n", "expected text"),
            ("[worker\n", "no valid TOML"),
        ] {
            let text = problem(toml, &[], &[]);
            assert!(text.contains(expected), "{toml}: {text}");
        }
    }

    #[test]
    fn all_problems_are_reported_at_once() {
        let error = load("[worker]\nlease_seconds = 0\n[media]\nx = 1\n", &[("ENGINEHOUSE_A", "1")], &[]).unwrap_err();
        assert_eq!(error.problems.len(), 3);
    }

    #[test]
    fn values_of_the_environment_are_read_as_what_the_setting_takes() {
        let env = [
            ("ENGINEHOUSE_MEDIA__FFMPEG", "7"),
            ("ENGINEHOUSE_ENGINES__ANIMATIC", "false"),
            ("ENGINEHOUSE_PLUGINS__LIMITS__CPU_SECONDS", "2"),
            ("ENGINEHOUSE_INPUTS__ROOTS", "[\"a,b\", \"c\"]"),
            ("ENGINEHOUSE_ROUTING__REFUSE", ""),
            ("ENGINEHOUSE_PLUGINS__GRANTS__MAGIC_EDIT__ADDRESSES", "127.0.0.1,[::1]:80"),
            ("ENGINEHOUSE_PLUGINS__SETTINGS__MAGIC_EDIT__MODEL", "edit-1"),
        ];
        let config = load("", &env, &[]).unwrap().config;
        assert_eq!(config.media.ffmpeg, "7");
        assert!(!config.engines.animatic);
        assert_eq!(config.plugins.limits.cpu_seconds, 2.0);
        assert_eq!(config.inputs.roots, ["a,b", "c"]);
        assert!(config.routing.refuse.is_empty());
        assert_eq!(config.plugins.grants["magic_edit"].addresses, ["127.0.0.1", "[::1]:80"]);
        assert_eq!(config.plugins.settings["magic_edit"]["model"], "edit-1");
    }

    #[test]
    fn variables_that_are_no_settings_are_passed_over_and_comfy_path_is_accepted() {
        let env = [("ENGINEHOUSE_HOME", "/h"), ("ENGINEHOUSE_GOLDEN", "/g"), ("COMFY_PATH", "/opt/comfy")];
        let loaded = load("[engines.comfyui]\nroot = \"/other\"\n", &env, &[]).unwrap();
        assert_eq!(loaded.config.engines.comfyui.root.as_deref(), Some("/opt/comfy"));
        assert_eq!(loaded.origins["engines.comfyui.root"].to_string(), "COMFY_PATH");
        let env = [("COMFY_PATH", "/opt/comfy"), ("ENGINEHOUSE_ENGINES__COMFYUI__ROOT", "")];
        let loaded = load("[engines.comfyui]\nroot = \"/other\"\n", &env, &[]).unwrap();
        assert_eq!(loaded.config.engines.comfyui.root, None, "empty text takes a value away");
    }

    #[test]
    fn values_that_contradict_each_other_are_refused() {
        let text = problem("[worker]\nlease_seconds = 10\n", &[], &[]);
        assert!(text.starts_with("enginehouse.toml:2: ") && text.contains("`worker.renew_seconds` (15)"), "{text}");
        let grants = "[plugins.grants.x]\n";
        for (line, expected) in [
            ("capabilities = [\"htpp\"]", "Did you mean `http`?"),
            ("addresses = [\"localhost\"]", "`localhost` is no address"),
            ("http = [{host = \"a.example\", path = \"v1\"}]", "begins with `/`"),
            ("http = [{path = \"/v1\"}]", "missing field `host`"),
            ("http = [{host = \"*.example\"}]", "exact name"),
            ("secrets = {key = {hosts = [\"a.example\"]}}", "`env` or `file`"),
            ("secrets = {key = {env = \"A\", hosts = []}}", "no `hosts`"),
            ("secrets = {key = {env = \"A\", hosts = [\"a\"], x = 1}}", "unknown field `x`"),
        ] {
            let text = problem(&format!("{grants}{line}\n"), &[], &[]);
            assert!(text.starts_with("enginehouse.toml:2: ") && text.contains(expected), "{line}: {text}");
        }
    }

    #[test]
    fn a_home_without_a_file_has_the_built_in_settings() {
        let folder = tempfile::tempdir().unwrap();
        let home = Home::new(folder.path());
        assert_eq!(Config::of_home(&home, &BTreeMap::new(), &[]).unwrap().config, Config::default());
        std::fs::write(home.config(), "[worker]\nx = 1\n").unwrap();
        let error = Config::of_home(&home, &BTreeMap::new(), &[]).unwrap_err();
        assert!(error.problems[0].place.ends_with("enginehouse.toml:2"), "{error}");
    }
}
