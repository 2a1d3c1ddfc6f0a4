//! What a plugin says of itself, parsed and checked once, so that nothing behind this point meets a bad manifest: names
//! that are fit for files and tables, capabilities that exist, schemas that are schemas, settings that the operator
//! really gave. Like `validate.rs` it says what is wrong as the rest of a sentence that begins with the file's name.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::LazyLock;

use jsonschema::Validator;
use serde_json::{Map, Value, json};

use crate::config::{Grant, PluginsConfig};
use crate::plugins::Manifest;
use crate::schemas;
use crate::task::{Failure, is_type_name};

/// Capabilities that a manifest may ask for. `log`, `progress` and `settings` need none.
const CAPABILITIES: &[&str] = &["engines", "tasks", "artifacts", "media", "assist", "http", "secrets"];

/// Longest manifest. Schemas of a few dozen types fit; what is longer would only slow every `route` down.
const LONGEST_BYTES: usize = 1024 * 1024;

/// A manifest that was checked, and its params schemas ready for use.
pub(super) struct Checked {
    pub manifest: Manifest,
    /// By task type; a type without a schema takes every object.
    pub params: BTreeMap<String, Validator>,
}

/// The form of a manifest; what a schema cannot say is checked below.
static FORM: LazyLock<Result<Validator, String>> = LazyLock::new(|| {
    let schema = json!({
        "type": "object",
        "required": ["name", "version", "task_types"],
        "properties": {
            "name": {"type": "string", "pattern": "^[a-z][a-z0-9_-]{0,63}$"},
            "version": {"type": "string", "pattern": "^[!-~]{1,64}$"},
            "summary": {"type": ["string", "null"], "maxLength": 200},
            "task_types": {
                "type": "object",
                "minProperties": 1,
                "additionalProperties": {
                    "type": "object",
                    "properties": {"params": {"type": ["object", "boolean", "null"]}}
                }
            },
            "capabilities": {"type": "array", "items": {"type": "string"}},
            "settings": {"type": ["object", "boolean", "null"]},
            "affinity": {
                "type": ["object", "null"],
                "additionalProperties": {"type": "string", "pattern": "^(/[^/]*)+$"}
            }
        }
    });
    jsonschema::draft202012::options().offline().build(&schema).map_err(|e| e.to_string())
});

/// Parses and checks what `describe` answered, and the operator's settings for the plugin of that name.
pub(super) fn check(text: &str, config: &PluginsConfig) -> Result<Checked, String> {
    if text.len() > LONGEST_BYTES {
        let (has, may) = (text.len() / 1024, LONGEST_BYTES / 1024);
        return Err(format!("describes itself with a manifest of {has} KiB, and {may} KiB are the most: shorten it"));
    }
    let value: Value = serde_json::from_str(text).map_err(|e| {
        format!("describes itself with a manifest that is not JSON ({e}): `describe` must return one object")
    })?;
    let form = FORM.as_ref().map_err(|e| format!("cannot be checked, because the form of manifests is broken: {e}"))?;
    if let Some(error) = form.iter_errors(&value).next() {
        return Err(wrong(error.instance_path().as_str(), &schemas::brief(&error)));
    }
    let manifest: Manifest = serde_json::from_value(value).map_err(|e| wrong("", &e.to_string()))?;
    for (i, capability) in manifest.capabilities.iter().enumerate() {
        if !CAPABILITIES.contains(&capability.as_str()) {
            let known = CAPABILITIES.join(", ");
            return Err(wrong(
                &format!("/capabilities/{i}"),
                &format!("`{capability}` is no capability of this host; those are {known}"),
            ));
        }
    }
    let mut params = BTreeMap::new();
    for (task_type, of_type) in &manifest.task_types {
        let at = format!("/task_types/{}", task_type.replace('~', "~0").replace('/', "~1"));
        if !is_type_name(task_type) {
            return Err(wrong(
                &at,
                "a task type has 1 to 100 letters, digits, `_`, `-` or `.`, and begins with a letter or a digit",
            ));
        }
        if let Some(schema) = &of_type.params {
            params.insert(task_type.clone(), compile(schema, &format!("{at}/params"))?);
        }
    }
    if let Some(schema) = &manifest.settings {
        let validator = compile(schema, "/settings")?;
        let given = Value::Object(config.settings.get(&manifest.name).cloned().unwrap_or_default());
        if let Some(error) = validator.iter_errors(&given).next() {
            return Err(format!(
                "does not get the settings it asks for, because `[plugins.settings.{}]` of enginehouse.toml is wrong \
                 at {}: {}",
                manifest.name,
                schemas::place(error.instance_path().as_str()),
                schemas::brief(&error)
            ));
        }
    }
    Ok(Checked { manifest, params })
}

/// Holds the params of a task against the schema of its type. Code `invalid_params`.
pub(super) fn check_params(plugin: &Checked, task_type: &str, params: &Map<String, Value>) -> Result<(), Failure> {
    let Some(validator) = plugin.params.get(task_type) else { return Ok(()) };
    let params = Value::Object(params.clone());
    let Some(errors) = schemas::errors(validator, &params) else { return Ok(()) };
    Err(Failure::invalid(
        "invalid_params",
        format!(
            "the params of this `{task_type}` task do not fit the schema of plugin `{}` {}: {}",
            plugin.manifest.name, plugin.manifest.version, errors
        ),
    ))
}

/// The operator's grant for a plugin: its own, or the common one.
pub(super) fn grant(config: &PluginsConfig, plugin: &str) -> Grant {
    config.grants.get(plugin).cloned().unwrap_or_default()
}

/// What the operator grants a plugin of this name. Rules for `http` and named `secrets` are grants by themselves: they
/// say more than the capability's name would.
pub(super) fn granted(config: &PluginsConfig, plugin: &str) -> BTreeSet<String> {
    let own = grant(config, plugin);
    let mut granted: BTreeSet<_> = own.capabilities.unwrap_or_else(|| config.grant.clone()).into_iter().collect();
    if !own.http.is_empty() {
        granted.insert("http".into());
    }
    if !own.secrets.is_empty() {
        granted.insert("secrets".into());
    }
    granted
}

fn compile(schema: &Value, at: &str) -> Result<Validator, String> {
    schemas::compile(schema).map_err(|unusable| wrong(&format!("{at}{}", unusable.pointer), &unusable.what))
}

fn wrong(at: &str, what: &str) -> String {
    format!("describes itself wrongly: its manifest at {}: {what}", schemas::place(at))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refusal(manifest: Value) -> String {
        check(&manifest.to_string(), &PluginsConfig::default()).err().expect("the manifest is refused")
    }

    #[test]
    fn each_mistake_in_a_manifest_is_named_with_its_place() {
        let cases = [
            (json!([]), r#"describes itself wrongly: its manifest at the top: [] is not of type "object""#),
            (
                json!({"name": "a", "task_types": {"a": {}}}),
                r#"describes itself wrongly: its manifest at the top: "version" is a required property"#,
            ),
            (
                json!({"name": "Bad Name", "version": "1", "task_types": {"a": {}}}),
                r#"describes itself wrongly: its manifest at `/name`: "Bad Name" does not match "^[a-z][a-z0-9_-]{0,63}$""#,
            ),
            (
                json!({"name": "a", "version": "", "task_types": {"a": {}}}),
                r#"describes itself wrongly: its manifest at `/version`: "" does not match "^[!-~]{1,64}$""#,
            ),
            (
                json!({"name": "a", "version": "1", "task_types": {}}),
                "describes itself wrongly: its manifest at `/task_types`: {} has less than 1 property",
            ),
            (
                json!({"name": "a", "version": "1", "task_types": {"../x": {}}}),
                "describes itself wrongly: its manifest at `/task_types/..~1x`: a task type has 1 to 100 letters, \
                 digits, `_`, `-` or `.`, and begins with a letter or a digit",
            ),
            (
                json!({"name": "a", "version": "1", "task_types": {"a": {}}, "capabilities": ["media", "gpu"]}),
                "describes itself wrongly: its manifest at `/capabilities/1`: `gpu` is no capability of this host; those \
                 are engines, tasks, artifacts, media, assist, http, secrets",
            ),
            (
                json!({"name": "a", "version": "1", "task_types": {"a": {"params": {"type": "text"}}}}),
                r#"describes itself wrongly: its manifest at `/task_types/a/params/type`: "text" is not valid under any of the schemas listed in the 'anyOf' keyword"#,
            ),
            (
                json!({"name": "a", "version": "1", "task_types": {"a": {}}, "affinity": {"model": "model_name"}}),
                r#"describes itself wrongly: its manifest at `/affinity/model`: "model_name" does not match "^(/[^/]*)+$""#,
            ),
        ];
        for (manifest, sentence) in cases {
            assert_eq!(refusal(manifest), sentence);
        }
        let not_json = check("hello", &PluginsConfig::default()).err().unwrap();
        assert!(not_json.starts_with("describes itself with a manifest that is not JSON ("), "{not_json}");
        let foreign = refusal(json!({"name": "a", "version": "1", "task_types": {
            "a": {"params": {"$ref": "https://example.com/schema.json"}}
        }}));
        assert!(foreign.contains("at `/task_types/a/params`: not a usable JSON Schema"), "{foreign}");
    }

    #[test]
    fn the_operators_settings_are_held_against_the_plugins_schema() {
        let manifest = json!({"name": "joiner", "version": "1", "task_types": {"join": {}}, "settings": {
            "required": ["base"], "properties": {"base": {"type": "string"}}
        }})
        .to_string();
        let mut config = PluginsConfig::default();
        let missing = check(&manifest, &config).err().unwrap();
        assert_eq!(
            missing,
            "does not get the settings it asks for, because `[plugins.settings.joiner]` of enginehouse.toml is wrong \
             at the top: \"base\" is a required property"
        );
        config.settings.insert("joiner".into(), json!({"base": 3}).as_object().cloned().unwrap());
        let wrong = check(&manifest, &config).err().unwrap();
        assert!(wrong.ends_with(r#"wrong at `/base`: 3 is not of type "string""#), "{wrong}");
        config.settings.insert("joiner".into(), json!({"base": "x"}).as_object().cloned().unwrap());
        assert_eq!(check(&manifest, &config).ok().unwrap().manifest.name, "joiner");
    }

    #[test]
    fn params_that_do_not_fit_are_told_with_their_places_three_at_most() {
        let manifest = json!({"name": "a", "version": "2.0", "task_types": {"free": {}, "strict": {"params": {
            "properties": {"n": {"type": "integer"}, "list": {"items": {"type": "string"}}}, "required": ["prompt"]
        }}}});
        let checked = check(&manifest.to_string(), &PluginsConfig::default()).ok().unwrap();
        let params = |value: Value| value.as_object().cloned().unwrap();
        let verdict = |t: &str, value: Value| check_params(&checked, t, &params(value));
        assert_eq!(verdict("free", json!({"n": "many"})), Ok(()));
        assert_eq!(verdict("strict", json!({"n": 1, "prompt": ""})), Ok(()));
        let failure = verdict("strict", json!({"n": "many", "prompt": "", "list": ["a", 1]})).unwrap_err();
        assert_eq!((failure.code.as_str(), failure.retry), ("invalid_params", false));
        assert_eq!(
            failure.message,
            "the params of this `strict` task do not fit the schema of plugin `a` 2.0: `/n`: \"many\" is not of type \
             \"integer\"; `/list/1`: 1 is not of type \"string\""
        );
        let failure = verdict("strict", json!({"list": [1, 2, 3, 4, 5]})).unwrap_err();
        assert_eq!(failure.message.matches("; ").count(), 2, "{}", failure.message);
        let long = verdict("strict", json!({"n": "x".repeat(10_000), "prompt": ""})).unwrap_err();
        assert!(long.message.len() < 500, "{}", long.message);
    }

    #[test]
    fn a_plugin_gets_the_common_grant_or_its_own_and_rules_are_grants() {
        let mut config = PluginsConfig::default();
        assert!(granted(&config, "a").contains("engines") && !granted(&config, "a").contains("http"));
        let own: Grant = serde_json::from_value(json!({"http": [{"host": "example.com"}]})).unwrap();
        config.grants.insert("a".into(), own);
        assert!(granted(&config, "a").contains("engines") && granted(&config, "a").contains("http"));
        let own: Grant = serde_json::from_value(json!({"capabilities": []})).unwrap();
        config.grants.insert("a".into(), own);
        assert!(granted(&config, "a").is_empty());
    }
}
