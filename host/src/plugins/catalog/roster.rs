//! Who is in service: the rules, without any I/O. Files are offered, refused, renamed and removed; the roster decides
//! what serves.
//!
//! - A file that is refused leaves in service what it had in service before.
//! - A plugin's name and each of its task types belong to one file. Of two that claim one, the later is refused and
//!   waits: it comes into service by itself when the holder goes.
//! - What goes out of service is remembered by task type, so that a route can say who served a type once.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::record::{History, Past};
use crate::clock::Timestamp;
use crate::digest::Digest;
use crate::plugins::{Plugin, Rejected, Retired};

/// The files of the folder and what each stands for.
#[derive(Default)]
pub(super) struct Roster {
    files: BTreeMap<String, Place>,
    /// By task type that nobody serves: the last plugin that did.
    retired: BTreeMap<String, Past>,
    arrivals: u64,
}

/// One file.
#[derive(Default)]
struct Place {
    serving: Option<Service>,
    /// A valid plugin that another file keeps out, and when it came, in order of arrival.
    waiting: Option<(u64, Arc<Plugin>)>,
    /// Why what lies in the file is not in service.
    rejection: Option<(Option<Digest>, String)>,
}

/// A plugin in service.
#[derive(Clone)]
pub(super) struct Service {
    pub plugin: Arc<Plugin>,
    pub since: Timestamp,
    pub previous: Option<Digest>,
}

impl Roster {
    /// Goes on from an earlier process: these are retired…
    pub fn with_retired(retired: Vec<Past>) -> Self {
        let mut roster = Self::default();
        for past in retired {
            for task_type in &past.task_types {
                roster.retired.insert(task_type.clone(), past.clone());
            }
        }
        roster
    }

    /// … these files had something in service…
    pub fn restore(&mut self, service: Service) {
        let file = service.plugin.file.clone();
        if self.conflict(&file, &service.plugin).is_none() {
            self.files.entry(file).or_default().serving = Some(service);
        }
    }

    /// … and these are gone.
    pub fn restore_retired(&mut self, past: &Past, now: Timestamp) {
        tracing::info!(
            plugin = past.name,
            file = past.file,
            "plugin retired while the host was down: its file is gone"
        );
        for task_type in &past.task_types {
            if self.holder(task_type).is_none() {
                self.retired.insert(task_type.clone(), Past { since: now, ..past.clone() });
            }
        }
    }

    /// A valid plugin lies in the file.
    pub fn offer(&mut self, plugin: Arc<Plugin>, now: Timestamp) {
        let file = plugin.file.clone();
        let conflict = self.conflict(&file, &plugin);
        self.arrivals += 1;
        let place = self.files.entry(file.clone()).or_default();
        place.waiting = None;
        place.rejection = None;
        if place.serving.as_ref().is_some_and(|service| service.plugin.digest == plugin.digest) {
            return;
        }
        match conflict {
            Some(reason) => {
                place.waiting = Some((self.arrivals, plugin.clone()));
                self.refuse_place(&file, Some(plugin.digest), reason);
            }
            None => {
                self.take(plugin, now);
                self.admit_waiting(now);
            }
        }
    }

    /// What lies in the file cannot be a plugin.
    pub fn refuse(&mut self, file: &str, digest: Option<Digest>, reason: String) {
        self.files.entry(file.to_string()).or_default().waiting = None;
        self.refuse_place(file, digest, reason);
    }

    /// The file is gone.
    pub fn remove(&mut self, file: &str, now: Timestamp) {
        let Some(place) = self.files.remove(file) else { return };
        if let Some(service) = place.serving {
            let plugin = &service.plugin;
            tracing::info!(plugin = plugin.manifest.name, file, digest = %plugin.digest, "plugin retired: its file is gone");
            self.retire(&service, now);
        }
        self.admit_waiting(now);
    }

    /// The file has another name; the new name was not in use.
    pub fn rename(&mut self, from: &str, to: &str) {
        let Some(mut place) = self.files.remove(from) else { return };
        tracing::info!(from, to, "a plugin's file was renamed");
        if let Some(service) = &mut place.serving {
            service.plugin = Arc::new(service.plugin.in_file(to));
        }
        if let Some((_, plugin)) = &mut place.waiting {
            *plugin = Arc::new(plugin.in_file(to));
        }
        if let Some((_, reason)) = &mut place.rejection {
            *reason = reason.replacen(&format!("`{from}`"), &format!("`{to}`"), 1);
        }
        self.files.insert(to.to_string(), place);
    }

    pub fn knows(&self, file: &str) -> bool {
        self.files.contains_key(file)
    }

    pub fn files(&self) -> impl Iterator<Item = &String> {
        self.files.keys()
    }

    pub fn serving(&self) -> impl Iterator<Item = &Service> {
        self.files.values().filter_map(|place| place.serving.as_ref())
    }

    pub fn rejected(&self) -> Vec<Rejected> {
        let of = |(file, place): (&String, &Place)| {
            let (digest, reason) = place.rejection.clone()?;
            let still_serving = place.serving.as_ref().map(|service| service.plugin.digest);
            Some(Rejected { file: file.clone(), digest, reason, still_serving })
        };
        self.files.iter().filter_map(of).collect()
    }

    pub fn retired(&self) -> Vec<Retired> {
        let of = |past: Past| Retired {
            name: past.name,
            version: past.version,
            digest: past.digest,
            file: past.file,
            task_types: past.task_types,
            since: past.since,
        };
        self.past().into_iter().map(of).collect()
    }

    pub fn history(&self) -> History {
        let serving =
            self.serving().map(|s| Past::new(&s.plugin.manifest, s.plugin.digest, &s.plugin.file, s.since, s.previous));
        History { serving: serving.collect(), retired: self.past() }
    }

    /// The retired ones, each with the types that it served last.
    fn past(&self) -> Vec<Past> {
        let mut by_plugin: BTreeMap<(&str, Digest), Past> = BTreeMap::new();
        for (task_type, past) in &self.retired {
            let entry = by_plugin
                .entry((&past.name, past.digest))
                .or_insert_with(|| Past { task_types: Vec::new(), ..past.clone() });
            entry.task_types.push(task_type.clone());
        }
        by_plugin.into_values().collect()
    }

    /// Why a plugin cannot come into service from a file, if it cannot.
    fn conflict(&self, file: &str, plugin: &Plugin) -> Option<String> {
        let others = || self.files.iter().filter(|(other, _)| *other != file);
        let others = || others().filter_map(|(other, place)| Some((other, &place.serving.as_ref()?.plugin)));
        for (other, serving) in others() {
            let name = &plugin.manifest.name;
            if serving.digest == plugin.digest {
                return Some(format!(
                    "`{file}` is the same plugin as `{other}`, which is in service: delete one of the two"
                ));
            }
            if serving.manifest.name == *name {
                return Some(format!(
                    "`{file}` is a plugin named `{name}`, and so is `{other}`, which came first: delete one of the \
                     two, or give one another name in its manifest"
                ));
            }
            if let Some(both) = plugin.manifest.task_types.keys().find(|t| serving.manifest.task_types.contains_key(*t))
            {
                return Some(format!(
                    "`{file}` claims task type `{both}`, which `{other}` (plugin `{}`) holds: delete one of the two",
                    serving.manifest.name
                ));
            }
        }
        None
    }

    fn holder(&self, task_type: &str) -> Option<&Service> {
        self.serving().find(|service| service.plugin.manifest.task_types.contains_key(task_type))
    }

    /// Into service, in place of what the file served before.
    fn take(&mut self, plugin: Arc<Plugin>, now: Timestamp) {
        let name = &plugin.manifest.name;
        let retired = self.retired.values().find(|past| past.name == *name);
        let before = match retired {
            // Put back: what was kept for going back still is.
            Some(past) if past.digest == plugin.digest => past.previous,
            Some(past) => Some(past.digest),
            None => None,
        };
        let place = self.files.entry(plugin.file.clone()).or_default();
        place.waiting = None;
        place.rejection = None;
        let replaced = place.serving.take();
        let previous = replaced.as_ref().map(|service| service.plugin.digest).or(before);
        tracing::info!(
            plugin = name, version = plugin.manifest.version, file = plugin.file, digest = %plugin.digest,
            replaces = previous.map(|p| p.short()), "plugin in service"
        );
        place.serving = Some(Service { plugin: plugin.clone(), since: now, previous });
        for task_type in plugin.manifest.task_types.keys() {
            self.retired.remove(task_type);
        }
        if let Some(replaced) = replaced {
            self.retire(&replaced, now);
        }
    }

    /// Remembers the types of a plugin that nobody serves any more.
    fn retire(&mut self, service: &Service, now: Timestamp) {
        let plugin = &service.plugin;
        let past = Past::new(&plugin.manifest, plugin.digest, &plugin.file, now, service.previous);
        for task_type in plugin.manifest.task_types.keys() {
            if self.holder(task_type).is_none() {
                self.retired.insert(task_type.clone(), past.clone());
            }
        }
    }

    /// Those that wait, in order of arrival, as far as nothing keeps them out any more.
    fn admit_waiting(&mut self, now: Timestamp) {
        loop {
            let waiting = self.files.iter().filter_map(|(file, place)| Some((file, place.waiting.as_ref()?)));
            let free = waiting.filter(|(file, (_, plugin))| self.conflict(file, plugin).is_none());
            let Some(next) = free.min_by_key(|(_, (arrival, _))| *arrival).map(|(_, (_, plugin))| plugin.clone())
            else {
                break;
            };
            self.take(next, now);
        }
        self.renew_reasons();
    }

    /// Those that still wait may wait for another file than before.
    fn renew_reasons(&mut self) {
        let reasons: Vec<_> = self
            .files
            .iter()
            .filter_map(|(file, place)| Some((file.clone(), self.conflict(file, &place.waiting.as_ref()?.1)?)))
            .collect();
        for (file, reason) in reasons {
            if let Some((_, old)) = self.files.get_mut(&file).and_then(|place| place.rejection.as_mut()) {
                *old = reason;
            }
        }
    }

    fn refuse_place(&mut self, file: &str, digest: Option<Digest>, reason: String) {
        let place = self.files.entry(file.to_string()).or_default();
        match &place.serving {
            Some(service) => tracing::warn!(
                file,
                plugin = service.plugin.manifest.name,
                still_serving = service.plugin.manifest.version,
                "{reason}; the previous version stays in service"
            ),
            None => tracing::warn!(file, "{reason}"),
        }
        place.rejection = Some((digest, reason));
    }
}

#[cfg(test)]
mod tests {
    use tokio::sync::OnceCell;

    use super::super::manifest::Checked;
    use super::super::plugin::Component;
    use super::*;
    use crate::plugins::Manifest;

    fn plugin(file: &str, name: &str, version: &str, types: &[&str]) -> Arc<Plugin> {
        let manifest: Manifest = serde_json::from_value(serde_json::json!({
            "name": name, "version": version,
            "task_types": types.iter().map(|t| (t.to_string(), serde_json::json!({}))).collect::<serde_json::Map<_, _>>(),
        }))
        .unwrap();
        let digest = Digest::of(format!("{name} {version} {types:?}").as_bytes());
        let checked = Checked { manifest, params: BTreeMap::new() };
        Arc::new(Plugin::of(Arc::new(Component { digest, checked, loaded: OnceCell::new() }), file))
    }

    /// `file:version` of whatever serves, and `file` of whatever is refused.
    fn state(roster: &Roster) -> (Vec<String>, Vec<String>) {
        let serving = roster.serving().map(|s| format!("{}:{}", s.plugin.file, s.plugin.manifest.version)).collect();
        (serving, roster.rejected().into_iter().map(|r| r.file).collect())
    }

    fn says(serving: &[&str], refused: &[&str]) -> (Vec<String>, Vec<String>) {
        let own = |list: &[&str]| list.iter().map(|s| s.to_string()).collect();
        (own(serving), own(refused))
    }

    const NOW: Timestamp = Timestamp(1);

    #[test]
    fn a_refused_replacement_leaves_the_previous_version_in_service() {
        let mut roster = Roster::default();
        let first = plugin("a.wasm", "a", "1", &["x"]);
        roster.offer(first.clone(), NOW);
        roster.refuse("a.wasm", None, "`a.wasm` is broken".into());
        assert_eq!(state(&roster), says(&["a.wasm:1"], &["a.wasm"]));
        assert_eq!(roster.rejected().first().and_then(|r| r.still_serving), Some(first.digest));
        roster.offer(plugin("a.wasm", "a", "2", &["x"]), NOW);
        assert_eq!(state(&roster), says(&["a.wasm:2"], &[]));
        assert_eq!(roster.serving().next().and_then(|s| s.previous), Some(first.digest));
    }

    #[test]
    fn of_two_files_that_claim_one_type_the_later_waits_until_the_holder_goes() {
        let mut roster = Roster::default();
        roster.offer(plugin("z.wasm", "z", "1", &["x", "y"]), NOW);
        roster.offer(plugin("a.wasm", "a", "1", &["x"]), NOW);
        roster.offer(plugin("b.wasm", "b", "1", &["x"]), NOW);
        assert_eq!(state(&roster), says(&["z.wasm:1"], &["a.wasm", "b.wasm"]));
        let reason = |roster: &Roster, i: usize| roster.rejected()[i].reason.clone();
        assert_eq!(
            reason(&roster, 0),
            "`a.wasm` claims task type `x`, which `z.wasm` (plugin `z`) holds: delete one of the two"
        );
        roster.remove("z.wasm", NOW);
        assert_eq!(state(&roster), says(&["a.wasm:1"], &["b.wasm"]));
        assert_eq!(
            reason(&roster, 0),
            "`b.wasm` claims task type `x`, which `a.wasm` (plugin `a`) holds: delete one of the two"
        );
        assert_eq!(roster.retired().iter().map(|r| r.task_types.clone()).collect::<Vec<_>>(), [["y"]]);
    }

    #[test]
    fn a_name_belongs_to_one_file_and_so_do_the_same_bytes() {
        let mut roster = Roster::default();
        roster.offer(plugin("a.wasm", "a", "1", &["x"]), NOW);
        roster.offer(plugin("b.wasm", "a", "2", &["y"]), NOW);
        roster.offer(plugin("c.wasm", "a", "1", &["x"]), NOW);
        let reasons: Vec<_> = roster.rejected().into_iter().map(|r| r.reason).collect();
        assert_eq!(
            reasons,
            [
                "`b.wasm` is a plugin named `a`, and so is `a.wasm`, which came first: delete one of the two, or give \
                 one another name in its manifest",
                "`c.wasm` is the same plugin as `a.wasm`, which is in service: delete one of the two"
            ]
        );
        roster.remove("a.wasm", NOW);
        assert_eq!(state(&roster), says(&["b.wasm:2"], &["c.wasm"]));
    }

    #[test]
    fn a_replacement_that_claims_what_another_holds_is_refused_and_one_that_frees_lets_others_in() {
        let mut roster = Roster::default();
        roster.offer(plugin("a.wasm", "a", "1", &["x"]), NOW);
        roster.offer(plugin("b.wasm", "b", "1", &["y"]), NOW);
        roster.offer(plugin("b.wasm", "b", "2", &["x", "y"]), NOW);
        assert_eq!(state(&roster), says(&["a.wasm:1", "b.wasm:1"], &["b.wasm"]));
        roster.offer(plugin("a.wasm", "a", "2", &["w"]), NOW);
        assert_eq!(state(&roster), says(&["a.wasm:2", "b.wasm:2"], &[]));
        assert!(roster.retired().is_empty(), "x has a server again");
    }

    #[test]
    fn what_is_deleted_is_retired_and_what_is_put_back_is_restored() {
        let mut roster = Roster::default();
        let (one, two) = (plugin("a.wasm", "a", "1", &["x"]), plugin("a.wasm", "a", "2", &["x"]));
        roster.offer(one.clone(), NOW);
        roster.offer(two.clone(), NOW);
        roster.remove("a.wasm", Timestamp(5));
        let retired = roster.retired();
        assert_eq!((retired[0].digest, retired[0].since), (two.digest, Timestamp(5)));
        let mut later = Roster::with_retired(roster.history().retired);
        assert_eq!(later.history(), roster.history());
        later.offer(two, NOW);
        assert!(later.retired().is_empty());
        assert_eq!(later.serving().next().and_then(|s| s.previous), Some(one.digest));
    }

    #[test]
    fn a_renamed_file_keeps_its_place() {
        let mut roster = Roster::default();
        roster.offer(plugin("a.wasm", "a", "1", &["x"]), Timestamp(3));
        roster.refuse("a.wasm", None, "`a.wasm` is broken".into());
        roster.rename("a.wasm", "b.wasm");
        assert_eq!(state(&roster), says(&["b.wasm:1"], &["b.wasm"]));
        assert_eq!(roster.rejected()[0].reason, "`b.wasm` is broken");
        assert_eq!(roster.serving().next().map(|s| s.since), Some(Timestamp(3)));
        assert!(roster.retired().is_empty());
    }
}
