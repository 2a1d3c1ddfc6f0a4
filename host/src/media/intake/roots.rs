//! Which local paths a task may name: files below the operator's roots, wherever symbolic links lead. Of files outside
//! nothing is told, not even whether they exist.

use std::path::{Component, Path, PathBuf};

use crate::task::Failure;

/// The real path of a file that was named. Codes: `path_not_allowed`, `input_not_found` (below a root alone).
pub(super) fn locate(roots: &[PathBuf], named: &Path) -> Result<PathBuf, Failure> {
    // (as configured, as it really is)
    let real: Vec<(PathBuf, PathBuf)> = roots
        .iter()
        .filter_map(|root| Some((plain(&std::path::absolute(root).ok()?), root.canonicalize().ok()?)))
        .collect();
    // A relative path counts from every root; joining an absolute one gives itself.
    let mut candidates: Vec<PathBuf> = real.iter().map(|(root, _)| plain(&root.join(named))).collect();
    candidates.dedup();
    let mut end = not_allowed(roots, named);
    for candidate in candidates {
        // Before the file system is asked: paths that are written as lying outside are not looked at.
        if !real.iter().any(|(root, real)| candidate.starts_with(root) || candidate.starts_with(real)) {
            continue;
        }
        match look(&candidate, &real) {
            Place::Inside(path) => return Ok(path),
            Place::Outside => return Err(not_allowed(roots, named)),
            Place::Missing => {
                let message = format!("There is no file {} below the folders that tasks may read.", named.display());
                end = Failure::invalid("input_not_found", message);
            }
        }
    }
    Err(end)
}

pub(super) fn not_allowed(roots: &[PathBuf], named: &Path) -> Failure {
    let list = match roots {
        [] => "none is configured".to_string(),
        _ => roots.iter().map(|root| root.display().to_string()).collect::<Vec<_>>().join(", "),
    };
    Failure::denied(
        "path_not_allowed",
        format!(
            "The path {} is not below one of the folders that tasks may read ({list}). Put the file there, or have the \
             operator add its folder to `inputs.roots`.",
            named.display()
        ),
    )
}

enum Place {
    Inside(PathBuf),
    Outside,
    Missing,
}

/// Where a path really leads. Of a missing file the deepest part that exists decides: a link that leads out must not
/// tell what is there.
fn look(path: &Path, roots: &[(PathBuf, PathBuf)]) -> Place {
    let inside = |real: &Path| roots.iter().any(|(_, root)| real.starts_with(root));
    for (steps, part) in path.ancestors().enumerate() {
        match part.canonicalize() {
            Ok(real) if !inside(&real) => return Place::Outside,
            Ok(real) if steps == 0 => return Place::Inside(real),
            Ok(_) => return Place::Missing,
            // A link without an end: who knows where it would lead.
            Err(_) if part.is_symlink() => return Place::Outside,
            Err(_) => {}
        }
    }
    Place::Missing
}

/// Without `.` and `..`, as it is written.
fn plain(path: &Path) -> PathBuf {
    let mut plain = PathBuf::new();
    for component in path.components() {
        match component {
            Component::CurDir => {}
            Component::ParentDir => {
                plain.pop();
            }
            other => plain.push(other),
        }
    }
    plain
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;

    use super::*;

    fn code(roots: &[PathBuf], named: impl AsRef<Path>) -> String {
        match locate(roots, named.as_ref()) {
            Ok(path) => fs::read_to_string(path).unwrap_or_else(|_| "a folder".into()),
            Err(failure) => failure.code,
        }
    }

    #[test]
    fn only_files_really_below_a_root_are_found_and_nothing_is_told_of_others() {
        let folder = tempfile::tempdir().unwrap();
        let at = |path: &str| folder.path().join(path);
        for made in ["in/sub", "more", "out", "in-not"] {
            fs::create_dir_all(at(made)).unwrap();
        }
        for (file, text) in [("in/a", "a"), ("in/sub/b", "b"), ("more/c", "c"), ("out/secret", "s"), ("in-not/n", "n")]
        {
            fs::write(at(file), text).unwrap();
        }
        for (link, target) in [
            ("in/leads-in", "a"),
            ("in/leads-over", "../more/c"),
            ("in/leads-out", "../out/secret"),
            ("in/folder-out", "../out"),
            ("in/dangling", "../out/nothing"),
            ("in/loop", "loop"),
            ("root-by-link", "in"),
        ] {
            symlink(target, at(link)).unwrap();
        }
        let roots = [at("in"), at("more"), at("not-there")];
        for (path, expected) in [
            ("in/a", "a"),
            ("in/sub/../a", "a"),
            ("in/./sub/b", "b"),
            ("more/c", "c"),
            ("in/leads-in", "a"),
            ("in/leads-over", "c"),
            ("in/nothing", "input_not_found"),
            ("in/a/nothing", "input_not_found"),
            ("in/sub/nothing/deeper", "input_not_found"),
            ("not-there/x", "path_not_allowed"),
            ("out/secret", "path_not_allowed"),
            ("out/nothing", "path_not_allowed"),
            ("in-not/n", "path_not_allowed"),
            ("in/../out/secret", "path_not_allowed"),
            ("in/leads-out", "path_not_allowed"),
            ("in/folder-out/secret", "path_not_allowed"),
            ("in/folder-out/nothing", "path_not_allowed"),
            ("in/dangling", "path_not_allowed"),
            ("in/dangling/deeper", "path_not_allowed"),
            ("in/loop", "path_not_allowed"),
        ] {
            assert_eq!(code(&roots, at(path)), expected, "{path}");
        }
        assert_eq!(code(&roots, "a"), "a");
        assert_eq!(code(&roots, "sub/b"), "b");
        assert_eq!(code(&roots, "c"), "c", "relative paths count from every root");
        assert_eq!(code(&roots, "../out/secret"), "path_not_allowed");
        assert_eq!(code(&roots, "nothing"), "input_not_found");
        assert_eq!(code(&[at("root-by-link")], at("root-by-link/a")), "a");
        assert_eq!(code(&[at("root-by-link")], at("in/a")), "a");
        assert_eq!(code(&[], at("in/a")), "path_not_allowed");
        let message = locate(&roots, &at("out/secret")).unwrap_err().message;
        assert!(message.contains("inputs.roots") && message.contains(at("more").to_str().unwrap()), "{message}");
    }
}
