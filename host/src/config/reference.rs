//! Every setting in one table: key, kind, unit, default, meaning. Loading is checked against it; the reference and the
//! file that `init` writes are made from it; a test holds it against the structs.

use std::fmt::Write as _;

/// One setting.
#[derive(Clone, Copy, Debug)]
pub struct Setting {
    /// Dotted. A part spelled `NAME` stands for the name of a plugin.
    pub key: &'static str,
    pub kind: Kind,
    /// What the number counts; empty for settings that are no amount.
    pub unit: &'static str,
    /// As TOML; empty: not set.
    pub default: &'static str,
    /// Whole sentences.
    pub doc: &'static str,
}

/// What a setting takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// One of these words.
    Choice(&'static [&'static str]),
    Text,
    /// Text; empty text is the same as not set.
    OptionalText,
    /// `true` or `false`.
    Switch,
    /// A whole number, at least so large.
    Whole {
        at_least: u64,
    },
    /// A TCP port; 0: any free one.
    Port,
    /// A number above zero.
    Positive,
    /// A list of texts.
    List,
    /// A list of tables with keys of their own, which the doc names.
    Tables,
    /// A table whose keys the operator chooses.
    Table,
}

impl Kind {
    /// What is expected, in words that follow "expected".
    pub fn expected(self, unit: &str) -> String {
        match self {
            Kind::Choice(words) => format!("one of {}", words.join(", ")),
            Kind::Text | Kind::OptionalText => "text".to_string(),
            Kind::Switch => "true or false".to_string(),
            Kind::Whole { at_least } if unit.is_empty() => format!("a whole number of at least {at_least}"),
            Kind::Whole { at_least } => format!("a whole number of {unit}, at least {at_least}"),
            Kind::Port => "a port, 0 to 65535".to_string(),
            Kind::Positive => format!("a number of {unit} above 0"),
            Kind::List => "a list of texts".to_string(),
            Kind::Tables => "a list of tables".to_string(),
            Kind::Table => "a table".to_string(),
        }
    }
}

/// Variables that begin with `ENGINEHOUSE_` and are no settings, with what they are for.
pub static OUTSIDE: &[(&str, &str)] = &[
    ("ENGINEHOUSE_HOME", "The home folder when `--home` is not given."),
    ("ENGINEHOUSE_GOLDEN", "Where the golden test suite finds its cases."),
];

/// Variables of other programs that set a value here: the variable, the setting.
pub static ACCEPTED: &[(&str, &str)] =
    &[("COMFY_PATH", "engines.comfyui.root"), ("COMFY_PORT", "engines.comfyui.port")];

const fn setting(
    key: &'static str,
    kind: Kind,
    unit: &'static str,
    default: &'static str,
    doc: &'static str,
) -> Setting {
    Setting { key, kind, unit, default, doc }
}

const fn whole(
    key: &'static str,
    at_least: u64,
    unit: &'static str,
    default: &'static str,
    doc: &'static str,
) -> Setting {
    setting(key, Kind::Whole { at_least }, unit, default, doc)
}

/// All of them, in the order of the settings file.
pub static SETTINGS: &[Setting] = &[
    setting(
        "routing.mode",
        Kind::Choice(&["hybrid", "simple"]),
        "",
        "\"hybrid\"",
        "`hybrid`: plugins serve their types, everything else goes to the engines. `simple`: every type goes to one of \
         the two engines, whatever lies in the plugins folder.",
    ),
    setting("routing.comfy_task_types", Kind::List, "", "[\"comfy\"]", "Task types that ComfyUI serves."),
    setting("routing.refuse", Kind::List, "", "[]", "Task types that this host must not take."),
    whole("worker.lease_seconds", 1, "seconds", "60", "A claim that is not renewed for so long is free for others."),
    whole("worker.renew_seconds", 1, "seconds", "15", "Claims are renewed so often; shorter than the lease."),
    whole("worker.max_attempts", 1, "attempts", "3", "Attempts of a task whose failures are worth a new one."),
    whole(
        "worker.drain_seconds",
        0,
        "seconds",
        "25",
        "How long SIGTERM waits for running tasks before it gives them back.",
    ),
    whole(
        "worker.stop_grace_seconds",
        1,
        "seconds",
        "60",
        "How long work that was told to stop (its task was cancelled, or the worker stops) may take before it is left \
         to itself.",
    ),
    whole(
        "worker.direct_tasks",
        1,
        "tasks",
        "2",
        "Tasks without a plugin that are held at once: one has the engine, the others are prepared meanwhile.",
    ),
    whole(
        "worker.max_live_instances",
        1,
        "handlers",
        "500",
        "Handlers that may be alive at once, waiting ones included.",
    ),
    whole(
        "worker.quarantine_after_deaths",
        0,
        "deaths",
        "2",
        "Consecutive deaths of the host without a new result after which a task is set aside; 0: never.",
    ),
    whole(
        "store.busy_timeout_seconds",
        1,
        "seconds",
        "10",
        "How long an operation waits for another process that is writing to the store.",
    ),
    whole("store.readers", 1, "connections", "4", "Connections to the store that only read."),
    setting(
        "engines.animatic",
        Kind::Switch,
        "",
        "true",
        "The stand-in that needs no GPU serves an engine that is not configured. Off: such tasks fail as unavailable.",
    ),
    whole("engines.job_limit_seconds", 1, "seconds", "3600", "Longest running time of one engine job."),
    whole(
        "engines.cancel_grace_seconds",
        1,
        "seconds",
        "90",
        "How long an engine may take to stop a job that was cancelled or ran too long before it is left and the next \
         job begins.",
    ),
    setting(
        "engines.comfyui.root",
        Kind::OptionalText,
        "",
        "",
        "Folder of the ComfyUI checkout: the host starts a server there and owns it. COMFY_PATH in the environment is \
         accepted too.",
    ),
    setting(
        "engines.comfyui.python",
        Kind::OptionalText,
        "",
        "",
        "Python that runs the server. Not set: that of a virtual environment in the checkout (`.venv`, `venv`), else \
         `python3`.",
    ),
    setting(
        "engines.comfyui.args",
        Kind::List,
        "",
        "[]",
        "Further arguments of the server, after the host's own, such as `--lowvram` or `--extra-model-paths-config`.",
    ),
    setting(
        "engines.comfyui.port",
        Kind::Port,
        "",
        "0",
        "Port of the owned server, on 127.0.0.1; 0: a free one. COMFY_PORT in the environment is accepted too.",
    ),
    setting(
        "engines.comfyui.start",
        Kind::Choice(&["lazy", "eager"]),
        "",
        "\"lazy\"",
        "`lazy`: the server is started with the first job that needs it. `eager`: with the host.",
    ),
    whole(
        "engines.comfyui.start_seconds",
        0,
        "seconds",
        "0",
        "Longest time from start to ready; 0: as long as the process lives (custom nodes may take minutes to load).",
    ),
    whole(
        "engines.comfyui.stop_seconds",
        0,
        "seconds",
        "10",
        "How long an owned server that is told to stop may take before it is terminated.",
    ),
    setting(
        "engines.comfyui.url",
        Kind::OptionalText,
        "",
        "",
        "Address of a server that somebody else runs, such as `http://127.0.0.1:8188`, instead of `root`: the host neither \
         starts nor stops it, and finds its prompts again after a restart.",
    ),
    setting(
        "engines.comfyui.headers",
        Kind::Table,
        "",
        "{}",
        "Headers for that server, by name, each `{ env = \"VARIABLE\" }` or `{ file = \"PATH\" }`: authentication in front \
         of it.",
    ),
    whole(
        "engines.comfyui.request_seconds",
        1,
        "seconds",
        "30",
        "Longest time one small request may take. Servers stall for seconds while they load a model.",
    ),
    whole(
        "engines.comfyui.transfer_seconds",
        1,
        "seconds",
        "600",
        "Longest time one file may take to be sent or fetched.",
    ),
    whole(
        "engines.comfyui.unreachable_seconds",
        1,
        "seconds",
        "10",
        "How long nobody may listen at the address before the server counts as dead.",
    ),
    whole(
        "engines.comfyui.inactive_seconds",
        1,
        "seconds",
        "900",
        "How long a prompt that runs may say nothing before it is stopped and tried once more.",
    ),
    whole(
        "engines.comfyui.cancel_grace_seconds",
        1,
        "seconds",
        "30",
        "How long a prompt may take to stop before an owned server is killed for it; shorter than \
         `engines.cancel_grace_seconds`.",
    ),
    setting("engines.wan2gp.root", Kind::OptionalText, "", "", "Folder of the Wan2GP checkout."),
    whole(
        "plugins.quiet_milliseconds",
        0,
        "milliseconds",
        "300",
        "A file in the folders of plugins and templates is read once it has not changed for so long.",
    ),
    whole(
        "plugins.file_mb",
        1,
        "MB",
        "256",
        "Largest file in the plugins folder that is read. A component from Python has some 20 MB; what is much larger \
         is a mistake that would fill memory and disk.",
    ),
    whole(
        "plugins.compile_seconds",
        1,
        "seconds",
        "300",
        "Longest time one compilation of a plugin may take. Large components take half a minute on a busy machine.",
    ),
    whole(
        "plugins.compilers",
        1,
        "processes",
        "3",
        "Plugins that are compiled at once. Each takes some 0.5 GB of memory for a component from Python.",
    ),
    setting(
        "plugins.grant",
        Kind::List,
        "",
        "[\"engines\", \"tasks\", \"artifacts\", \"media\", \"assist\"]",
        "Capabilities that every plugin gets that asks for them.",
    ),
    setting(
        "plugins.grants.NAME.capabilities",
        Kind::List,
        "",
        "",
        "What the plugin of this name gets instead of `plugins.grant`. `http` and `secrets` are granted here alone.",
    ),
    setting(
        "plugins.grants.NAME.http",
        Kind::Tables,
        "",
        "[]",
        "What the plugin's requests may reach: tables with `host` (exactly), `methods` (none given: GET alone) and \
         `path` (the path must begin so, at a segment's border).",
    ),
    setting(
        "plugins.grants.NAME.addresses",
        Kind::List,
        "",
        "[]",
        "Private addresses that the plugin's requests may reach, as `127.0.0.1` or `127.0.0.1:8188`.",
    ),
    setting(
        "plugins.grants.NAME.secrets",
        Kind::Table,
        "",
        "{}",
        "Secrets that the plugin may send and never sees: by name, a table with `env` (the variable that holds it) or \
         `file`, and `hosts` (where it may be sent).",
    ),
    setting("plugins.settings.NAME", Kind::Table, "", "{}", "What `settings.get` answers the plugin of this name."),
    whole("plugins.limits.memory_mb", 1, "MB", "256", "Memory of one instance."),
    setting(
        "plugins.limits.cpu_seconds",
        Kind::Positive,
        "seconds",
        "30.0",
        "Computing time of one start of a handler; waiting in the host does not count.",
    ),
    whole(
        "plugins.limits.wall_seconds",
        1,
        "seconds",
        "86400",
        "Whole time of one start of a handler, waiting included.",
    ),
    whole("plugins.limits.log_kb", 1, "KB", "1024", "Log lines and output of one start."),
    whole("plugins.limits.calls", 1, "calls", "100000", "Recorded host calls of one attempt."),
    whole("plugins.limits.children", 0, "tasks", "2000", "Children of one task."),
    whole("plugins.limits.nesting", 0, "levels", "8", "How deep tasks may be nested."),
    whole("plugins.limits.artifact_mb", 0, "MB", "1024", "What one start may write as artifacts."),
    whole("plugins.limits.http_mb", 0, "MB", "64", "What one start may send and receive by HTTP."),
    whole("plugins.limits.http_body_mb", 1, "MB", "8", "Largest body of one HTTP request or answer."),
    whole(
        "plugins.limits.http_seconds",
        1,
        "seconds",
        "300",
        "Longest time of one HTTP request, its redirects and its answer included.",
    ),
    setting(
        "inputs.roots",
        Kind::List,
        "",
        "[\"inputs\"]",
        "Tasks may name files below these folders; relative ones count from the home.",
    ),
    whole("inputs.download_mb", 1, "MB", "4096", "Largest file that is downloaded."),
    whole("inputs.download_seconds", 1, "seconds", "300", "Longest time one download may take."),
    setting(
        "inputs.addresses",
        Kind::List,
        "",
        "[]",
        "Private addresses that downloads may reach, as `127.0.0.1` or `127.0.0.1:8188`.",
    ),
    setting("media.ffmpeg", Kind::Text, "", "\"ffmpeg\"", "The program; a bare name is looked up in PATH."),
    setting("media.ffprobe", Kind::Text, "", "\"ffprobe\"", "The program; a bare name is looked up in PATH."),
    whole("media.run_seconds", 1, "seconds", "1800", "Longest time one run of ffmpeg may take."),
    whole("media.megapixels", 1, "million pixels", "100", "Largest frame or picture."),
    whole("media.frames", 1, "frames", "200000", "Most frames of one source or result."),
    whole("media.memory_mb", 64, "MB", "8192", "Memory that one run of ffmpeg may write to (held on Linux alone)."),
    whole("media.result_mb", 1, "MB", "32768", "Largest file that a render may write (held on Linux alone)."),
    whole(
        "media.scratch_mb",
        1,
        "MB",
        "65536",
        "Decoded frames that a clip played backwards may set aside on the disk.",
    ),
    whole(
        "media.picture_extra_mb",
        1,
        "MB",
        "64",
        "What may stand around the pixels of a picture: colour profiles, previews, the short film of a phone.",
    ),
    whole(
        "media.parallel_runs",
        0,
        "runs",
        "0",
        "Renders that run at once, and as many looks at files beside them; 0: as many as there are processors.",
    ),
];

impl Setting {
    /// The section it stands in.
    pub fn section(&self) -> &'static str {
        self.key.rsplit_once('.').map_or("", |(section, _)| section)
    }

    /// Its name within the section.
    pub fn name(&self) -> &'static str {
        self.key.rsplit_once('.').map_or(self.key, |(_, name)| name)
    }

    /// The variable that sets it; none where a part of the key is a plugin's name of any spelling.
    pub fn variable(&self) -> Option<String> {
        (!self.is_per_plugin()).then(|| variable(self.key))
    }

    /// Whether a part of its key is the name of a plugin.
    pub fn is_per_plugin(&self) -> bool {
        self.key.split('.').any(|part| part == super::load::NAME)
    }
}

/// The environment variable of a key.
pub fn variable(key: &str) -> String {
    format!("{}{}", super::load::PREFIX, key.to_uppercase().replace('.', "__"))
}

/// The reference of all settings, as Markdown: one table per section.
pub fn reference_markdown() -> String {
    let mut text = String::from(
        "# Settings\n\nBuilt-in values < `enginehouse.toml` < environment < flags (`--set section.key=value`). Unknown \
         keys are errors.\n",
    );
    for (section, settings) in sections() {
        let _ = write!(
            text,
            "\n## `[{section}]`\n\n| key | default | unit | meaning | variable |\n|---|---|---|---|---|\n"
        );
        for setting in settings {
            let default =
                if setting.default.is_empty() { "not set".to_string() } else { format!("`{}`", setting.default) };
            let variable = setting.variable().map_or(String::new(), |variable| format!("`{variable}`"));
            let name = setting.name();
            let _ = writeln!(text, "| `{name}` | {default} | {} | {} | {variable} |", setting.unit, meaning(setting));
        }
    }
    text.push_str("\n## Variables that are no settings\n\n| variable | meaning |\n|---|---|\n");
    for (variable, meaning) in OUTSIDE {
        let _ = writeln!(text, "| `{variable}` | {meaning} |");
    }
    for (variable, key) in ACCEPTED {
        let _ = writeln!(text, "| `{variable}` | Sets `{key}` where neither a flag nor its own variable does. |");
    }
    text
}

/// The settings file that `init` writes: every key commented out (`#key = default`), with its meaning and unit above it
/// (`# …`). Without the single `#` in front of the keys it loads to the defaults.
pub fn commented_toml() -> String {
    let mut text = String::from(
        "# Settings of this home. A line that begins with `#` and a key shows the built-in value: take the `#` away to\n\
         # change it. `enginehouse config --origin` prints what is in force and where each value comes from.\n",
    );
    for (section, settings) in sections() {
        let per_plugin = settings.iter().all(|setting| setting.is_per_plugin());
        // A section per plugin is an example only: uncommented, it would be one for a plugin called NAME.
        let (header, key_mark) = if per_plugin { ("# ", "# ") } else { ("", "#") };
        let _ = write!(text, "\n{header}[{section}]\n");
        for setting in settings {
            let unit = if setting.unit.is_empty() { String::new() } else { format!(" Unit: {}.", setting.unit) };
            for line in wrapped(&format!("{}{unit}", meaning(setting)), 108) {
                let _ = writeln!(text, "# {line}");
            }
            let default = if setting.default.is_empty() { empty(setting.kind) } else { setting.default };
            let _ = writeln!(text, "{key_mark}{} = {default}", setting.name());
        }
    }
    text
}

fn meaning(setting: &Setting) -> String {
    match setting.kind {
        Kind::Whole { at_least } if at_least > 0 => format!("{} At least {at_least}.", setting.doc),
        _ => setting.doc.to_string(),
    }
}

fn empty(kind: Kind) -> &'static str {
    match kind {
        Kind::List | Kind::Tables => "[]",
        Kind::Table => "{}",
        _ => "\"\"",
    }
}

/// Sections in the order of the table, each with its settings.
fn sections() -> Vec<(&'static str, Vec<&'static Setting>)> {
    let mut sections: Vec<(&str, Vec<&Setting>)> = Vec::new();
    for setting in SETTINGS {
        match sections.iter_mut().find(|(section, _)| *section == setting.section()) {
            Some((_, settings)) => settings.push(setting),
            None => sections.push((setting.section(), vec![setting])),
        }
    }
    sections
}

fn wrapped(text: &str, width: usize) -> Vec<String> {
    let mut lines = vec![String::new()];
    for word in text.split_whitespace() {
        match lines.last_mut() {
            Some(line) if line.is_empty() => line.push_str(word),
            Some(line) if line.chars().count() + 1 + word.chars().count() <= width => {
                line.push(' ');
                line.push_str(word);
            }
            _ => lines.push(word.to_string()),
        }
    }
    lines
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::config::{Config, Grant};

    /// Every leaf of the defaults, with one plugin called NAME.
    fn leaves() -> BTreeMap<String, serde_json::Value> {
        fn walk(path: String, value: &serde_json::Value, leaves: &mut BTreeMap<String, serde_json::Value>) {
            let open = SETTINGS.iter().any(|s| s.key == path && s.kind == Kind::Table);
            match value.as_object() {
                Some(members) if !open => {
                    for (name, value) in members {
                        let path = if path.is_empty() { name.clone() } else { format!("{path}.{name}") };
                        walk(path, value, leaves);
                    }
                }
                _ => {
                    leaves.insert(path, value.clone());
                }
            }
        }
        let mut config = Config::default();
        config.plugins.grants.insert("NAME".into(), Grant::default());
        config.plugins.settings.insert("NAME".into(), serde_json::Map::new());
        let mut leaves = BTreeMap::new();
        walk(String::new(), &serde_json::to_value(config).unwrap(), &mut leaves);
        leaves
    }

    #[test]
    fn the_table_and_the_structs_say_the_same() {
        let leaves = leaves();
        let table: BTreeMap<_, _> = SETTINGS
            .iter()
            .map(|setting| {
                let default = match setting.default {
                    "" => serde_json::Value::Null,
                    text => serde_json::to_value(text.parse::<toml::Value>().unwrap()).unwrap(),
                };
                (setting.key.to_string(), default)
            })
            .collect();
        assert_eq!(table.len(), SETTINGS.len(), "a key stands twice");
        assert_eq!(table, leaves);
    }

    #[test]
    fn amounts_have_their_unit_in_the_name_or_count_things() {
        for setting in SETTINGS {
            let suffix = match setting.unit {
                "seconds" => "_seconds",
                "milliseconds" => "_milliseconds",
                "MB" => "_mb",
                "KB" => "_kb",
                _ => "",
            };
            assert!(setting.key.ends_with(suffix), "{}", setting.key);
            assert!(setting.doc.ends_with('.'), "{}", setting.key);
            let amount = matches!(setting.kind, Kind::Whole { .. } | Kind::Positive);
            assert_eq!(amount, !setting.unit.is_empty(), "{}", setting.key);
        }
    }

    #[test]
    fn the_written_file_loads_to_the_defaults_with_and_without_its_comments() {
        let text = commented_toml();
        let bare: String = text
            .lines()
            .map(|line| match line.strip_prefix('#') {
                Some(rest) if !rest.starts_with(' ') => format!("{rest}\n"),
                _ => format!("{line}\n"),
            })
            .collect();
        assert!(bare.contains("\nlease_seconds = 60\n") && !bare.contains("\n[plugins.grants.NAME]"), "{bare}");
        for text in [text, bare] {
            let file = crate::config::File { path: "enginehouse.toml".as_ref(), text: &text };
            let loaded = Config::load(Some(file), &BTreeMap::new(), &[]).unwrap();
            assert_eq!(loaded.config, Config::default());
        }
    }

    #[test]
    fn the_reference_names_every_setting() {
        let text = reference_markdown();
        for setting in SETTINGS {
            assert!(text.contains(&format!("| `{}` |", setting.name())), "{}", setting.key);
        }
        assert!(text.contains("ENGINEHOUSE_PLUGINS__LIMITS__MEMORY_MB") && text.contains("ENGINEHOUSE_HOME"));
    }
}
