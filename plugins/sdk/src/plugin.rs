//! What a plugin is: a manifest, and a function from a task to an outcome.

use serde::Deserialize;
use serde_json::{Map, Value, json};

use crate::bindings::enginehouse::plugin::types;
use crate::failure::Failure;
use crate::host::artifacts::File;

/// A handler of one or more task types. Export it with [`plugin!`](crate::plugin!).
pub trait Plugin {
    /// Name, version, task types with the JSON Schema of their params, capabilities wanted: `wit/guest.wit` has the
    /// whole format. Must be the same at each call.
    fn manifest() -> Value;

    /// Serves one task. Each call has an instance of its own: nothing is carried over.
    fn handle(task: Task) -> Result<Outcome, Failure>;
}

/// A task as its handler sees it.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Task {
    /// UUID text.
    pub id: String,
    /// The type that was asked for; a plugin that serves several tells them apart here.
    pub task_type: String,
    /// As submitted, already checked against the manifest's schema for this type.
    pub params: Map<String, Value>,
    /// 1 for the first attempt. Going on after a crash is the same attempt.
    pub attempt: u32,
    /// Where the task stands among others.
    pub context: Context,
}

/// Where a task stands among others.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct Context {
    pub project_id: Option<String>,
    /// Id of the task that created this one.
    pub parent: Option<String>,
    /// Ids of the tasks that had to be complete before this one started, in the order given.
    pub dependencies: Vec<String>,
    /// Higher goes first.
    pub priority: i64,
    /// RFC 3339 text.
    pub created_at: String,
}

/// How a handler ends well.
#[derive(Clone, Debug, PartialEq)]
pub enum Outcome {
    /// A file is the result.
    Product(Product),
    /// The result is text.
    Text(String),
    /// Children will finish the task: it is complete when all of them are, at once if they are already or if there is
    /// none.
    Delegated {
        /// Key of the child whose output becomes the output of this task. None: the task ends with `facts` alone.
        output_from: Option<String>,
        /// Facts worth keeping. `message_kind` names what happened.
        facts: Map<String, Value>,
    },
}

/// A file as the result of a task.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Product {
    /// Digest of the main output.
    pub artifact: String,
    /// A file name for people, extension included. The host adds the task's id.
    pub name: String,
    /// Further outputs: digest and name, kept in this order.
    pub extra: Vec<(String, String)>,
    /// Facts worth keeping.
    pub facts: Map<String, Value>,
}

impl Outcome {
    /// A file without facts or further outputs.
    pub fn file(artifact: impl Into<String>, name: impl Into<String>) -> Self {
        Self::Product(Product { artifact: artifact.into(), name: name.into(), ..Product::default() })
    }

    /// Text.
    pub fn text(text: impl Into<String>) -> Self {
        Self::Text(text.into())
    }
}

impl From<File> for Outcome {
    fn from(file: File) -> Self {
        Self::file(file.artifact, file.name)
    }
}

/// Exports a [`Plugin`] as the component's handler. Once per crate; exports nothing outside WebAssembly.
#[macro_export]
macro_rules! plugin {
    ($plugin:ty) => {
        // Elsewhere nothing is exported, so that a test may link several plugins; the type counts as used all the same.
        #[cfg(not(target_family = "wasm"))]
        const _: fn() -> ::std::string::String = $crate::plugin::describe::<$plugin>;

        #[cfg(target_family = "wasm")]
        const _: () = {
            struct Exported;

            impl $crate::bindings::exports::enginehouse::plugin::guest::Guest for Exported {
                fn describe() -> ::std::string::String {
                    $crate::plugin::describe::<$plugin>()
                }

                fn handle(
                    task: $crate::bindings::enginehouse::plugin::types::Task,
                ) -> ::std::result::Result<
                    $crate::bindings::enginehouse::plugin::types::Outcome,
                    $crate::failure::Failure,
                > {
                    $crate::plugin::serve::<$plugin>(task)
                }
            }

    $crate::bindings::export!(Exported with_types_in $crate::bindings);
        };
    };
}

/// `guest.describe` of a plugin.
#[doc(hidden)]
pub fn describe<P: Plugin>() -> String {
    P::manifest().to_string()
}

/// `guest.handle` of a plugin.
#[doc(hidden)]
pub fn serve<P: Plugin>(task: types::Task) -> Result<types::Outcome, Failure> {
    P::handle(Task::read(task)?).map(Outcome::write)
}

impl Task {
    fn read(task: types::Task) -> Result<Self, Failure> {
        let unreadable = |what: &str, error: serde_json::Error| {
            Failure::internal("task_unreadable", format!("the host sent {what} that cannot be read: {error}"))
        };
        Ok(Self {
            params: serde_json::from_str(&task.params).map_err(|error| unreadable("params", error))?,
            context: serde_json::from_str(&task.context).map_err(|error| unreadable("a task context", error))?,
            id: task.id,
            task_type: task.task_type,
            attempt: task.attempt,
        })
    }
}

impl Outcome {
    fn write(self) -> types::Outcome {
        match self {
            Outcome::Product(Product { artifact, name, extra, mut facts }) => {
                if !extra.is_empty() {
                    let extra = extra.into_iter().map(|(artifact, name)| json!({"$artifact": artifact, "name": name}));
                    facts.insert("extra".into(), extra.collect());
                }
                types::Outcome::Product(types::Product { artifact, name, facts: Value::Object(facts).to_string() })
            }
            Outcome::Text(text) => types::Outcome::Text(text),
            Outcome::Delegated { output_from, facts } => {
                types::Outcome::Delegated(types::Delegation { output_from, facts: Value::Object(facts).to_string() })
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Echo;

    impl Plugin for Echo {
        fn manifest() -> Value {
            json!({"name": "echo", "version": "1.0.0", "task_types": {"echo": {}}})
        }

        fn handle(task: Task) -> Result<Outcome, Failure> {
            match task.params.get("fail") {
                Some(_) => Err(Failure::invalid("asked_to", "the params asked for it")),
                None => Ok(Outcome::text(format!("{} of {:?}", task.params["word"], task.context.project_id))),
            }
        }
    }

    crate::plugin!(Echo);

    fn task(params: &str, context: &str) -> types::Task {
        types::Task {
            id: "t".into(),
            task_type: "echo".into(),
            params: params.into(),
            attempt: 1,
            context: context.into(),
        }
    }

    #[test]
    fn params_and_context_arrive_parsed() {
        let outcome = serve::<Echo>(task(r#"{"word": "hi"}"#, r#"{"project_id": "p"}"#)).unwrap();
        assert!(matches!(outcome, types::Outcome::Text(text) if text == r#""hi" of Some("p")"#));
    }

    #[test]
    fn a_failure_of_the_handler_is_passed_on() {
        assert_eq!(serve::<Echo>(task(r#"{"fail": 1}"#, "{}")).unwrap_err().code, "asked_to");
    }

    #[test]
    fn params_that_are_no_object_are_a_defect_of_the_host() {
        assert_eq!(serve::<Echo>(task("[]", "{}")).unwrap_err().code, "task_unreadable");
    }

    #[test]
    fn further_outputs_travel_in_the_facts() {
        let product = Product {
            artifact: "sha256:a".into(),
            name: "a.mp4".into(),
            extra: vec![("sha256:b".into(), "b.png".into())],
            facts: Map::new(),
        };
        let types::Outcome::Product(written) = Outcome::Product(product).write() else { panic!("not a product") };
        let facts: Value = serde_json::from_str(&written.facts).unwrap();
        assert_eq!(facts, json!({"extra": [{"$artifact": "sha256:b", "name": "b.png"}]}));
    }

    #[test]
    fn the_manifest_is_json_text() {
        assert_eq!(serde_json::from_str::<Value>(&describe::<Echo>()).unwrap(), Echo::manifest());
    }
}
