//! Components become machine code, once per version, and are mapped from then on.

use std::fs::{self, File};
use std::io::Write;
use std::path::Path;

use wasmtime::Engine;
use wasmtime::component::Component;

use crate::task::Failure;

/// Compiles a component file into an artifact file: written aside, fsynced, renamed, so that a file under that name is
/// always whole.
pub(super) fn compile_file(engine: &Engine, component: &Path, artifact: &Path) -> Result<(), Failure> {
    let bytes = fs::read(component).map_err(|e| {
        Failure::internal("component_unreadable", format!("{} cannot be read: {e}.", component.display()))
    })?;
    let code = engine.precompile_component(&bytes).map_err(|e| {
        Failure::invalid("component_invalid", format!("{} cannot be compiled: {e:#}.", component.display()))
    })?;
    let aside = artifact.with_extension(format!("{}.part", std::process::id()));
    write_durably(&aside, artifact, &code).map_err(|e| {
        let _ = fs::remove_file(&aside);
        Failure::internal(
            "artifact_not_written",
            format!("The compiled form of {} was not written to {}: {e}.", component.display(), artifact.display()),
        )
    })
}

fn write_durably(aside: &Path, target: &Path, bytes: &[u8]) -> std::io::Result<()> {
    let folder = target.parent().filter(|f| !f.as_os_str().is_empty()).unwrap_or(Path::new("."));
    fs::create_dir_all(folder)?;
    let mut file = File::create(aside)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    fs::rename(aside, target)?;
    File::open(folder)?.sync_all()
}

/// Maps an artifact that [`compile_file`] of this host wrote.
pub(super) fn map(engine: &Engine, artifact: &Path) -> Result<Component, Failure> {
    // SAFETY: the file is machine code that will be run as it is. It was written by `compile_file` into a folder that only
    // the host writes to, under a name no outsider can give it, and is replaced by renaming, never changed: what is mapped
    // stays what it was. wasmtime itself refuses files of another version or configuration.
    #[expect(
        unsafe_code,
        reason = "mapping our own compiled artifacts is the only way to load them in well under a millisecond"
    )]
    let mapped = unsafe { Component::deserialize_file(engine, artifact) };
    mapped.map_err(|e| {
        Failure::internal(
            "artifact_unusable",
            format!(
                "The compiled component {} cannot be loaded: {e:#}. It must be compiled again.",
                artifact.display()
            ),
        )
    })
}
