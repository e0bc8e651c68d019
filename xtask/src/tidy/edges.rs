//! The edges between crates and the homes of heavy dependencies, as lists; a new edge is a decision, not an accident.
//!
//! **Invariant:** every crate of the workspace is in [`EDGES`], and a crate's edges go only to crates above it there.

use super::Findings;
use crate::repository::Repository;

/// Each crate and the crates it may know: model ← checkpoint ← runtime ← {sql, connect, delta} ← serve ← tidemill.
const EDGES: &[(&str, &[&str])] = &[
    ("tidemill-model", &[]),
    ("tidemill-checkpoint", &["tidemill-model"]),
    ("tidemill-runtime", &["tidemill-model", "tidemill-checkpoint"]),
    ("tidemill-sql", &["tidemill-model", "tidemill-checkpoint", "tidemill-runtime"]),
    ("tidemill-connect", &["tidemill-model", "tidemill-checkpoint", "tidemill-runtime"]),
    ("tidemill-delta", &["tidemill-model", "tidemill-checkpoint", "tidemill-runtime"]),
    ("tidemill-serve", &["tidemill-model", "tidemill-checkpoint", "tidemill-runtime", "tidemill-sql"]),
    (
        "tidemill",
        &[
            "tidemill-model",
            "tidemill-checkpoint",
            "tidemill-runtime",
            "tidemill-sql",
            "tidemill-connect",
            "tidemill-delta",
            "tidemill-serve",
        ],
    ),
    (
        "tidemill-testkit",
        &["tidemill-model", "tidemill-checkpoint", "tidemill-runtime", "tidemill-sql", "tidemill-connect"],
    ),
    (
        "tidemill-e2e",
        &[
            "tidemill-model",
            "tidemill-checkpoint",
            "tidemill-runtime",
            "tidemill-sql",
            "tidemill-connect",
            "tidemill-delta",
            "tidemill-serve",
            "tidemill",
            "tidemill-testkit",
        ],
    ),
    // Names every heavy dependency and nothing of ours: built beside one crate, it gives that crate's dependencies the
    // features they have in the whole workspace, so that nothing heavy is built twice.
    ("tidemill-deps", &[]),
    ("xtask", &[]),
];

/// Heavy dependencies and the crates whose manifest may name them.
const HOMES: &[(&str, &[&str])] = &[
    ("deltalake-core", &["tidemill-delta", "tidemill-deps"]),
    ("deltalake", &[]),
    ("axum", &["tidemill-serve", "tidemill-deps"]),
    ("clap", &["tidemill", "tidemill-deps"]),
    ("rusqlite", &["tidemill", "tidemill-deps"]),
    ("datafusion", &["tidemill-sql", "tidemill-delta", "tidemill", "tidemill-e2e", "tidemill-deps"]),
];

/// Checks every manifest.
pub(super) fn rule(repository: &Repository, found: &mut Findings) {
    for (path, text) in repository.ending("/Cargo.toml") {
        let manifest = Manifest::parse(text);
        let Some((_, allowed)) = EDGES.iter().find(|(name, _)| *name == manifest.name) else {
            found.broken(path, format!("crate `{}` has no line in xtask/src/tidy/edges.rs", manifest.name));
            continue;
        };
        for dependency in &manifest.dependencies {
            let ours = EDGES.iter().any(|(name, _)| name == dependency);
            if ours && !allowed.contains(&dependency.as_str()) {
                let known = if allowed.is_empty() { "none of ours".to_owned() } else { allowed.join(", ") };
                found.broken(path, format!("`{}` must not know `{dependency}`; it may know {known}", manifest.name));
            }
            if let Some((_, homes)) = HOMES.iter().find(|(name, _)| name == dependency)
                && !homes.contains(&manifest.name.as_str())
            {
                let homes = if homes.is_empty() { "no crate".to_owned() } else { homes.join(", ") };
                found.broken(path, format!("`{dependency}` may be named by {homes} only"));
            }
        }
        if manifest.name == "xtask" && !manifest.dependencies.is_empty() {
            found.broken(path, "xtask is std only, so that it builds in a second");
        }
    }
}

/// What a manifest says that matters here.
struct Manifest {
    name: String,
    dependencies: Vec<String>,
}

impl Manifest {
    /// Reads the few shapes of line that our manifests use; an unknown shape under a dependency table still counts by
    /// its first word.
    fn parse(text: &str) -> Manifest {
        let mut manifest = Manifest { name: String::new(), dependencies: Vec::new() };
        let mut table = "";
        for line in text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#')) {
            if let Some(header) = line.strip_prefix('[') {
                table = header.trim_end_matches(']').trim_start_matches('[');
                // `[dependencies.arrow]` names its dependency in the header.
                if let Some((before, name)) = table.rsplit_once('.')
                    && is_dependencies(before)
                {
                    manifest.dependencies.push(name.trim_matches('"').to_owned());
                }
            } else if table == "package" && line.starts_with("name") {
                manifest.name = quoted(line).unwrap_or_default();
            } else if is_dependencies(table) {
                let key = line.split(['.', '=', ' ']).next().unwrap_or(line).trim_matches('"');
                let renamed = line.split_once("package").and_then(|(_, rest)| quoted(rest));
                manifest.dependencies.push(renamed.unwrap_or_else(|| key.to_owned()));
            } else if table.rsplit_once('.').is_some_and(|(before, _)| is_dependencies(before))
                && line.starts_with("package")
            {
                manifest.dependencies.extend(quoted(line));
            }
        }
        manifest
    }
}

fn is_dependencies(table: &str) -> bool {
    let last = table.rsplit('.').next().unwrap_or(table);
    matches!(last, "dependencies" | "dev-dependencies" | "build-dependencies") && !table.starts_with("workspace")
}

fn quoted(line: &str) -> Option<String> {
    line.split('"').nth(1).map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::super::broken;
    use super::*;

    fn check(manifest: &str) -> Vec<String> {
        broken(rule, &[("crates/x/Cargo.toml", manifest)])
    }

    #[test]
    fn edges_go_leftwards_only() {
        assert!(
            check("[package]\nname = \"tidemill-sql\"\n[dependencies]\ntidemill-runtime.workspace = true\n").is_empty()
        );
        let found =
            check("[package]\nname = \"tidemill-sql\"\n[dev-dependencies]\ntidemill-connect.workspace = true\n");
        assert_eq!(found.len(), 1);
        assert!(found[0].contains("`tidemill-sql` must not know `tidemill-connect`"), "{found:?}");
    }

    #[test]
    fn every_shape_of_dependency_is_seen() {
        for dependency in [
            "[dependencies]\naxum.workspace = true",
            "[dependencies]\naxum = \"0.8\"",
            "[dependencies]\nweb = { version = \"0.8\", package = \"axum\" }",
            "[dependencies.axum]\nversion = \"0.8\"",
            "[dependencies.web]\npackage = \"axum\"",
            "[target.'cfg(unix)'.dependencies]\naxum = \"0.8\"",
            "[build-dependencies]\n\"axum\" = \"0.8\"",
        ] {
            let found = check(&format!("[package]\nname = \"tidemill-model\"\n{dependency}\n"));
            assert_eq!(found.len(), 1, "{dependency}: {found:?}");
        }
    }

    #[test]
    fn an_unlisted_crate_is_refused() {
        assert!(check("[package]\nname = \"tidemill-common\"\n")[0].contains("no line in"));
    }

    #[test]
    fn the_list_itself_points_upwards() {
        for (at, (name, allowed)) in EDGES.iter().enumerate() {
            for edge in *allowed {
                assert!(EDGES[..at].iter().any(|(above, _)| above == edge), "{name} -> {edge}");
            }
        }
    }
}
