//! Whether a graph can run: the checks of `POST /prompt`, and what they say.
//!
//! Every output node is checked with all it depends on. The prompt is accepted when one of them is sound; what is wrong
//! with the others is told beside the acceptance. Literals are turned into the type of their input on the way.

use std::collections::HashMap;

use serde_json::{Map, Value, json};

use super::catalog::Class;
use super::graph::link;
use super::{Server, files};

pub(super) struct Accepted {
    /// The output nodes that will run.
    pub outputs: Vec<String>,
    pub node_errors: Value,
}

pub(super) struct Rejected {
    pub error: Value,
    pub node_errors: Value,
}

/// Nothing where the real server raises.
pub(super) fn check(
    server: &Server,
    graph: &mut Map<String, Value>,
    targets: Option<&[&str]>,
) -> Option<Result<Accepted, Rejected>> {
    let rejected = |error: Value| Some(Err(Rejected { error, node_errors: json!({}) }));
    let mut outputs = Vec::new();
    for (id, node) in graph.iter() {
        let node = node.as_object()?;
        let title = node.get("_meta").map_or(&Value::Null, |meta| &meta["title"]);
        let class_type = node.get("class_type").unwrap_or(&Value::Null);
        let known = class_type.as_str().and_then(|name| server.catalog.class(name));
        match known {
            Some(class) => {
                if class.output_node && targets.is_none_or(|targets| targets.contains(&id.as_str())) {
                    outputs.push(id.clone());
                }
            }
            None => {
                let name = title.as_str().map_or_else(
                    || {
                        if class_type.is_null() {
                            format!("ID #{id}")
                        } else {
                            class_type.as_str().unwrap_or("?").to_string()
                        }
                    },
                    str::to_string,
                );
                let message = if class_type.is_null() {
                    format!(
                        "Node '{name}' has no class_type. The workflow may be corrupted or a custom node is missing."
                    )
                } else {
                    format!("Node '{name}' not found. The custom node may not be installed.")
                };
                return rejected(json!({
                    "type": "missing_node_type",
                    "message": message,
                    "details": format!("Node ID '#{id}'"),
                    "extra_info": {"node_id": id, "class_type": class_type, "node_title": title},
                }));
            }
        }
    }
    if outputs.is_empty() {
        return rejected(error("prompt_no_outputs", "Prompt has no outputs", "", json!({})));
    }
    let mut checker = Checker { server, graph, verdicts: HashMap::new(), order: Vec::new(), path: Vec::new() };
    let mut sound = Vec::new();
    let mut details = Vec::new();
    let mut node_errors = Map::new();
    for output in outputs {
        let errors = match checker.node(&output) {
            Ok(true) => {
                sound.push(output);
                continue;
            }
            Ok(false) => checker.verdicts.get(&output).map(|verdict| verdict.errors.clone()).unwrap_or_default(),
            Err(raised) => {
                let info = json!({"exception_type": raised.kind, "traceback": []});
                let errors =
                    vec![error("exception_during_validation", "Exception when validating node", &raised.message, info)];
                checker.judge(&output, errors.clone(), true);
                errors
            }
        };
        let plain = |member: &Value| member.as_str().unwrap_or_default().to_string();
        details
            .extend(errors.iter().map(|error| format!("{}: {}", plain(&error["message"]), plain(&error["details"]))));
        // Every node found wrong so far is told to concern this output, whether it does or not.
        for id in &checker.order {
            let Some(verdict) = checker.verdicts.get(id).filter(|verdict| !verdict.errors.is_empty()) else { continue };
            let told = node_errors.entry(id.clone()).or_insert_with(|| {
                json!({
                    "errors": verdict.errors,
                    "dependent_outputs": [],
                    "class_type": checker.graph[id]["class_type"],
                })
            });
            if let Some(dependent) = told["dependent_outputs"].as_array_mut() {
                dependent.push(json!(output));
            }
        }
    }
    let node_errors = Value::Object(node_errors);
    if sound.is_empty() {
        let details = details.join("\n");
        let error = error("prompt_outputs_failed_validation", "Prompt outputs failed validation", &details, json!({}));
        return Some(Err(Rejected { error, node_errors }));
    }
    Some(Ok(Accepted { outputs: sound, node_errors }))
}

fn error(kind: &str, message: &str, details: &str, extra_info: Value) -> Value {
    json!({"type": kind, "message": message, "details": details, "extra_info": extra_info})
}

/// An exception of the real server, by its class and text.
struct Raised {
    kind: &'static str,
    message: String,
}

struct Verdict {
    sound: bool,
    errors: Vec<Value>,
}

struct Checker<'a> {
    server: &'a Server,
    graph: &'a mut Map<String, Value>,
    verdicts: HashMap<String, Verdict>,
    /// Ids in the order in which they were judged.
    order: Vec<String>,
    /// The nodes being looked at, each an input of the one before.
    path: Vec<String>,
}

impl Checker<'_> {
    fn judge(&mut self, id: &str, errors: Vec<Value>, bad: bool) {
        let sound = errors.is_empty() && !bad;
        if self.verdicts.insert(id.to_string(), Verdict { sound, errors }).is_none() {
            self.order.push(id.to_string());
        }
    }

    /// Whether a node and all it depends on are sound.
    fn node(&mut self, id: &str) -> Result<bool, Raised> {
        if let Some(verdict) = self.verdicts.get(id) {
            return Ok(verdict.sound);
        }
        if let Some(at) = self.path.iter().position(|on| on == id) {
            self.cycle(at);
            return Ok(false);
        }
        let raised = |kind, message: &str| Raised { kind, message: message.to_string() };
        let node = self.graph.get(id).ok_or_else(|| raised("KeyError", &format!("'{id}'")))?;
        let inputs =
            node.get("inputs").and_then(Value::as_object).ok_or_else(|| raised("KeyError", "'inputs'"))?.clone();
        let name = node["class_type"].as_str().unwrap_or_default().to_string();
        let class = self.server.catalog.class(&name).ok_or_else(|| raised("KeyError", &format!("'{name}'")))?;
        self.path.push(id.to_string());
        let checked = self.inputs(id, &name, class, &inputs);
        self.path.pop();
        let (errors, bad) = checked?;
        // A cycle has been told of already.
        if !self.verdicts.contains_key(id) {
            self.judge(id, errors, bad);
        }
        Ok(self.verdicts.get(id).is_some_and(|verdict| verdict.sound))
    }

    fn inputs(
        &mut self,
        id: &str,
        name: &str,
        class: &Class,
        inputs: &Map<String, Value>,
    ) -> Result<(Vec<Value>, bool), Raised> {
        let mut errors = Vec::new();
        let mut bad = false;
        for (input, described, required) in wanted(class, inputs) {
            let config = json!([described[0], described.get(1).cloned().unwrap_or_else(|| json!({}))]);
            let Some(given) = inputs.get(&input) else {
                if required {
                    let short = input.rsplit('.').next().unwrap_or(&input);
                    let info = json!({"input_name": input});
                    errors.push(error("required_input_missing", "Required input is missing", short, info));
                }
                continue;
            };
            if given.is_array() {
                match self.linked(&input, &config, given)? {
                    Ok(sound) => bad |= !sound,
                    Err(wrong) => errors.push(wrong),
                }
                continue;
            }
            match literal(self.server, name, &input, &config, given)? {
                Ok(Some(value)) => self.graph[id]["inputs"][&input] = value,
                Ok(None) => {}
                Err(wrong) => errors.push(wrong),
            }
        }
        Ok((errors, bad))
    }

    /// A link: whether what it leads to is sound, or what is wrong with the link itself.
    fn linked(&mut self, input: &str, config: &Value, given: &Value) -> Result<Result<bool, Value>, Raised> {
        let raised = |kind, message: String| Raised { kind, message };
        if given.as_array().is_none_or(|parts| parts.len() != 2) {
            let info = json!({"input_name": input, "input_config": config, "received_value": given});
            let message = "Bad linked input, must be a length-2 list of [node_id, slot_index]";
            return Ok(Err(error("bad_linked_input", message, input, info)));
        }
        let from = given[0].as_str().map_or_else(|| given[0].to_string(), str::to_string);
        let node = self.graph.get(&from).ok_or_else(|| raised("KeyError", format!("'{from}'")))?;
        let class = node["class_type"].as_str().and_then(|name| self.server.catalog.class(name));
        let class = class.ok_or_else(|| raised("KeyError", format!("'{from}'")))?;
        let received = link(given).and_then(|(_, slot)| class.outputs.get(slot)).map(|(kind, _)| kind.clone());
        let received = received.ok_or_else(|| raised("IndexError", "tuple index out of range".to_string()))?;
        if !fits(&received, &config[0]) {
            let wanted = config[0].as_str().map_or_else(|| python(&config[0]), str::to_string);
            let details = format!("{input}, received_type({received}) mismatch input_type({wanted})");
            let info = json!({
                "input_name": input,
                "input_config": config,
                "received_type": received,
                "linked_node": given,
            });
            return Ok(Err(error("return_type_mismatch", "Return type mismatch between linked nodes", &details, info)));
        }
        match self.node(&from) {
            Ok(sound) => Ok(Ok(sound)),
            Err(inner) => {
                let info = json!({
                    "input_name": input,
                    "input_config": config,
                    "exception_message": inner.message,
                    "exception_type": inner.kind,
                    "traceback": [],
                    "linked_node": given,
                });
                let wrong = error(
                    "exception_during_inner_validation",
                    "Exception when validating inner node",
                    &inner.message,
                    info,
                );
                self.judge(&from, vec![wrong], true);
                Ok(Ok(false))
            }
        }
    }

    /// The nodes of the path from `at` on form a ring.
    fn cycle(&mut self, at: usize) {
        let ring: Vec<String> = self.path[at..].to_vec();
        let named = |id: &String| format!("{id} ({})", self.graph[id]["class_type"].as_str().unwrap_or_default());
        let details: Vec<String> = ring.iter().chain(ring.first()).map(named).collect();
        let details = details.join(" -> ");
        for id in &ring {
            let info = json!({"node_id": id, "cycle_nodes": ring});
            self.judge(id, vec![error("dependency_cycle", "Dependency cycle detected", &details, info)], true);
        }
    }
}

/// The inputs of a class: name, description, whether it must be given. The chosen option of an input of options brings
/// in more of them; without a known choice nothing is asked for.
fn wanted(class: &Class, given: &Map<String, Value>) -> Vec<(String, Value, bool)> {
    let mut wanted = Vec::new();
    let groups = [(&class.required, true), (&class.optional, false)];
    for (name, described, required) in
        groups.into_iter().flat_map(|(group, required)| group.iter().map(move |(n, d)| (n, d, required)))
    {
        if described[0] != "COMFY_DYNAMICCOMBO_V3" {
            wanted.push((name.clone(), described.clone(), required));
            continue;
        }
        let options = described[1]["options"].as_array().into_iter().flatten();
        let chosen = options.into_iter().find(|option| given.get(name).is_some_and(|choice| *choice == option["key"]));
        for (inner, described) in chosen.iter().flat_map(|option| option["inputs"]["required"].as_object()).flatten() {
            wanted.push((format!("{name}.{inner}"), described.clone(), true));
        }
    }
    wanted
}

fn fits(received: &str, wanted: &Value) -> bool {
    match wanted.as_str() {
        Some(wanted) => received == "*" || wanted.split(',').any(|kind| kind == "*" || kind == received),
        None => received == "COMBO" || received == "*",
    }
}

/// A literal, turned into the type of its input: nothing to change, a value to put in its place, or what is wrong.
fn literal(
    server: &Server,
    class: &str,
    input: &str,
    config: &Value,
    given: &Value,
) -> Result<Result<Option<Value>, Value>, Raised> {
    let unwrapped = given.get("__value__").cloned();
    let value = unwrapped.as_ref().unwrap_or(given);
    let kind = config[0].as_str().unwrap_or("COMBO");
    let turned = match kind {
        "INT" => whole(value),
        "FLOAT" => float(value),
        "STRING" => Ok(json!(value.as_str().map_or_else(|| python(value), str::to_string))),
        "BOOLEAN" => Ok(json!(truth(value))),
        _ => Ok(value.clone()),
    };
    let turned = match turned {
        Ok(turned) => turned,
        Err(message) => {
            let info = json!({
                "input_name": input,
                "input_config": config,
                "received_value": value,
                "exception_message": message,
            });
            let shown = value.as_str().map_or_else(|| python(value), str::to_string);
            let details = format!("{input}, {shown}, {message}");
            let text = format!("Failed to convert an input value to a {kind} value");
            return Ok(Err(error("invalid_input_type", &text, &details, info)));
        }
    };
    if let Some(kind) = file_kind(class, input) {
        let Some(name) = value.as_str() else {
            let message = format!("'{}' object has no attribute 'endswith'", python_type(value));
            return Err(Raised { kind: "AttributeError", message });
        };
        // An empty name leads to the folder itself, which is there.
        if !files::annotated(&server.options, name).is_some_and(|file| file.exists()) {
            let details = format!("{input} - Invalid {kind} file: {name}");
            let info = json!({"input_name": input});
            return Ok(Err(error("custom_validation_failed", "Custom validation failed for node", &details, info)));
        }
        return Ok(Ok(unwrapped));
    }
    let info = || json!({"input_name": input, "input_config": config, "received_value": turned});
    if let Some(number) = turned.as_f64().filter(|_| kind == "INT" || kind == "FLOAT") {
        if config[1]["min"].as_f64().is_some_and(|min| number < min) {
            let text = format!("Value {turned} smaller than min of {}", config[1]["min"]);
            return Ok(Err(error("value_smaller_than_min", &text, input, info())));
        }
        if config[1]["max"].as_f64().is_some_and(|max| number > max) {
            let text = format!("Value {turned} bigger than max of {}", config[1]["max"]);
            return Ok(Err(error("value_bigger_than_max", &text, input, info())));
        }
    }
    let choices = config[0].as_array().or_else(|| config[1]["options"].as_array().filter(|_| kind == "COMBO"));
    if let Some(choices) = choices.filter(|choices| !choices.contains(&turned)) {
        let details = format!("{input}: {} not in {}", python(&turned), python(&json!(choices)));
        return Ok(Err(error("value_not_in_list", "Value not in list", &details, info())));
    }
    Ok(Ok((unwrapped.is_some() || turned != *given).then_some(turned)))
}

/// Inputs whose class looks for the file itself.
fn file_kind(class: &str, input: &str) -> Option<&'static str> {
    match (class, input) {
        ("LoadImage", "image") => Some("image"),
        ("LoadVideo", "file") => Some("video"),
        _ => None,
    }
}

fn whole(value: &Value) -> Result<Value, String> {
    match value {
        Value::Number(number) if number.is_f64() => {
            let number = number.as_f64().unwrap_or_default();
            Ok(json!(number.trunc() as i64))
        }
        Value::Number(_) => Ok(value.clone()),
        Value::Bool(flag) => Ok(json!(u8::from(*flag))),
        Value::String(text) => text
            .trim()
            .parse::<i64>()
            .map(|number| json!(number))
            .map_err(|_| format!("invalid literal for int() with base 10: {}", python(value))),
        _ => Err(format!(
            "int() argument must be a string, a bytes-like object or a real number, not '{}'",
            python_type(value)
        )),
    }
}

fn float(value: &Value) -> Result<Value, String> {
    match value {
        Value::Number(number) => Ok(json!(number.as_f64().unwrap_or_default())),
        Value::Bool(flag) => Ok(json!(f64::from(u8::from(*flag)))),
        Value::String(text) => text
            .trim()
            .parse::<f64>()
            .map(|number| json!(number))
            .map_err(|_| format!("could not convert string to float: {}", python(value))),
        _ => Err(format!("float() argument must be a string or a real number, not '{}'", python_type(value))),
    }
}

fn truth(value: &Value) -> bool {
    match value {
        Value::Null => false,
        Value::Bool(flag) => *flag,
        Value::Number(number) => number.as_f64() != Some(0.0),
        Value::String(text) => !text.is_empty(),
        Value::Array(items) => !items.is_empty(),
        Value::Object(members) => !members.is_empty(),
    }
}

fn python_type(value: &Value) -> &'static str {
    match value {
        Value::Null => "NoneType",
        Value::Bool(_) => "bool",
        Value::Number(number) if number.is_f64() => "float",
        Value::Number(_) => "int",
        Value::String(_) => "str",
        Value::Array(_) => "list",
        Value::Object(_) => "dict",
    }
}

/// A value as Python prints it.
fn python(value: &Value) -> String {
    match value {
        Value::Null => "None".to_string(),
        Value::Bool(true) => "True".to_string(),
        Value::Bool(false) => "False".to_string(),
        Value::Number(number) => number.to_string(),
        Value::String(text) => {
            let text = text.replace('\\', "\\\\").replace('\n', "\\n");
            if text.contains('\'') && !text.contains('"') {
                format!("\"{text}\"")
            } else {
                format!("'{}'", text.replace('\'', "\\'"))
            }
        }
        Value::Array(items) => {
            let items: Vec<String> = items.iter().map(python).collect();
            format!("[{}]", items.join(", "))
        }
        Value::Object(members) => {
            let members: Vec<String> =
                members.iter().map(|(name, value)| format!("{}: {}", python(&json!(name)), python(value))).collect();
            format!("{{{}}}", members.join(", "))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn literals_become_what_their_input_wants() {
        assert_eq!(whole(&json!("12")), Ok(json!(12)));
        assert_eq!(whole(&json!(4.9)), Ok(json!(4)));
        assert!(whole(&json!("4.9")).is_err());
        assert_eq!(float(&json!("8")), Ok(json!(8.0)));
        assert!(truth(&json!("no")), "any text is true");
        assert!(!truth(&json!("")));
    }

    #[test]
    fn values_are_printed_as_python_prints_them() {
        assert_eq!(python(&json!(["a", null, true, 1.5])), "['a', None, True, 1.5]");
        assert_eq!(python(&json!("it's")), "\"it's\"");
    }
}
