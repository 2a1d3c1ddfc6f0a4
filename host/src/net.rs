//! Connections to the outside. Whoever opens one — downloads, a plugin's HTTP request — goes through a client made
//! here: names are resolved, private, loopback and link-local addresses refused unless allowed by address, and the
//! connection is made to the very address that was checked; redirects are checked again.
//!
//! Two checks make the guard, because an HTTP client asks its resolver about names alone: [`NetPolicy::check_url`] sees
//! addresses that stand in the URL itself and belongs before every request; the client of [`NetPolicy::client`] sees
//! what names resolve to, and applies the first check to every redirect.
//!
//! Proxies of the environment are not used here: behind a proxy the host would no longer see which address is reached,
//! and a name could lead into the private network after all.

use std::error::Error;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::str::FromStr;
use std::sync::Arc;

use reqwest::dns::{Addrs, Name, Resolve, Resolving};
use reqwest::redirect;
use url::{Host, Url};

use crate::task::{Failure, FailureClass};

/// Redirects that one request may follow.
const REDIRECTS: usize = 10;

/// Which addresses may be reached besides public ones.
#[derive(Clone, Debug, Default)]
pub struct NetPolicy {
    /// Addresses (`127.0.0.1`) or addresses with a port (`127.0.0.1:8188`) that are allowed although private. An entry
    /// with a port counts for URLs that name the address itself; a name that resolves to the address needs an entry
    /// without port.
    pub allow: Vec<String>,
}

/// An entry of [`NetPolicy::allow`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Allowed {
    pub address: IpAddr,
    /// None: every port.
    pub port: Option<u16>,
}

impl FromStr for Allowed {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let bare = text.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(text);
        if let Ok(address) = bare.parse::<IpAddr>() {
            return Ok(Self { address, port: None });
        }
        match text.parse::<SocketAddr>() {
            Ok(both) => Ok(Self { address: both.ip(), port: Some(both.port()) }),
            Err(_) => Err(format!("`{text}` is no address: expected `127.0.0.1`, `127.0.0.1:8188` or `[::1]:8188`.")),
        }
    }
}

impl NetPolicy {
    /// A client that keeps the policy. Making one costs some milliseconds: keep it for requests that belong together.
    /// Code `bad_address` for an entry of `allow` that is none, `no_http_client` when TLS cannot be set up.
    pub fn client(&self) -> Result<reqwest::Client, Failure> {
        let redirects = self.guard()?;
        self.client_with(redirect::Policy::custom(move |attempt| match redirects.redirect(&attempt) {
            Ok(()) => attempt.follow(),
            Err(failure) => attempt.error(failure),
        }))
    }

    /// The same client, but redirects are answers like others: for callers with rules of their own for where a request
    /// may go.
    pub fn client_that_stays(&self) -> Result<reqwest::Client, Failure> {
        self.client_with(redirect::Policy::none())
    }

    fn client_with(&self, policy: redirect::Policy) -> Result<reqwest::Client, Failure> {
        // Fails when a provider is installed already: that one is as good.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let guard = Arc::new(self.guard()?);
        reqwest::Client::builder()
            .user_agent(concat!("enginehouse/", env!("CARGO_PKG_VERSION")))
            .dns_resolver(guard)
            .redirect(policy)
            // The address a file came from may carry a signature in its query.
            .referer(false)
            .no_proxy()
            .build()
            .map_err(|e| {
                Failure::unavailable(
                    "no_http_client",
                    format!(
                        "No connection to the outside can be made: {}. Are root certificates installed (package \
                         `ca-certificates`)?",
                        innermost(&e)
                    ),
                )
            })
    }

    /// What can be said before anything is resolved: `http` or `https`, a host, no user name or password (code
    /// `bad_address`), and no private address as host (code `private_address`).
    pub fn check_url(&self, url: &Url) -> Result<(), Failure> {
        self.guard()?.url(url)
    }

    fn guard(&self) -> Result<Guard, Failure> {
        let parse = |entry: &String| entry.parse().map_err(|e: String| Failure::invalid("bad_address", e));
        Ok(Guard { allow: self.allow.iter().map(parse).collect::<Result<_, _>>()? })
    }
}

/// The refusal of this module behind an error of its client, if that is the cause.
pub fn refusal(error: &reqwest::Error) -> Option<Failure> {
    causes(error).find_map(|cause| cause.downcast_ref::<Failure>().cloned())
}

/// The cause at the bottom of an error's chain, in words: what the network said.
pub fn innermost(error: &(dyn Error + 'static)) -> String {
    causes(error).last().map_or_else(String::new, ToString::to_string)
}

/// A URL without what must not be shown: user, password, query and fragment.
pub fn shown(url: &Url) -> String {
    let mut url = url.clone();
    url.set_query(None);
    url.set_fragment(None);
    // Only URLs that cannot have a user refuse to lose it.
    let _ = (url.set_username(""), url.set_password(None));
    url.to_string()
}

/// Why an address is not part of the public internet; none when it is.
pub fn private(address: IpAddr) -> Option<&'static str> {
    match address {
        IpAddr::V4(v4) => private_v4(v4),
        IpAddr::V6(v6) => private_v6(v6),
    }
}

fn causes<'a>(error: &'a (dyn Error + 'static)) -> impl Iterator<Item = &'a (dyn Error + 'static)> {
    std::iter::successors(Some(error), |cause: &&(dyn Error + 'static)| (*cause).source())
}

/// Follows the IANA special-purpose registry; 6to4 relays and class E are of no use to anybody and refused with it.
fn private_v4(address: Ipv4Addr) -> Option<&'static str> {
    match address.octets() {
        [127, ..] => Some("loopback"),
        [10, ..] | [172, 16..=31, ..] | [192, 168, ..] => Some("private"),
        [169, 254, ..] => Some("link-local"),
        [100, 64..=127, ..] => Some("shared by carriers"),
        [0, ..] => Some("unspecified"),
        [192, 0, 2, _] | [198, 51, 100, _] | [203, 0, 113, _] => Some("reserved for documentation"),
        [198, 18 | 19, ..] => Some("reserved for benchmarks"),
        [192, 0, 0, _] | [192, 88, 99, _] => Some("reserved for protocols"),
        [224..=239, ..] => Some("multicast"),
        [240..=255, ..] => Some("reserved"),
        _ => None,
    }
}

/// Public is 2000::/3 without its special parts, and IPv4 in translation (mapped, NAT64, 6to4) where that is public.
fn private_v6(address: Ipv6Addr) -> Option<&'static str> {
    let embedded = |high: u16, low: u16| {
        let ([a, b], [c, d]) = (high.to_be_bytes(), low.to_be_bytes());
        private_v4(Ipv4Addr::new(a, b, c, d))
    };
    match address.segments() {
        [0, 0, 0, 0, 0, 0, 0, 0] => Some("unspecified"),
        [0, 0, 0, 0, 0, 0, 0, 1] => Some("loopback"),
        [0, 0, 0, 0, 0, 0xffff, high, low] | [0x64, 0xff9b, 0, 0, 0, 0, high, low] => embedded(high, low),
        [0x2002, high, low, ..] => embedded(high, low),
        [0xfc00..=0xfdff, ..] => Some("unique-local"),
        [0xfe80..=0xfebf, ..] => Some("link-local"),
        [0xfec0..=0xfeff, ..] => Some("site-local"),
        [0xff00..=0xffff, ..] => Some("multicast"),
        [0x2001, 0xdb8, ..] | [0x3fff, 0..=0x0fff, ..] => Some("reserved for documentation"),
        [0x2001, 0..=0x1ff, ..] => Some("reserved for protocols"),
        [0x2000..=0x3fff, ..] => None,
        _ => Some("reserved"),
    }
}

/// The policy, parsed.
struct Guard {
    allow: Vec<Allowed>,
}

impl Guard {
    fn url(&self, url: &Url) -> Result<(), Failure> {
        let bad = |why: &str| Failure::invalid("bad_address", format!("{} cannot be reached: {why}.", shown(url)));
        if !matches!(url.scheme(), "http" | "https") {
            return Err(bad("only `http` and `https` are supported"));
        }
        if !url.username().is_empty() || url.password().is_some() {
            return Err(bad("the address carries a user name or password, which would end up in logs"));
        }
        let address = match url.host() {
            None => return Err(bad("it names no host")),
            Some(Host::Domain(_)) => return Ok(()),
            Some(Host::Ipv4(address)) => IpAddr::V4(address),
            Some(Host::Ipv6(address)) => IpAddr::V6(address),
        };
        let port = url.port_or_known_default();
        match private(address) {
            Some(kind) if !self.allows(address, port) => Err(refused(None, &[(address, kind)])),
            _ => Ok(()),
        }
    }

    fn redirect(&self, attempt: &redirect::Attempt<'_>) -> Result<(), Failure> {
        let next = attempt.url();
        let denied = |code, why: String| Failure::new(FailureClass::Dependency, code, why);
        if attempt.previous().len() > REDIRECTS {
            return Err(denied(
                "too_many_redirects",
                format!("more than {REDIRECTS} redirects, the last to {}", shown(next)),
            ));
        }
        // What was asked for in confidence must not arrive in the open, where anybody on the way may exchange it.
        if attempt.previous().last().is_some_and(|previous| previous.scheme() == "https") && next.scheme() != "https" {
            let why = format!("it redirects from https to the unprotected address {}", shown(next));
            return Err(denied("insecure_redirect", why));
        }
        self.url(next)
    }

    fn allows(&self, address: IpAddr, port: Option<u16>) -> bool {
        self.allow.iter().any(|entry| entry.address == address && (entry.port.is_none() || entry.port == port))
    }

    /// The addresses of a name that may be reached; the connection is made to one of these and no other.
    fn select(&self, name: &str, addresses: Vec<SocketAddr>) -> Result<Vec<SocketAddr>, Failure> {
        let kind = |address: &SocketAddr| private(address.ip()).filter(|_| !self.allows(address.ip(), None));
        let refusals: Vec<_> = addresses.iter().filter_map(|address| Some((address.ip(), kind(address)?))).collect();
        let public: Vec<_> = addresses.into_iter().filter(|address| kind(address).is_none()).collect();
        if public.is_empty() && !refusals.is_empty() {
            return Err(refused(Some(name), &refusals));
        }
        Ok(public)
    }
}

impl Resolve for Guard {
    fn resolve(&self, name: Name) -> Resolving {
        let guard = Self { allow: self.allow.clone() };
        Box::pin(async move {
            let found = tokio::net::lookup_host((name.as_str(), 0)).await?.collect();
            let addresses = guard.select(name.as_str(), found)?;
            Ok(Box::new(addresses.into_iter()) as Addrs)
        })
    }
}

fn refused(name: Option<&str>, addresses: &[(IpAddr, &str)]) -> Failure {
    let list = |f: &dyn Fn(&(IpAddr, &str)) -> String| addresses.iter().map(f).collect::<Vec<_>>().join(", ");
    let kinds = list(&|(address, kind)| format!("{address} ({kind})"));
    let entries = list(&|(address, _)| format!("`{address}`"));
    let what = match name {
        Some(name) => format!("`{name}` resolves to {kinds}, which is not"),
        None => format!("{kinds} is not"),
    };
    Failure::denied(
        "private_address",
        format!(
            "{what} part of the public internet: such addresses are refused unless the operator allows them. To allow it, \
             add {entries} to `inputs.addresses` (downloads) or to `plugins.grants.NAME.addresses` (requests of a plugin)."
        ),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn policy(allow: &[&str]) -> NetPolicy {
        NetPolicy { allow: allow.iter().map(|entry| entry.to_string()).collect() }
    }

    fn check(url: &str, allow: &[&str]) -> Result<(), String> {
        policy(allow).check_url(&url.parse().unwrap()).map_err(|failure| failure.code)
    }

    #[test]
    fn only_the_public_internet_is_public() {
        let private_ones = [
            "0.0.0.0",
            "0.1.2.3",
            "10.0.0.1",
            "100.64.0.1",
            "100.127.255.255",
            "127.0.0.1",
            "127.9.9.9",
            "169.254.169.254",
            "172.16.0.1",
            "172.31.255.255",
            "192.0.0.8",
            "192.0.2.1",
            "192.88.99.1",
            "192.168.1.1",
            "198.18.0.1",
            "198.19.0.1",
            "198.51.100.7",
            "203.0.113.7",
            "224.0.0.1",
            "239.1.1.1",
            "240.0.0.1",
            "255.255.255.255",
            "::",
            "::1",
            "::ffff:127.0.0.1",
            "::ffff:10.0.0.1",
            "::7f00:1",
            "64:ff9b::a00:1",
            "64:ff9b::7f00:1",
            "64:ff9b:1::1",
            "100::1",
            "2001::1",
            "2001:db8::1",
            "2002:7f00:1::",
            "3fff::1",
            "5f00::1",
            "fc00::1",
            "fd12:3456::1",
            "fe80::1",
            "fec0::1",
            "ff02::1",
        ];
        for text in private_ones {
            assert!(private(text.parse().unwrap()).is_some(), "{text}");
        }
        let public_ones = [
            "1.1.1.1",
            "8.8.8.8",
            "100.63.255.255",
            "100.128.0.1",
            "172.15.0.1",
            "172.32.0.1",
            "192.0.1.1",
            "198.20.0.1",
            "223.255.255.255",
            "2606:4700::1111",
            "2a00:1450::8",
            "::ffff:8.8.8.8",
            "64:ff9b::808:808",
        ];
        for text in public_ones {
            assert_eq!(private(text.parse().unwrap()), None, "{text}");
        }
    }

    #[test]
    fn addresses_in_the_url_are_checked_however_they_are_written() {
        for url in [
            "http://127.0.0.1/",
            "http://2130706433/",
            "http://0x7f.1/",
            "http://0177.0.0.1/",
            "http://[::1]:8080/x",
            "http://[::ffff:127.0.0.1]/",
            "https://169.254.169.254/latest/meta-data",
            "http://0/",
        ] {
            assert_eq!(check(url, &[]), Err("private_address".into()), "{url}");
        }
        assert_eq!(check("https://example.org/a", &[]), Ok(()));
        assert_eq!(check("http://8.8.8.8/a", &[]), Ok(()));
    }

    #[test]
    fn an_entry_allows_its_address_and_its_port_alone() {
        assert_eq!(check("http://127.0.0.1:9/", &["127.0.0.1"]), Ok(()));
        assert_eq!(check("http://127.0.0.1:8188/", &["127.0.0.1:8188"]), Ok(()));
        assert_eq!(check("http://127.0.0.1:8189/", &["127.0.0.1:8188"]), Err("private_address".into()));
        assert_eq!(check("http://127.0.0.2/", &["127.0.0.1"]), Err("private_address".into()));
        assert_eq!(check("http://127.0.0.1/", &["127.0.0.1:80"]), Ok(()));
        assert_eq!(check("http://[::1]:8080/", &["[::1]:8080"]), Ok(()));
        assert_eq!(check("http://[::1]:8081/", &["[::1]"]), Ok(()));
        assert_eq!(check("http://[::1]:8081/", &["::1"]), Ok(()));
        assert_eq!(check("http://[::1]/", &["localhost"]), Err("bad_address".into()));
    }

    #[test]
    fn other_schemes_and_credentials_in_the_address_are_refused() {
        for url in ["ftp://example.org/a", "file:///etc/passwd", "data:text/plain,a", "http://me:secret@example.org/"] {
            assert_eq!(check(url, &[]), Err("bad_address".into()), "{url}");
        }
        let failure = policy(&[]).check_url(&"http://me:secret@example.org/?key=1".parse().unwrap()).unwrap_err();
        assert!(!failure.message.contains("secret") && !failure.message.contains("key"), "{}", failure.message);
    }

    #[test]
    fn of_several_addresses_the_public_ones_remain() {
        let address = |text: &str| SocketAddr::new(text.parse().unwrap(), 0);
        let guard = policy(&["10.0.0.1"]).guard().unwrap();
        let mixed = ["127.0.0.1", "8.8.8.8", "10.0.0.1"].map(address).to_vec();
        assert_eq!(guard.select("x", mixed).unwrap(), ["8.8.8.8", "10.0.0.1"].map(address));
        let failure = guard.select("inner.example", ["10.0.0.2", "::1"].map(address).to_vec()).unwrap_err();
        for part in ["inner.example", "10.0.0.2 (private)", "`::1`", "inputs.addresses"] {
            assert!(failure.message.contains(part), "{part} in {}", failure.message);
        }
        // A port is unknown while a name is resolved: an entry with a port cannot count.
        let guard = policy(&["10.0.0.2:80"]).guard().unwrap();
        assert!(guard.select("x", vec![address("10.0.0.2")]).is_err());
    }
}
