//! Whether a file can be a plugin of this host, found out with a parser alone, before anything is compiled: is it a
//! component, does it export `guest`, of which contract version, and does this host have everything it imports. What is
//! wrong is said in one sentence without a subject; the caller puts the file's name in front.

use std::fmt;

use wasmparser::component_types::ComponentEntityType;
use wasmparser::{ComponentExternalKind, Encoding, Parser, Payload, Validator, WasmFeatures};

/// The contract of this host, `wit/`: its package…
const PACKAGE: &str = "enginehouse:plugin";
/// … its version (a minor only adds)…
pub(super) const CONTRACT: Version = Version { major: 1, minor: 0 };
/// … the functions of what a plugin exports…
const GUEST: &[&str] = &["describe", "handle"];
/// … and the interfaces that a plugin may import, each with its functions.
const INTERFACES: &[(&str, &[&str])] = &[
    ("artifacts", &["resolve", "read", "write", "publish"]),
    ("assist", &["caption", "guidance"]),
    ("engines", &["submit-generation", "submit-workflow", "wait", "wait-any", "cancel", "model-info"]),
    ("http", &["send", "send-once"]),
    ("log", &["write"]),
    ("media", &["probe", "render"]),
    ("progress", &["report"]),
    ("secrets", &["placeholder"]),
    ("settings", &["get"]),
    ("tasks", &["create", "children", "get", "wait", "cancel", "remove"]),
    ("types", &[]),
];

/// The packages of WASI 0.2 whose interfaces are linked, empty, because every language's standard library imports them.
const WASI: &[&str] = &["wasi:cli", "wasi:clocks", "wasi:filesystem", "wasi:io", "wasi:random", "wasi:sockets"];

/// Every WebAssembly file begins with it.
const WASM_MAGIC: &[u8] = b"\0asm";
/// Executables begin with it, and so do artifacts that wasmtime compiled.
const ELF_MAGIC: &[u8] = b"\x7fELF";

/// A contract version as far as it matters: patches change no signature.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Version {
    major: u64,
    minor: u64,
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.major, self.minor)
    }
}

/// Everything that can be seen without compiling. The error is the rest of a sentence that begins with the file's name.
pub(in crate::plugins) fn validate(bytes: &[u8]) -> Result<(), String> {
    check_outside(bytes)?;
    check_inside(bytes)
}

/// The cheap part: names and versions at the component's outside. Enough for bytes that passed [`validate`] before,
/// perhaps on a host with another contract.
pub(super) fn check_outside(bytes: &[u8]) -> Result<(), String> {
    if is_compiled_artifact(bytes) {
        return Err(COMPILED_ARTIFACT.into());
    }
    if bytes.is_empty() {
        return Err("is an empty file: copy the component again".into());
    }
    if !bytes.starts_with(WASM_MAGIC) {
        return Err("is not WebAssembly: a plugin is a component built with `enginehouse plugin build`".into());
    }
    let outside = outside(bytes)?;
    let contract = outside.guest.ok_or_else(|| {
        format!(
            "does not export `{PACKAGE}/guest@{CONTRACT}`, which is what makes a component a plugin: build it with the \
             SDK (`enginehouse plugin build`)"
        )
    })?;
    let newest = outside.imports.iter().filter_map(Import::contract).chain([contract]).max().unwrap_or(contract);
    check_contract(newest)?;
    outside.imports.iter().try_for_each(Import::check)
}

/// Begins as compiled code does. A host loads none but its own: it is native code and runs without a sandbox.
pub(super) fn is_compiled_artifact(bytes: &[u8]) -> bool {
    bytes.starts_with(ELF_MAGIC)
}

/// The rest of the sentence about compiled code.
pub(super) const COMPILED_ARTIFACT: &str = "is compiled native code, which no host takes from a file because it would \
     run outside the sandbox: put the component (`.wasm`) there, and the host compiles it";

/// The whole body is well-formed, and the functions behind the names are those of the contract.
fn check_inside(bytes: &[u8]) -> Result<(), String> {
    let types = Validator::new_with_features(WasmFeatures::default()).validate_all(bytes).map_err(damaged)?;
    let types = types.as_ref();
    let functions = |ty: ComponentEntityType| -> Vec<String> {
        let ComponentEntityType::Instance(id) = ty else { return Vec::new() };
        let of = |(name, item): (&String, &wasmparser::component_types::ComponentItem)| {
            matches!(item.ty, ComponentEntityType::Func(_)).then(|| name.clone())
        };
        types.get(id).into_iter().flat_map(|instance| instance.exports.iter()).filter_map(of).collect()
    };
    let outside = outside(bytes)?;
    for import in &outside.imports {
        let Some(interface) = import.interface_of(PACKAGE) else { continue };
        let Some((_, known)) = INTERFACES.iter().find(|(name, _)| *name == interface) else { continue };
        let wanted = types.component_item_for_import(&import.0).map(|item| functions(item.ty)).unwrap_or_default();
        if let Some(unknown) = wanted.iter().find(|f| !known.contains(&f.as_str())) {
            return Err(format!(
                "imports the function `{unknown}` of `{import}`, which contract {CONTRACT} of this host ({}) does not \
                 have: build it with the SDK of that contract",
                host()
            ));
        }
    }
    let has = outside
        .guest_name
        .and_then(|name| types.component_item_for_export(&name))
        .map(|item| functions(item.ty))
        .unwrap_or_default();
    match GUEST.iter().find(|f| !has.iter().any(|h| h == *f)) {
        Some(missing) => Err(format!(
            "exports `{PACKAGE}/guest` without its function `{missing}`: build it with the SDK (`enginehouse plugin \
             build`)"
        )),
        None => Ok(()),
    }
}

/// What a component shows to others.
#[derive(Default)]
struct Outside {
    imports: Vec<Import>,
    /// Contract version of the exported `guest`, and the export's full name.
    guest: Option<Version>,
    guest_name: Option<String>,
}

/// Walks the sections of the outermost component; what lies inside is passed over.
fn outside(bytes: &[u8]) -> Result<Outside, String> {
    let mut found = Outside::default();
    let mut depth = 0_usize;
    for payload in Parser::new(0).parse_all(bytes) {
        match payload.map_err(damaged)? {
            Payload::Version { encoding, .. } => {
                if depth == 0 && encoding == Encoding::Module {
                    return Err("is a core WebAssembly module, not a component: build it for the target \
                                wasm32-wasip2 with `enginehouse plugin build`"
                        .into());
                }
                depth += 1;
            }
            Payload::End(_) => depth = depth.saturating_sub(1),
            Payload::ComponentImportSection(section) if depth == 1 => {
                for import in section {
                    found.imports.push(Import(import.map_err(damaged)?.name.full_name().into_owned()));
                }
            }
            Payload::ComponentExportSection(section) if depth == 1 => {
                for export in section {
                    let export = export.map_err(damaged)?;
                    let name = Import(export.name.full_name().into_owned());
                    if export.kind == ComponentExternalKind::Instance && name.interface_of(PACKAGE) == Some("guest") {
                        found.guest = name.version();
                        found.guest_name = Some(name.0);
                    }
                }
            }
            _ => {}
        }
    }
    Ok(found)
}

fn check_contract(contract: Version) -> Result<(), String> {
    let host = host();
    if contract.major != CONTRACT.major {
        return Err(format!(
            "is built against contract {contract}, and this host ({host}) speaks contract {CONTRACT}: it needs a host \
             with contract {}, or must be built against contract {CONTRACT}",
            contract.major
        ));
    }
    if contract > CONTRACT {
        return Err(format!(
            "is built against contract {contract}, and this host ({host}) speaks contract {CONTRACT}: it needs a newer \
             host, one with contract {contract} or a later {}.x",
            contract.major
        ));
    }
    Ok(())
}

fn host() -> String {
    format!("enginehouse {}", env!("CARGO_PKG_VERSION"))
}

fn damaged(error: wasmparser::BinaryReaderError) -> String {
    format!(
        "is incomplete or damaged at byte {}: {}; copy it again, best under another name that is then renamed",
        error.offset(),
        error.message()
    )
}

/// The full name of an import or export: `package/interface@version` for an interface, something else otherwise.
struct Import(String);

impl fmt::Display for Import {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl Import {
    /// `package`, `interface` and `version`, the last possibly empty.
    fn parts(&self) -> Option<(&str, &str, &str)> {
        let (name, version) = self.0.split_once('@').unwrap_or((&self.0, ""));
        let (package, interface) = name.split_once('/')?;
        Some((package, interface, version))
    }

    fn interface_of(&self, package: &str) -> Option<&str> {
        self.parts().filter(|(p, _, _)| *p == package).map(|(_, interface, _)| interface)
    }

    fn version(&self) -> Option<Version> {
        let mut numbers = self.parts()?.2.split('.').map(|part| part.parse().ok());
        Some(Version { major: numbers.next()??, minor: numbers.next()?? })
    }

    /// The contract version it asks for, if it is part of the contract.
    fn contract(&self) -> Option<Version> {
        self.interface_of(PACKAGE).and(self.version())
    }

    /// Called for contract versions that the host has.
    fn check(&self) -> Result<(), String> {
        let Some((package, interface, version)) = self.parts() else {
            return Err(format!(
                "imports `{self}`, which no host offers: a plugin imports nothing but interfaces of \
                 `{PACKAGE}@{CONTRACT}` and of WASI 0.2"
            ));
        };
        if package == PACKAGE {
            if INTERFACES.iter().any(|(name, _)| *name == interface) && self.version().is_some() {
                return Ok(());
            }
            let known: Vec<_> = INTERFACES.iter().map(|(name, _)| *name).collect();
            return Err(format!(
                "imports `{self}`, an interface that contract {CONTRACT} of this host ({}) does not have: build it \
                 with the SDK of that contract, whose interfaces are {}",
                host(),
                known.join(", ")
            ));
        }
        if package.starts_with("wasi:") && !(version == "0.2" || version.starts_with("0.2.")) {
            return Err(format!(
                "imports `{self}`, and this host ({}) offers WASI 0.2: build it for the target wasm32-wasip2",
                host()
            ));
        }
        if WASI.contains(&package) {
            return Ok(());
        }
        if package == "wasi:http" {
            return Err(format!(
                "imports `{self}`, and plugins have no network of their own: build it without wasi:http (JavaScript: \
                 `--disable http`) and send requests with `{PACKAGE}/http@{CONTRACT}`"
            ));
        }
        Err(format!(
            "imports `{self}`, which this host ({}) does not offer: a plugin imports nothing but interfaces of \
             `{PACKAGE}@{CONTRACT}` and {} in version 0.2",
            host(),
            WASI.join(", ")
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A component, by hand: each import is an instance of the functions named, and `guest` re-exports the first.
    fn component(imports: &[(&str, &[&str])], guest: Option<&str>) -> Vec<u8> {
        fn text(name: &str) -> Vec<u8> {
            [&[u8::try_from(name.len()).unwrap()], name.as_bytes()].concat()
        }
        fn section(id: u8, count: usize, items: Vec<u8>) -> Vec<u8> {
            let body = [vec![u8::try_from(count).unwrap()], items].concat();
            let size = body.len();
            let leb = [u8::try_from(size & 0x7f).unwrap() | 0x80, u8::try_from(size >> 7).unwrap()];
            [&[id][..], &leb, &body].concat()
        }
        let mut out = b"\0asm\x0d\x00\x01\x00".to_vec();
        let mut types = Vec::new();
        let mut names = Vec::new();
        for (i, (name, functions)) in imports.iter().enumerate() {
            // An instance type: a function type without params and result, then one export for each function.
            types.extend([0x42, u8::try_from(1 + functions.len()).unwrap(), 0x01, 0x40, 0x00, 0x01, 0x00]);
            for function in *functions {
                types.extend([&[0x04, 0x00][..], &text(function), &[0x01, 0x00]].concat());
            }
            names.extend([&[0x00][..], &text(name), &[0x05, u8::try_from(i).unwrap()]].concat());
        }
        out.extend(section(7, imports.len(), types));
        out.extend(section(10, imports.len(), names));
        if let Some(guest) = guest {
            out.extend(section(11, 1, [&[0x00][..], &text(guest), &[0x05, 0x00, 0x00]].concat()));
        }
        out
    }

    const FULL: (&str, &[&str]) = ("enginehouse:plugin/types@1.0.0", &["describe", "handle"]);

    fn refusal(bytes: &[u8]) -> String {
        validate(bytes).unwrap_err()
    }

    #[test]
    fn a_component_that_exports_guest_and_imports_what_the_host_has_passes() {
        // `types` has no functions in the contract, so the re-exported instance comes from WASI here.
        let bytes = component(
            &[
                ("wasi:cli/environment@0.2.6", &["describe", "handle"]),
                ("wasi:sockets/tcp@0.2.3", &[]),
                ("enginehouse:plugin/engines@1.0.0", &["submit-generation", "wait"]),
                ("enginehouse:plugin/types@1.0.7", &[]),
            ],
            Some("enginehouse:plugin/guest@1.0.0"),
        );
        assert_eq!(validate(&bytes), Ok(()));
    }

    #[test]
    fn each_mistake_has_its_sentence() {
        let guest = Some("enginehouse:plugin/guest@1.0.0");
        let wasi: (&str, &[&str]) = ("wasi:cli/exit@0.2.0", &["describe", "handle"]);
        let host = host();
        let cases: Vec<(Vec<u8>, String)> = vec![
            (Vec::new(), "is an empty file: copy the component again".into()),
            (
                b"PK\x03\x04 something".to_vec(),
                "is not WebAssembly: a plugin is a component built with `enginehouse plugin build`".into(),
            ),
            (b"\x7fELF\x02\x01\x01".to_vec(), COMPILED_ARTIFACT.into()),
            (
                b"\0asm\x01\0\0\0".to_vec(),
                "is a core WebAssembly module, not a component: build it for the target wasm32-wasip2 with \
                 `enginehouse plugin build`"
                    .into(),
            ),
            (
                component(&[], None),
                "does not export `enginehouse:plugin/guest@1.0`, which is what makes a component a plugin: build it \
                 with the SDK (`enginehouse plugin build`)"
                    .into(),
            ),
            (
                component(&[wasi], Some("enginehouse:plugin/guest@1.2.0")),
                format!(
                    "is built against contract 1.2, and this host ({host}) speaks contract 1.0: it needs a newer \
                     host, one with contract 1.2 or a later 1.x"
                ),
            ),
            (
                component(&[wasi, ("enginehouse:plugin/media@1.1.0", &[])], guest),
                format!(
                    "is built against contract 1.1, and this host ({host}) speaks contract 1.0: it needs a newer \
                     host, one with contract 1.1 or a later 1.x"
                ),
            ),
            (
                component(&[wasi], Some("enginehouse:plugin/guest@2.0.0")),
                format!(
                    "is built against contract 2.0, and this host ({host}) speaks contract 1.0: it needs a host with \
                     contract 2, or must be built against contract 1.0"
                ),
            ),
            (
                component(&[wasi, ("enginehouse:plugin/gpu@1.0.0", &[])], guest),
                format!(
                    "imports `enginehouse:plugin/gpu@1.0.0`, an interface that contract 1.0 of this host ({host}) \
                     does not have: build it with the SDK of that contract, whose interfaces are artifacts, assist, \
                     engines, http, log, media, progress, secrets, settings, tasks, types"
                ),
            ),
            (
                component(&[wasi, ("enginehouse:plugin/tasks@1.0.0", &["create", "burn"])], guest),
                format!(
                    "imports the function `burn` of `enginehouse:plugin/tasks@1.0.0`, which contract 1.0 of this host \
                     ({host}) does not have: build it with the SDK of that contract"
                ),
            ),
            (
                component(&[wasi, ("wasi:http/types@0.2.3", &[])], guest),
                "imports `wasi:http/types@0.2.3`, and plugins have no network of their own: build it without wasi:http \
                 (JavaScript: `--disable http`) and send requests with `enginehouse:plugin/http@1.0`"
                    .into(),
            ),
            (
                component(&[wasi, ("wasi:cli/stdin@0.3.0", &[])], guest),
                format!(
                    "imports `wasi:cli/stdin@0.3.0`, and this host ({host}) offers WASI 0.2: build it for the target \
                     wasm32-wasip2"
                ),
            ),
            (
                component(&[wasi, ("acme:cloud/bucket@2.1.0", &[])], guest),
                format!(
                    "imports `acme:cloud/bucket@2.1.0`, which this host ({host}) does not offer: a plugin imports \
                     nothing but interfaces of `enginehouse:plugin@1.0` and wasi:cli, wasi:clocks, wasi:filesystem, \
                     wasi:io, wasi:random, wasi:sockets in version 0.2"
                ),
            ),
            (
                component(&[wasi, ("print", &[])], guest),
                "imports `print`, which no host offers: a plugin imports nothing but interfaces of \
                 `enginehouse:plugin@1.0` and of WASI 0.2"
                    .into(),
            ),
            (
                component(&[("wasi:cli/exit@0.2.0", &["describe"])], guest),
                "exports `enginehouse:plugin/guest` without its function `handle`: build it with the SDK (`enginehouse \
                 plugin build`)"
                    .into(),
            ),
        ];
        for (bytes, sentence) in cases {
            assert_eq!(refusal(&bytes), sentence);
        }
    }

    #[test]
    fn a_component_cut_anywhere_is_called_incomplete_and_never_passes() {
        let whole = component(&[FULL], Some("enginehouse:plugin/guest@1.0.0"));
        for end in 9..whole.len() - 1 {
            let sentence = refusal(&whole[..end]);
            assert!(
                sentence.starts_with("is incomplete or damaged at byte ") || sentence.starts_with("does not export"),
                "{end}: {sentence}"
            );
        }
    }

    #[test]
    fn the_contract_here_is_the_one_in_wit() {
        let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../wit");
        let mut found = Vec::new();
        for file in std::fs::read_dir(folder).unwrap() {
            let text = std::fs::read_to_string(file.unwrap().path()).unwrap();
            assert!(text.contains(&format!("package {PACKAGE}@{CONTRACT}.")), "{text}");
            let Some(interface) = text.lines().find_map(|line| line.strip_prefix("interface ")) else { continue };
            let functions: Vec<_> = text
                .lines()
                .filter_map(|line| line.split_once(": func(").map(|(name, _)| name.trim().to_string()))
                .collect();
            found.push((interface.trim_end_matches(" {").to_string(), functions));
        }
        found.sort();
        let own = |(name, functions): &(&str, &[&str])| {
            (name.to_string(), functions.iter().map(|f| f.to_string()).collect::<Vec<_>>())
        };
        let mut known: Vec<_> = INTERFACES.iter().chain(&[("guest", GUEST)]).map(own).collect();
        known.sort();
        assert_eq!(found, known);
    }
}
