//! Which requests the operator's rules allow. Pure: no request is made here.

use std::net::IpAddr;

use url::{Host, Url};

use crate::config::{Grant, HttpRule};
use crate::net::Allowed;
use crate::task::Failure;

/// Code `request_not_allowed`, with the rules that there are and the one that would be needed.
pub(super) fn allowed(plugin: &str, grant: &Grant, method: &str, url: &Url) -> Result<(), Failure> {
    if grant.http.iter().any(|rule| fits(rule, method, url)) {
        return Ok(());
    }
    let host = host(url);
    let given: Vec<String> = grant.http.iter().map(in_words).collect();
    let given = if given.is_empty() { "there is none".to_string() } else { format!("there are: {}", given.join("; ")) };
    Err(Failure::denied(
        "request_not_allowed",
        format!(
            "The plugin {plugin} may not send {method} {host}{}: no rule of the operator allows it ({given}). It would take \
             one with host = \"{host}\" in `[plugins.grants.{plugin}]`, `http`.",
            url.path()
        ),
    ))
}

/// Whether a host is one of a list, with or without its port.
pub(super) fn listed(hosts: &[String], url: &Url) -> bool {
    hosts.iter().any(|host| is_host(host, url))
}

/// Whether a request may carry a secret past everybody on the way: it is https, on the usual port or on one that `hosts`
/// names; or it goes to an address that the operator listed, as for a server on the same machine.
pub(super) fn confidential(grant: &Grant, hosts: &[String], url: &Url) -> bool {
    let address = match url.host() {
        Some(Host::Ipv4(address)) => Some(IpAddr::V4(address)),
        Some(Host::Ipv6(address)) => Some(IpAddr::V6(address)),
        Some(Host::Domain(_)) | None => None,
    };
    let port = url.port_or_known_default();
    let listed = grant.addresses.iter().filter_map(|entry| entry.parse::<Allowed>().ok());
    if listed.into_iter().any(|entry| Some(entry.address) == address && (entry.port.is_none() || entry.port == port)) {
        return true;
    }
    // The URL's parser leaves the usual port out.
    let named = url.port().map(|port| format!("{}:{port}", host(url)));
    url.scheme() == "https" && named.is_none_or(|named| hosts.iter().any(|host| host.eq_ignore_ascii_case(&named)))
}

/// A rule names a host for all its ports, or a host with one port.
fn is_host(rule: &str, url: &Url) -> bool {
    let name = host(url);
    let with_port = url.port_or_known_default().map(|port| format!("{name}:{port}"));
    rule.eq_ignore_ascii_case(&name) || with_port.is_some_and(|full| rule.eq_ignore_ascii_case(&full))
}

fn fits(rule: &HttpRule, method: &str, url: &Url) -> bool {
    let method_fits = if rule.methods.is_empty() {
        method == "GET"
    } else {
        rule.methods.iter().any(|allowed| allowed.eq_ignore_ascii_case(method))
    };
    method_fits && is_host(&rule.host, url) && below(&rule.path, url.path())
}

/// Whether a path begins with a prefix that ends at a segment's border: `/v1` covers `/v1` and `/v1/jobs`, not `/v10`.
fn below(prefix: &str, path: &str) -> bool {
    // `..` is resolved by the URL's parser. What is left of it in disguise might be resolved by the server.
    let lower = path.to_ascii_lowercase();
    if !matches!(prefix, "" | "/") && (lower.contains("%2f") || lower.contains("%5c")) {
        return false;
    }
    let prefix = prefix.strip_suffix('/').unwrap_or(prefix);
    path.strip_prefix(prefix).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

fn host(url: &Url) -> String {
    url.host_str().unwrap_or_default().to_ascii_lowercase()
}

fn in_words(rule: &HttpRule) -> String {
    let methods = if rule.methods.is_empty() { "GET".to_string() } else { rule.methods.join(", ") };
    format!("{methods} {}{}", rule.host, rule.path)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn grant(host: &str, methods: &[&str], path: &str) -> Grant {
        let methods = methods.iter().map(|m| m.to_string()).collect();
        Grant { http: vec![HttpRule { host: host.into(), methods, path: path.into() }], ..Grant::default() }
    }

    fn says(grant: &Grant, method: &str, url: &str) -> bool {
        allowed("p", grant, method, &url.parse().unwrap()).is_ok()
    }

    #[test]
    fn a_rule_covers_its_host_its_methods_and_whole_segments_of_its_path() {
        let rule = grant("api.example.com", &["post"], "/v1");
        for (method, url, yes) in [
            ("POST", "https://api.example.com/v1", true),
            ("POST", "https://API.example.com/v1/jobs?x=1", true),
            ("POST", "http://api.example.com:8080/v1/", true),
            ("GET", "https://api.example.com/v1", false),
            ("POST", "https://api.example.com/v10", false),
            ("POST", "https://api.example.com/", false),
            ("POST", "https://api.example.com/v1/../admin", false),
            ("POST", "https://api.example.com/v1/%2e%2e/admin", false),
            ("POST", "https://api.example.com/v1/..%2fadmin", false),
            ("POST", "https://example.com/v1", false),
            ("POST", "https://api.example.com.evil.net/v1", false),
            ("POST", "https://evil.net/?api.example.com/v1", false),
            ("POST", "https://api.example.com@evil.net/v1", false),
        ] {
            assert_eq!(says(&rule, method, url), yes, "{method} {url}");
        }
    }

    #[test]
    fn secrets_travel_encrypted_to_the_port_that_is_meant_or_to_a_listed_address() {
        let addresses = ["10.0.0.1:8080", "10.0.0.2", "::1"].map(String::from).to_vec();
        let grant = Grant { addresses, ..Grant::default() };
        let hosts = ["api.example.com", "other.example.com:8443"].map(String::from);
        for (url, yes) in [
            ("https://api.example.com/v1", true),
            ("https://api.example.com:443/v1", true),
            ("https://api.example.com:8443/v1", false),
            ("http://api.example.com/v1", false),
            ("http://api.example.com:443/v1", false),
            ("https://OTHER.example.com:8443/v1", true),
            ("http://other.example.com:8443/v1", false),
            ("http://10.0.0.1:8080/", true),
            ("http://10.0.0.1:8081/", false),
            ("http://10.0.0.2:8081/", true),
            ("https://10.0.0.3:8081/", false),
            ("http://[::1]:8081/", true),
        ] {
            assert_eq!(confidential(&grant, &hosts, &url.parse().unwrap()), yes, "{url}");
        }
    }

    #[test]
    fn without_methods_a_rule_is_for_reading_and_without_a_path_for_everything() {
        let rule = grant("example.com:8188", &[], "");
        assert!(says(&rule, "GET", "http://example.com:8188/any/thing"));
        assert!(!says(&rule, "GET", "http://example.com/any"));
        assert!(!says(&rule, "POST", "http://example.com:8188/"));
    }

    #[test]
    fn nothing_granted_allows_nothing_and_says_what_it_would_take() {
        let url = "https://example.com/x?token=1".parse().unwrap();
        let failure = allowed("stitch", &Grant::default(), "GET", &url).unwrap_err();
        assert_eq!(failure.code, "request_not_allowed");
        assert!(failure.message.contains("[plugins.grants.stitch]") && failure.message.contains("example.com"));
        assert!(!failure.message.contains("token"), "the query may hold what must not be shown");
    }
}
