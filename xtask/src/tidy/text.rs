//! What no text of the project holds: work left open, hosts of registries, a last line without its end.

use super::Findings;
use crate::repository::Repository;

/// Words for work left open, in any file. In halves, so that this file does not hold them.
const OPEN: &[&str] = &[concat!("TO", "DO"), concat!("FIX", "ME"), concat!("XX", "X")];
/// Calls for work left open, in Rust.
const OPEN_CALLS: &[&str] = &[concat!("db", "g!("), concat!("to", "do!("), concat!("unimpl", "emented!(")];
/// Registries are a matter of each machine's own configuration.
const HOSTS: &[&str] =
    &[concat!("crates", ".io"), concat!("pypi", ".org"), concat!("maven", ".org"), concat!("docker", ".io")];

/// Checks every text file.
pub(super) fn rule(repository: &Repository, found: &mut Findings) {
    for (path, text) in &repository.files {
        if !text.is_empty() && !text.ends_with('\n') {
            found.broken(path, "the last line does not end in a newline");
        }
        if text.contains('\r') {
            found.broken(path, "lines end in CR LF; write LF alone");
        }
        if path == "Cargo.lock" {
            continue;
        }
        for (number, line) in (1..).zip(text.lines()) {
            let mut refuse =
                |what: &str, why: &str| found.broken(&format!("{path}:{number}"), format!("`{what}`: {why}"));
            for word in OPEN.iter().filter(|word| has_word(line, word)) {
                refuse(word, "do it, or write an issue");
            }
            for call in OPEN_CALLS.iter().filter(|call| path.ends_with(".rs") && line.contains(*call)) {
                refuse(call, "not in code that is kept");
            }
            for host in HOSTS.iter().filter(|host| line.contains(*host)) {
                refuse(host, "registries are configured on each machine, not named here");
            }
        }
    }
}

fn has_word(line: &str, word: &str) -> bool {
    let mut rest = line;
    while let Some((before, after)) = rest.split_once(word) {
        let inside = |c: Option<char>| c.is_some_and(|c| c.is_alphanumeric() || c == '_');
        if !inside(before.chars().next_back()) && !inside(after.chars().next()) {
            return true;
        }
        rest = after;
    }
    false
}

#[cfg(test)]
mod tests {
    use super::super::broken;
    use super::*;

    #[test]
    fn open_work_is_refused_as_a_word() {
        for word in OPEN {
            assert_eq!(broken(rule, &[("a.md", &format!("see {word}: later\n"))]).len(), 1, "{word}");
            assert!(broken(rule, &[("a.md", &format!("see {word}S_ALL\n"))]).is_empty(), "{word}");
        }
        for call in OPEN_CALLS {
            assert_eq!(broken(rule, &[("a.rs", &format!("    {call}x);\n"))]).len(), 1, "{call}");
        }
    }

    #[test]
    fn the_place_is_named() {
        let text = format!("one\nsee {}\n", HOSTS[0]);
        assert!(broken(rule, &[("docs/a.md", &text)])[0].starts_with("docs/a.md:2: "));
    }

    #[test]
    fn lines_end() {
        assert_eq!(broken(rule, &[("a.sql", "SELECT 1")]).len(), 1);
        assert_eq!(broken(rule, &[("a.sql", "SELECT 1\r\n")]).len(), 1);
    }
}
