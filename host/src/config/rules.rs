//! What must hold between settings and within lists, beyond the kind of each value. Pure.

use super::{Config, Grant};
use crate::nearest::nearest;
use crate::net::Allowed;

/// What plugins may be granted.
pub const CAPABILITIES: [&str; 7] = ["engines", "tasks", "artifacts", "media", "assist", "http", "secrets"];

/// A rule that settings break.
pub(super) struct Broken {
    /// The settings that take part.
    pub keys: Vec<String>,
    pub message: String,
}

impl Broken {
    fn new(key: &str, message: String) -> Self {
        Self { keys: vec![key.to_string()], message }
    }
}

/// Every broken rule.
pub(super) fn broken(config: &Config) -> Vec<Broken> {
    let mut broken = Vec::new();
    let (lease, renew) = (config.worker.lease_seconds, config.worker.renew_seconds);
    if renew >= lease {
        let keys = ["worker.renew_seconds", "worker.lease_seconds"].map(String::from).to_vec();
        let message = format!(
            "A claim must be renewed before it expires: `worker.renew_seconds` ({renew}) must be smaller than \
             `worker.lease_seconds` ({lease})."
        );
        broken.push(Broken { keys, message });
    }
    comfyui(config, &mut broken);
    capabilities("plugins.grant", &config.plugins.grant, &mut broken);
    addresses("inputs.addresses", &config.inputs.addresses, &mut broken);
    for (name, grant) in &config.plugins.grants {
        of_plugin(name, grant, &mut broken);
    }
    broken
}

fn comfyui(config: &Config, broken: &mut Vec<Broken>) {
    let comfyui = &config.engines.comfyui;
    if comfyui.root.is_some() && comfyui.url.is_some() {
        let keys = ["engines.comfyui.root", "engines.comfyui.url"].map(String::from).to_vec();
        let message = "ComfyUI is either started by this host (`engines.comfyui.root`) or run by somebody else \
                       (`engines.comfyui.url`): set one of the two."
            .to_string();
        broken.push(Broken { keys, message });
    }
    if let Some(url) = &comfyui.url
        && !url::Url::parse(url).is_ok_and(|url| matches!(url.scheme(), "http" | "https") && url.host().is_some())
    {
        let message = format!("`{url}` is no address: expected one such as `http://127.0.0.1:8188`.");
        broken.push(Broken::new("engines.comfyui.url", message));
    }
    let (inner, outer) = (comfyui.cancel_grace_seconds, config.engines.cancel_grace_seconds);
    if inner >= outer {
        let keys = ["engines.comfyui.cancel_grace_seconds", "engines.cancel_grace_seconds"].map(String::from).to_vec();
        let message = format!(
            "ComfyUI must have its time to stop a prompt before the lane leaves it: `engines.comfyui.cancel_grace_seconds` \
             ({inner}) must be smaller than `engines.cancel_grace_seconds` ({outer})."
        );
        broken.push(Broken { keys, message });
    }
    for (name, source) in &comfyui.headers {
        if source.env.is_some() == source.file.is_some() {
            let message = format!("Header `{name}` needs `env` or `file`, one of the two.");
            broken.push(Broken::new("engines.comfyui.headers", message));
        }
    }
}

fn of_plugin(name: &str, grant: &Grant, broken: &mut Vec<Broken>) {
    let key = |field: &str| format!("plugins.grants.{name}.{field}");
    capabilities(&key("capabilities"), grant.capabilities.as_deref().unwrap_or_default(), broken);
    addresses(&key("addresses"), &grant.addresses, broken);
    let mut wrong = |field: &str, message: String| broken.push(Broken::new(&key(field), message));
    for rule in &grant.http {
        if rule.host.is_empty() || rule.host.contains(['/', '*']) {
            wrong("http", format!("`host` is `{}`: expected the exact name of one host.", rule.host));
        }
        if !rule.path.is_empty() && !rule.path.starts_with('/') {
            wrong("http", format!("`path` is `{}`: expected a path that begins with `/`.", rule.path));
        }
    }
    for (secret, grant) in &grant.secrets {
        if grant.env.is_some() == grant.file.is_some() {
            wrong("secrets", format!("Secret `{secret}` needs `env` or `file`, one of the two."));
        }
        if grant.hosts.is_empty() {
            wrong("secrets", format!("Secret `{secret}` has no `hosts`: it could be sent nowhere."));
        }
    }
}

fn capabilities(key: &str, list: &[String], broken: &mut Vec<Broken>) {
    for name in list.iter().filter(|name| !CAPABILITIES.contains(&name.as_str())) {
        let hint = nearest(name, CAPABILITIES).map_or(String::new(), |meant| format!(" Did you mean `{meant}`?"));
        let known = CAPABILITIES.join(", ");
        broken.push(Broken::new(key, format!("`{key}` names `{name}`, which is no capability ({known}).{hint}")));
    }
}

fn addresses(key: &str, list: &[String], broken: &mut Vec<Broken>) {
    let wrong = list.iter().filter_map(|entry| entry.parse::<Allowed>().err());
    broken.extend(wrong.map(|e| Broken::new(key, format!("`{key}`: {e}"))));
}
