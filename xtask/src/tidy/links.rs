//! Pages point at what exists and keep their length: relative links, and paths of the project in backticks.

use super::Findings;
use crate::repository::Repository;

/// Pages and the most lines they may have; a trailing `/` means every page in the folder.
const LENGTHS: &[(&str, usize)] = &[("ARCHITECTURE.md", 250), ("docs/decisions/", 60)];

/// A path in backticks that begins so is a path of the project.
const ROOTS: &[&str] = &["crates/", "docs/", "examples/", "bench/", "xtask/", ".ci/", ".cargo/"];

/// Checks every Markdown page.
pub(super) fn rule(repository: &Repository, found: &mut Findings) {
    for (path, text) in repository.ending(".md") {
        let folder = path.rsplit_once('/').map_or("", |(folder, _)| folder);
        let mut in_code = false;
        for (number, line) in (1..).zip(text.lines()) {
            if line.trim_start().starts_with("```") {
                in_code = !in_code;
            }
            if in_code {
                continue;
            }
            for target in links(line).filter_map(|link| resolve(folder, link)) {
                if !repository.has(&target) {
                    found.broken(&format!("{path}:{number}"), format!("links to `{target}`, which is not there"));
                }
            }
            for named in line.split('`').skip(1).step_by(2).filter(|named| is_path(named)) {
                if !repository.has(named) {
                    found.broken(&format!("{path}:{number}"), format!("names `{named}`, which is not there"));
                }
            }
        }
        for (page, most) in LENGTHS {
            let lines = text.lines().count();
            if (*page == path || (page.ends_with('/') && path.starts_with(page))) && lines > *most {
                found.broken(path, format!("{lines} lines; at most {most}"));
            }
        }
    }
}

fn is_path(named: &str) -> bool {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_./".contains(c);
    ROOTS.iter().any(|root| named.starts_with(root)) && named.chars().all(plain)
}

/// The targets of `[text](target)` on a line.
fn links(line: &str) -> impl Iterator<Item = &str> {
    line.split("](").skip(1).filter_map(|rest| rest.split_once(')').map(|(target, _)| target))
}

/// The path of the project that a link means, or `None` when it leads elsewhere.
fn resolve(folder: &str, link: &str) -> Option<String> {
    let target = link.split('#').next().unwrap_or(link);
    if target.is_empty() || target.contains("://") || target.starts_with("mailto:") {
        return None;
    }
    let mut names: Vec<&str> = if folder.is_empty() { Vec::new() } else { folder.split('/').collect() };
    for name in target.split('/') {
        match name {
            "" | "." => {}
            ".." => {
                names.pop();
            }
            name => names.push(name),
        }
    }
    Some(names.join("/"))
}

#[cfg(test)]
mod tests {
    use super::super::broken;
    use super::*;

    fn check(page: &str, text: &str) -> Vec<String> {
        broken(rule, &[(page, text), ("docs/guide/start.md", "# Start\n"), ("crates/a/src/lib.rs", "//! A.\n")])
    }

    #[test]
    fn links_and_named_paths_must_exist() {
        assert!(
            check("docs/a.md", "[start](guide/start.md#top) and [up](../crates/a) and `crates/a/src/lib.rs`\n")
                .is_empty()
        );
        assert_eq!(
            check("docs/a.md", "[start](start.md)\n"),
            ["docs/a.md:1: links to `docs/start.md`, which is not there"]
        );
        assert_eq!(check("README.md", "see `crates/b/src`\n").len(), 1);
        assert!(check("README.md", "see `crates/*/src`, [site](https://example.com)\n```\n[x](y)\n```\n").is_empty());
    }

    #[test]
    fn decisions_are_short() {
        assert_eq!(check("docs/decisions/0001-x.md", &"a\n".repeat(61)).len(), 1);
        assert!(check("docs/decisions/0001-x.md", &"a\n".repeat(60)).is_empty());
    }
}
