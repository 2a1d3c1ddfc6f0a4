//! Which handler serves a task. A pure function of the task, what is on offer and the settings; every decision carries
//! its reason in words.
//!
//! Order: refuse list → plugin (hybrid mode) → ComfyUI type (listed, or a template file) → Wan2GP (preset file, or
//! default). A task that names its engine (`params.engine`) is never served by the other one.
//!
//! - `known.rs`: the task types that applications are known to submit.

use std::collections::BTreeMap;

use serde_json::{Map, Value};

use crate::config::{Mode, RoutingConfig};
use crate::digest::Digest;
use crate::nearest::nearest;
use crate::task::{EngineKind, Failure, Fallback, Handler, Route};

pub use known::{KnownType, Owner, known_type, known_types};

mod known;

/// What the folders of a home offer at one moment.
#[derive(Clone, Debug, Default)]
pub struct Offers {
    /// By task type.
    pub plugins: BTreeMap<String, OfferedPlugin>,
    /// Task types that a plugin of this home served once, by type.
    pub retired: BTreeMap<String, RetiredPlugin>,
    /// Task types with a ComfyUI template, and the file's name.
    pub comfyui_templates: BTreeMap<String, String>,
    /// Task types with a Wan2GP preset, and the file's name.
    pub wan2gp_presets: BTreeMap<String, String>,
}

/// A plugin in service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OfferedPlugin {
    pub name: String,
    pub version: String,
    pub digest: Digest,
    pub file: String,
}

/// A plugin whose file is gone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RetiredPlugin {
    pub name: String,
    pub file: String,
    pub digest: Digest,
}

impl Offers {
    /// The same with ComfyUI templates, by task type.
    pub fn with_templates(&self, comfyui_templates: BTreeMap<String, String>) -> Self {
        Self { comfyui_templates, ..self.clone() }
    }
}

/// Decides.
pub fn route(task_type: &str, params: &Map<String, Value>, offers: &Offers, config: &RoutingConfig) -> Route {
    let decided = |handler, reason, if_retired| Route { task_type: task_type.to_string(), handler, reason, if_retired };
    if config.refuse.iter().any(|refused| refused == task_type) {
        let reason = format!("`{task_type}` is on the list of types that this host must not take (`routing.refuse`).");
        return decided(Handler::Refused, reason, None);
    }
    let named = match named_engine(params) {
        Ok(named) => named,
        Err(reason) => return decided(Handler::Refused, reason, None),
    };
    let (engine, why) = to_engine(task_type, params, named, offers, config);
    match offers.plugins.get(task_type) {
        Some(plugin) if config.mode == Mode::Hybrid => {
            let mut reason = format!("{} serves `{task_type}`.", described(plugin));
            if let Some(named) = named {
                let other = other(named).title();
                reason.push_str(&format!(
                    " The task names {named} as its engine (`engine`): jobs of the plugin on {other} will be refused."
                ));
            }
            let handler =
                Handler::Plugin { name: plugin.name.clone(), version: plugin.version.clone(), digest: plugin.digest };
            decided(handler, reason, Some(Fallback { handler: engine, reason: why }))
        }
        Some(plugin) => {
            let ignored = described(plugin);
            let reason = format!("{why} {ignored} is ignored, as every plugin is, because `routing.mode` is `simple`.");
            decided(engine, reason, None)
        }
        None if config.mode == Mode::Simple => {
            decided(engine, format!("{why} Plugins take no part, because `routing.mode` is `simple`."), None)
        }
        None => decided(engine, why, None),
    }
}

/// The engine that a task insists on: `"engine": "comfyui"` or `"wan2gp"` in its params. Whoever passes a job of the
/// task to an engine has to keep to it. The error is a sentence that says what is wrong with the name.
pub fn named_engine(params: &Map<String, Value>) -> Result<Option<EngineKind>, String> {
    let engines = [EngineKind::Comfyui, EngineKind::Wan2gp];
    match params.get("engine") {
        None | Some(Value::Null) => Ok(None),
        Some(Value::String(name)) => match engines.into_iter().find(|engine| engine.as_str() == name) {
            Some(engine) => Ok(Some(engine)),
            None => Err(format!(
                "The task names `{}` as its engine (`engine`), which is none of this host's: `comfyui` or `wan2gp`{}.",
                name.escape_default(),
                nearest(name, engines.map(EngineKind::as_str))
                    .map_or(String::new(), |meant| format!("; did you mean `{meant}`"))
            )),
        },
        Some(_) => Err("The task's `engine` is no text: `comfyui` or `wan2gp` was expected.".to_string()),
    }
}

/// The failure of a task that fell through to an engine without the `prompt` the engine needs. When the type belonged to
/// a handler, the message says so and how to bring it back.
pub fn prompt_required(route: &Route, offers: &Offers) -> Failure {
    let task_type = route.task_type.as_str();
    let engine = match route.handler {
        Handler::Comfyui { .. } => EngineKind::Comfyui,
        Handler::Wan2gp { .. } | Handler::Plugin { .. } | Handler::Refused => EngineKind::Wan2gp,
    };
    let needs = format!("the task went to {engine}, which needs a top-level `prompt` in its params, and there is none");
    let message = if let Some(plugin) = offers.plugins.get(task_type) {
        format!(
            "`{task_type}` was not served by its handler: {} is in the plugins folder, but plugins take no part on this \
             route; {needs}. Set `routing.mode` to `hybrid`, or give the task a prompt.",
            described(plugin)
        )
    } else if let Some(retired) = offers.retired.get(task_type) {
        format!(
            "No handler for `{task_type}` is installed: plugin `{}` served it and was retired when its file {} was \
             removed; therefore {needs}. To bring the handler back, put {} (last digest {}) into the plugins folder \
             again.",
            retired.name, retired.file, retired.file, retired.digest
        )
    } else if known_type(task_type).is_some_and(|known| known.owner == Owner::Plugin) {
        format!(
            "No handler for `{task_type}` is installed: the plugin that serves this type is not in the plugins folder \
             (retired, or never installed); therefore {needs}. To bring the handler back, put its .wasm file into the \
             plugins folder again."
        )
    } else {
        format!("`{task_type}` has no handler of its own: {needs}. Give the task a `prompt`.")
    };
    Failure::invalid("prompt_required", message)
}

/// The decision without plugins.
fn to_engine(
    task_type: &str,
    params: &Map<String, Value>,
    named: Option<EngineKind>,
    offers: &Offers,
    config: &RoutingConfig,
) -> (Handler, String) {
    let template = offers.comfyui_templates.get(task_type);
    let preset = offers.wan2gp_presets.get(task_type);
    let listed = config.comfy_task_types.iter().any(|listed| listed == task_type);
    let comfyui = || Handler::Comfyui { name: template.cloned() };
    let wan2gp = || Handler::Wan2gp { name: preset.cloned() };
    let comfyui_serves = match (listed, template) {
        (true, Some(file)) => Some(format!(
            "ComfyUI serves `{task_type}`: the type is on the list `routing.comfy_task_types`, and the template {file} \
             gives its workflow"
        )),
        (true, None) => {
            Some(format!("ComfyUI serves `{task_type}`: the type is on the list `routing.comfy_task_types`"))
        }
        (false, Some(file)) => Some(format!("ComfyUI serves `{task_type}` with the template {file}")),
        (false, None) => None,
    };
    match (named, comfyui_serves, preset) {
        (Some(EngineKind::Comfyui), Some(serves), _) => {
            (comfyui(), format!("{serves}; the task names this engine itself (`engine`)."))
        }
        (Some(EngineKind::Comfyui), None, _) if params.get("workflow").is_some_and(may_be_workflow) => (
            comfyui(),
            format!(
                "ComfyUI serves `{task_type}`: the task names this engine (`engine`) and brings its own `workflow`."
            ),
        ),
        (Some(EngineKind::Comfyui), None, _) => (
            Handler::Refused,
            format!(
                "The task names ComfyUI as its engine (`engine`), but ComfyUI has no way to serve `{task_type}`: there \
                 is no template for the type, it is not on the list `routing.comfy_task_types`, and the task brings no \
                 `workflow`. It is not run on Wan2GP instead."
            ),
        ),
        (Some(EngineKind::Wan2gp), _, Some(file)) => (
            wan2gp(),
            format!(
                "Wan2GP serves `{task_type}` with the preset {file}; the task names this engine itself (`engine`)."
            ),
        ),
        (Some(EngineKind::Wan2gp), Some(serves), None) => (
            Handler::Refused,
            format!(
                "The task names Wan2GP as its engine (`engine`), but the type belongs to the other engine: {serves}. \
                 Nothing is run on an engine that the task did not name."
            ),
        ),
        (Some(EngineKind::Wan2gp), None, None) => {
            (wan2gp(), format!("Wan2GP serves `{task_type}`: the task names this engine itself (`engine`)."))
        }
        (None, Some(serves), Some(file)) => (
            comfyui(),
            format!(
                "{serves}. The Wan2GP preset {file} is not used: ComfyUI goes first where both could serve a type."
            ),
        ),
        (None, Some(serves), None) => (comfyui(), format!("{serves}.")),
        (None, None, Some(file)) => (wan2gp(), format!("Wan2GP serves `{task_type}` with the preset {file}.")),
        (None, None, None) => (wan2gp(), by_default(task_type, offers)),
    }
}

/// Why a type that nothing claims goes to Wan2GP.
fn by_default(task_type: &str, offers: &Offers) -> String {
    if let Some(retired) = offers.retired.get(task_type) {
        return format!(
            "Wan2GP serves `{task_type}` by default: plugin `{}` ({}, digest {}) served it until its file was removed.",
            retired.name,
            retired.file,
            retired.digest.short()
        );
    }
    match known_type(task_type).map(|known| known.owner) {
        Some(Owner::Plugin) => format!(
            "Wan2GP serves `{task_type}` by default: the plugin that usually serves the type is not in the plugins folder."
        ),
        Some(Owner::Wan2gp) => format!("Wan2GP serves `{task_type}`: it is one of its own types."),
        Some(Owner::Comfyui) => format!(
            "Wan2GP serves `{task_type}` by default: ComfyUI usually does, but the type is not on the list \
             `routing.comfy_task_types` and has no template."
        ),
        None if offers.plugins.contains_key(task_type) => {
            format!("Wan2GP serves `{task_type}` by default: no list, template or preset names the type.")
        }
        None => {
            let offered =
                [&offers.comfyui_templates, &offers.wan2gp_presets].into_iter().flat_map(|files| files.keys());
            let known = known_types().iter().map(|known| known.name);
            let known = known.chain(offers.plugins.keys().chain(offered).map(String::as_str));
            let hint = nearest(task_type, known).map_or(String::new(), |meant| format!("; did you mean `{meant}`?"));
            let end = if hint.is_empty() { "." } else { "" };
            format!("Wan2GP serves `{task_type}` by default: unknown type{hint}{end}")
        }
    }
}

/// A workflow is an object, or the JSON text of one.
fn may_be_workflow(value: &Value) -> bool {
    value.is_object() || value.as_str().is_some_and(|text| text.trim_start().starts_with('{'))
}

fn described(plugin: &OfferedPlugin) -> String {
    format!("Plugin `{}` {} ({}, digest {})", plugin.name, plugin.version, plugin.file, plugin.digest.short())
}

fn other(engine: EngineKind) -> EngineKind {
    match engine {
        EngineKind::Comfyui => EngineKind::Wan2gp,
        EngineKind::Wan2gp => EngineKind::Comfyui,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    fn plugin(name: &str) -> OfferedPlugin {
        OfferedPlugin {
            name: name.into(),
            version: "1.2.0".into(),
            digest: Digest::of(name.as_bytes()),
            file: format!("{name}.wasm"),
        }
    }

    fn retired(name: &str) -> RetiredPlugin {
        RetiredPlugin { name: name.into(), file: format!("{name}.wasm"), digest: Digest::of(name.as_bytes()) }
    }

    fn with<V>(task_type: &str, value: V) -> BTreeMap<String, V> {
        BTreeMap::from([(task_type.to_string(), value)])
    }

    fn params(value: Value) -> Map<String, Value> {
        value.as_object().unwrap().clone()
    }

    fn decide(task_type: &str, value: Value, offers: &Offers) -> Route {
        route(task_type, &params(value), offers, &RoutingConfig::default())
    }

    #[test]
    fn a_plugin_serves_its_type_and_the_route_says_what_would_without_it() {
        let offers = Offers { plugins: with("travel_stitch", plugin("travel_stitch")), ..Offers::default() };
        let route = decide("travel_stitch", json!({}), &offers);
        assert_eq!(route.handler.kind(), "plugin");
        let short = Digest::of(b"travel_stitch").short();
        for part in ["travel_stitch.wasm", "1.2.0", &short] {
            assert!(route.reason.contains(part), "{part} in {}", route.reason);
        }
        let fallback = route.if_retired.unwrap();
        assert_eq!(fallback.handler, Handler::Wan2gp { name: None });
        assert!(!fallback.reason.is_empty());
    }

    #[test]
    fn simple_mode_ignores_plugins_and_says_so() {
        let offers = Offers { plugins: with("travel_stitch", plugin("travel_stitch")), ..Offers::default() };
        let config = RoutingConfig { mode: Mode::Simple, ..RoutingConfig::default() };
        let route = route("travel_stitch", &Map::new(), &offers, &config);
        assert_eq!((route.handler.kind(), &route.if_retired), ("wan2gp", &None));
        assert!(route.reason.contains("`routing.mode` is `simple`"), "{}", route.reason);
    }

    #[test]
    fn a_template_goes_before_a_preset_and_a_preset_before_the_default() {
        let mut offers = Offers {
            comfyui_templates: with("upscale", "upscale.json".to_string()),
            wan2gp_presets: with("upscale", "upscale.json".to_string()),
            ..Offers::default()
        };
        assert_eq!(
            decide("upscale", json!({}), &offers).handler,
            Handler::Comfyui { name: Some("upscale.json".into()) }
        );
        offers.comfyui_templates.clear();
        assert_eq!(
            decide("upscale", json!({}), &offers).handler,
            Handler::Wan2gp { name: Some("upscale.json".into()) }
        );
        assert_eq!(decide("comfy", json!({}), &offers).handler, Handler::Comfyui { name: None });
        assert_eq!(decide("flux", json!({}), &offers).handler, Handler::Wan2gp { name: None });
    }

    #[test]
    fn a_task_that_names_its_engine_never_runs_on_the_other_one() {
        let none = Offers::default();
        let template = Offers { comfyui_templates: with("upscale", "upscale.json".into()), ..Offers::default() };
        let both = Offers { wan2gp_presets: with("upscale", "p.json".into()), ..template.clone() };
        let cases = [
            ("t2v", json!({"engine": "wan2gp"}), &none, "wan2gp"),
            ("t2v", json!({"engine": null}), &none, "wan2gp"),
            ("t2v", json!({"engine": "comfyui"}), &none, "refused"),
            ("t2v", json!({"engine": "comfyui", "workflow": {}}), &none, "comfyui"),
            ("t2v", json!({"engine": "comfyui", "workflow": "text"}), &none, "refused"),
            ("comfy", json!({"engine": "wan2gp"}), &none, "refused"),
            ("comfy", json!({"engine": "comfyui"}), &none, "comfyui"),
            ("upscale", json!({"engine": "wan2gp"}), &template, "refused"),
            ("upscale", json!({"engine": "comfyui"}), &template, "comfyui"),
            ("upscale", json!({"engine": "wan2gp"}), &both, "wan2gp"),
            ("t2v", json!({"engine": "comfy"}), &none, "refused"),
            ("t2v", json!({"engine": 7}), &none, "refused"),
        ];
        for (task_type, params, offers, expected) in cases {
            let route = decide(task_type, params.clone(), offers);
            assert_eq!(route.handler.kind(), expected, "{task_type} {params}: {}", route.reason);
            assert!(params["engine"].is_null() || route.reason.contains("engine"), "{}", route.reason);
        }
    }

    #[test]
    fn a_plugin_serves_a_task_that_names_an_engine_and_the_other_engine_is_closed_to_it() {
        let offers = Offers { plugins: with("t2v", plugin("mine")), ..Offers::default() };
        let route = decide("t2v", json!({"engine": "comfyui"}), &offers);
        assert_eq!(route.handler.kind(), "plugin");
        assert!(route.reason.contains("Wan2GP will be refused"), "{}", route.reason);
        assert_eq!(route.if_retired.unwrap().handler, Handler::Refused);
    }

    #[test]
    fn a_type_that_only_a_plugin_knows_is_not_taken_for_a_misspelling_once_the_plugin_is_gone() {
        let offers = Offers { plugins: with("mine", plugin("mine")), ..Offers::default() };
        let fallback = decide("mine", json!({}), &offers).if_retired.unwrap();
        assert!(!fallback.reason.contains("did you mean"), "{}", fallback.reason);
    }

    #[test]
    fn an_unknown_type_goes_to_wan2gp_with_a_hint() {
        let route = decide("travel_stich", json!({}), &Offers::default());
        assert_eq!(route.handler, Handler::Wan2gp { name: None });
        assert!(route.reason.contains("unknown type; did you mean `travel_stitch`?"), "{}", route.reason);
        let route = decide("edit_video_segment_of_mine", json!({}), &Offers::default());
        assert!(route.reason.ends_with("unknown type."), "{}", route.reason);
    }

    #[test]
    fn a_missing_prompt_names_the_retired_handler_and_the_way_back() {
        let offers = Offers { retired: with("travel_stitch", retired("travel_stitch")), ..Offers::default() };
        let failure = prompt_required(&decide("travel_stitch", json!({}), &offers), &offers);
        assert_eq!((failure.code.as_str(), failure.class.as_str()), ("prompt_required", "invalid-input"));
        assert!(!failure.retry);
        let digest = Digest::of(b"travel_stitch").to_string();
        for part in ["retired", "Wan2GP", "travel_stitch.wasm", &digest, "plugins folder"] {
            assert!(failure.message.contains(part), "{part} in {}", failure.message);
        }

        let none = Offers::default();
        let never_seen = prompt_required(&decide("extract_frame", json!({}), &none), &none).message;
        assert!(never_seen.contains("No handler for `extract_frame` is installed"), "{never_seen}");
        let own = prompt_required(&decide("t2v", json!({}), &none), &none).message;
        assert!(!own.contains("plugin"), "{own}");
    }

    fn some_type() -> impl Strategy<Value = String> {
        prop_oneof![Just("comfy".to_string()), Just("t2v".to_string()), "[a-d]", "\\PC{0,12}"]
    }

    fn some_offers() -> impl Strategy<Value = Offers> {
        let types = || prop::collection::btree_set(some_type(), 0..4);
        (types(), types(), types(), types()).prop_map(|(plugins, retireds, templates, presets)| Offers {
            plugins: plugins.into_iter().map(|t| (t, plugin("some"))).collect(),
            retired: retireds.into_iter().map(|t| (t, retired("some"))).collect(),
            comfyui_templates: templates.into_iter().map(|t| (t, "t.json".to_string())).collect(),
            wan2gp_presets: presets.into_iter().map(|t| (t, "p.json".to_string())).collect(),
        })
    }

    fn some_params() -> impl Strategy<Value = Map<String, Value>> {
        let engine = prop_oneof![
            Just(None),
            Just(Some(json!("comfyui"))),
            Just(Some(json!("wan2gp"))),
            Just(Some(json!("else"))),
            Just(Some(json!([1])))
        ];
        (engine, any::<bool>()).prop_map(|(engine, workflow)| {
            let workflow = workflow.then(|| json!({}));
            let members = [("engine", engine), ("workflow", workflow)];
            members.into_iter().filter_map(|(k, v)| Some((k.to_string(), v?))).collect()
        })
    }

    proptest! {
        #[test]
        fn every_task_gets_a_decision_that_keeps_the_rules(
            task_type in some_type(),
            params in some_params(),
            offers in some_offers(),
            simple in any::<bool>(),
            comfy_task_types in prop::collection::vec(some_type(), 0..3),
            refuse in prop::collection::vec(some_type(), 0..3),
        ) {
            let mode = if simple { Mode::Simple } else { Mode::Hybrid };
            let config = RoutingConfig { mode, comfy_task_types, refuse };
            let route = route(&task_type, &params, &offers, &config);
            let kind = route.handler.kind();
            prop_assert!(route.reason.ends_with(['.', '?']), "{}", route.reason);
            if config.refuse.contains(&task_type) {
                prop_assert_eq!(kind, "refused");
            }
            if simple {
                prop_assert_ne!(kind, "plugin");
            }
            prop_assert_eq!(kind == "plugin", route.if_retired.is_some());
            let engines = route.if_retired.as_ref().map_or(kind, |fallback| fallback.handler.kind());
            match named_engine(&params) {
                Ok(Some(named)) => prop_assert!([named.as_str(), "refused"].contains(&engines)),
                Ok(None) => {}
                Err(_) => prop_assert_eq!(kind, "refused"),
            }
            prop_assert_eq!(prompt_required(&route, &offers).code, "prompt_required");
        }
    }
}
