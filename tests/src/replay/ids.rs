//! The client's prompt ids, written over the recorded ones.

use serde_json::{Map, Value};

/// A recorded id and the client's.
#[derive(Clone, Debug)]
pub struct Pair {
    pub recorded: String,
    pub own: String,
}

/// Shortest id that is looked for everywhere: a shorter one could be anything, and is replaced only where an id stands.
const TELLING: usize = 8;

/// Replaces every recorded id.
pub fn rewrite(value: &Value, pairs: &[Pair]) -> Value {
    match value {
        Value::String(text) => Value::String(text_of(text, pairs)),
        Value::Array(items) => {
            let mut items: Vec<Value> = items.iter().map(|item| rewrite(item, pairs)).collect();
            // An entry of the queue: number, id, graph.
            if items.get(2).is_some_and(Value::is_object)
                && let Some(Value::String(id)) = items.get_mut(1)
            {
                *id = exact(id, pairs);
            }
            Value::Array(items)
        }
        Value::Object(members) => {
            let mut rewritten = Map::new();
            for (name, value) in members {
                let is_record = value.get("outputs").is_some() || value.get("prompt").is_some();
                let name_now = if is_record { exact(name, pairs) } else { text_of(name, pairs) };
                let value_now = match value {
                    Value::String(id) if name == "prompt_id" || name == "id" => Value::String(exact(id, pairs)),
                    other => rewrite(other, pairs),
                };
                rewritten.insert(name_now, value_now);
            }
            Value::Object(rewritten)
        }
        other => other.clone(),
    }
}

/// The same for a text.
pub fn text_of(text: &str, pairs: &[Pair]) -> String {
    let telling = pairs.iter().filter(|pair| pair.recorded.len() >= TELLING && text.contains(&pair.recorded));
    telling.fold(text.to_string(), |text, pair| text.replace(&pair.recorded, &pair.own))
}

fn exact(id: &str, pairs: &[Pair]) -> String {
    pairs.iter().find(|pair| pair.recorded == id).map_or_else(|| id.to_string(), |pair| pair.own.clone())
}

#[test]
fn ids_are_replaced_where_they_stand_and_nowhere_else() {
    use serde_json::json;
    let long = [Pair { recorded: "00000000-0000-4000-8000-000000000001".into(), own: "mine".into() }];
    let recorded =
        json!({"00000000-0000-4000-8000-000000000001": {"text": "prompt 00000000-0000-4000-8000-000000000001!"}});
    assert_eq!(rewrite(&recorded, &long), json!({"mine": {"text": "prompt mine!"}}));
    let short = [Pair { recorded: "1".into(), own: "mine".into() }];
    let recorded =
        json!({"1": {"prompt": [1, "1", {"1": {"class_type": "1"}}], "outputs": {"1": {}}}, "prompt_id": "1"});
    let expected =
        json!({"mine": {"prompt": [1, "mine", {"1": {"class_type": "1"}}], "outputs": {"1": {}}}, "prompt_id": "mine"});
    assert_eq!(rewrite(&recorded, &short), expected);
}
