//! Recorded cases, read from their files: what is expected is the record, corrected where the record says so itself.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};
use serde_json::{Map, Value};

/// One recorded case.
#[derive(Clone, Debug)]
pub struct Case {
    /// For people: `travel/NAME`.
    pub name: String,
    pub task_type: String,
    pub task_id: String,
    pub params: Map<String, Value>,
    /// Everything outside the task that its handler can see.
    pub environment: Value,
    /// With the correction applied.
    pub expected: Value,
    /// JSON pointers into `expected` that the record itself leaves open, with all below them.
    pub not_compared: Vec<String>,
    /// Why it is corrected or left open.
    pub why: String,
}

/// Where the recordings are: `ENGINEHOUSE_GOLDEN`, else the copy beside this file.
pub fn folder() -> PathBuf {
    std::env::var_os("ENGINEHOUSE_GOLDEN")
        .map_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("golden/data"), PathBuf::from)
}

/// Every case of a folder with one case a file. Files that hold something else than a case are left to others.
pub fn of_folder(name: &str) -> Result<Vec<Case>> {
    let mut cases = Vec::new();
    for file in files(name)? {
        let json = read(&file)?;
        if is_case(&json) {
            cases.push(Case::parse(name, &json).with_context(|| file.display().to_string())?);
        } else if !json["sections"].is_object() {
            bail!("{} is neither a case nor holds tables", file.display());
        }
    }
    if cases.is_empty() {
        bail!("{} holds no cases", folder().join(name).display());
    }
    Ok(cases)
}

/// The cases of one stage, from files that hold lists of cases.
pub fn of_stage(name: &str, stage: &str) -> Result<Vec<Case>> {
    let mut cases = Vec::new();
    for file in files(name)? {
        let Value::Array(list) = read(&file)? else { continue };
        for json in list.iter().filter(|json| json["stage"] == stage) {
            cases.push(Case::parse(name, json).with_context(|| file.display().to_string())?);
        }
    }
    if cases.is_empty() {
        bail!("{} holds no cases of the stage {stage}", folder().join(name).display());
    }
    Ok(cases)
}

/// The tables of a folder: lists of entries by name, under `sections` of their files.
pub fn tables(name: &str) -> Result<Map<String, Value>> {
    let mut tables: Map<String, Value> = Map::new();
    for file in files(name)? {
        let json = read(&file)?;
        for (table, entries) in json["sections"].as_object().into_iter().flatten() {
            let entries = entries.as_array().with_context(|| format!("the table {table} is no list"))?.clone();
            match tables.entry(table).or_insert_with(|| Value::Array(Vec::new())) {
                Value::Array(all) => all.extend(entries),
                _ => bail!("the table {table} is no list"),
            }
        }
    }
    Ok(tables)
}

/// The JSON files of a folder, in the order of their names.
fn files(name: &str) -> Result<Vec<PathBuf>> {
    let folder = folder().join(name);
    let entries = std::fs::read_dir(&folder).with_context(|| format!("no recordings in {}", folder.display()))?;
    let mut files: Vec<PathBuf> = entries.map(|entry| Ok(entry?.path())).collect::<Result<_>>()?;
    files.retain(|file| file.extension().is_some_and(|extension| extension == "json"));
    files.sort();
    Ok(files)
}

fn read(file: &Path) -> Result<Value> {
    let text = std::fs::read_to_string(file).with_context(|| file.display().to_string())?;
    serde_json::from_str(&text).with_context(|| file.display().to_string())
}

fn is_case(json: &Value) -> bool {
    json.get("expected").is_some() && json.get("params").is_some()
}

impl Case {
    fn parse(folder: &str, json: &Value) -> Result<Self> {
        let text = |name: &str| json[name].as_str().unwrap_or_default().to_string();
        // One family keeps its corrections in an object of their own, the other beside the record.
        let correction = if json["quirk"].is_object() { &json["quirk"] } else { json };
        let mut expected = json["expected"].clone();
        if let Some(patch) = correction.get("expected_intended")
            && !patch.is_null()
        {
            merge(&mut expected, patch);
            same_files(&mut expected, patch);
        }
        let pointers = match &correction["not_compared"] {
            Value::Null => Vec::new(),
            Value::Array(pointers) => pointers
                .iter()
                .map(|pointer| Some(pointer.as_str()?.to_string()))
                .collect::<Option<_>>()
                .context("`not_compared` holds something else than texts")?,
            other => bail!("`not_compared` is {other}, expected a list of JSON pointers"),
        };
        let Value::Object(params) = json["params"].clone() else { bail!("`params` is no object") };
        Ok(Self {
            name: format!("{folder}/{}", text("name")),
            task_type: text("task_type"),
            task_id: text("task_id"),
            params,
            environment: json.get("environment").cloned().unwrap_or_else(|| Value::Object(Map::new())),
            expected,
            not_compared: pointers,
            why: correction["why"].as_str().unwrap_or_default().to_string(),
        })
    }

    /// Whether the record itself leaves this place open.
    pub fn leaves_open(&self, pointer: &str) -> bool {
        self.not_compared.iter().any(|open| {
            pointer.strip_prefix(open.as_str()).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
        })
    }
}

/// A correction of one parameter's file holds for every parameter that names the same file.
fn same_files(expected: &mut Value, patch: &Value) {
    const FILES: &str = "engine_request_artifacts";
    let Some(corrected) = patch[FILES].as_object() else { return };
    let parameters = expected["engine_request"]["parameters"].clone();
    for name in corrected.keys() {
        let file = expected[FILES][name].clone();
        let others = expected[FILES].as_object_mut().into_iter().flat_map(|files| files.iter_mut());
        for (other, facts) in others.filter(|(other, _)| !corrected.contains_key(*other)) {
            if parameters[other].is_string() && parameters[other] == parameters[name] {
                *facts = file.clone();
            }
        }
    }
}

/// Applies a JSON merge patch (RFC 7386).
pub fn merge(target: &mut Value, patch: &Value) {
    let Value::Object(patch) = patch else {
        *target = patch.clone();
        return;
    };
    if !target.is_object() {
        *target = Value::Object(Map::new());
    }
    let Some(target) = target.as_object_mut() else { return };
    for (name, value) in patch {
        if value.is_null() {
            target.remove(name);
        } else {
            merge(target.entry(name.clone()).or_insert(Value::Null), value);
        }
    }
}

/// One step of a JSON pointer (RFC 6901).
pub fn step(name: &str) -> String {
    name.replace('~', "~0").replace('/', "~1")
}

#[test]
fn a_patch_merges_objects_removes_with_null_and_replaces_the_rest() {
    use serde_json::json;
    let mut target = json!({"a": {"b": 1, "c": 2}, "d": [1, 2], "e": "x"});
    merge(&mut target, &json!({"a": {"b": null, "f": {"g": null}}, "d": [3], "e": {"h": 1}}));
    assert_eq!(target, json!({"a": {"c": 2, "f": {}}, "d": [3], "e": {"h": 1}}));
}

#[test]
fn a_corrected_file_is_corrected_wherever_it_is_named() {
    use serde_json::json;
    let patch = json!({"engine_request_artifacts": {"a": {"frames": 2}}});
    let mut expected = json!({
        "engine_request": {"parameters": {"a": "x.mp4", "b": "x.mp4", "c": "y.mp4"}},
        "engine_request_artifacts": {"a": {"frames": 1}, "b": {"frames": 1}, "c": {"frames": 1}},
    });
    merge(&mut expected, &patch);
    same_files(&mut expected, &patch);
    let frames = |name: &str| expected["engine_request_artifacts"][name]["frames"].clone();
    assert_eq!((frames("a"), frames("b"), frames("c")), (json!(2), json!(2), json!(1)));
}
