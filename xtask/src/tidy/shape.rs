//! The shape of source files: a leading `//!`, and a length that one sitting can read.
//!
//! **Invariant:** lines of tests do not count; what tests hold in common does.

use super::Findings;
use crate::repository::Repository;

/// From here on a file is worth a look.
const LOOK: usize = 500;
/// From here on it is refused.
const REFUSE: usize = 800;

/// Checks every Rust file.
pub(super) fn rule(repository: &Repository, found: &mut Findings) {
    for (path, text) in repository.ending(".rs") {
        if !text.starts_with("//!") {
            found.broken(path, "must begin with `//!`: what this is, its main type, one invariant");
        }
        if is_test(path) {
            continue;
        }
        let lines = lines_before_tests(text);
        if lines > REFUSE {
            found.broken(path, format!("{lines} lines without its tests; more than {REFUSE} is refused, split it"));
        } else if lines > LOOK {
            found.note(path, format!("{lines} lines without its tests; look for the split"));
        }
    }
}

fn is_test(path: &str) -> bool {
    path.ends_with("/tests.rs") || path.contains("/tests/") || path.starts_with("crates/tidemill-e2e/")
}

/// Lines up to an inline test module; `#[cfg(test)]` on anything else is one more line.
fn lines_before_tests(text: &str) -> usize {
    let lines: Vec<&str> = text.lines().collect();
    let is_module = |line: &&str| line.trim_start().starts_with("mod ") && line.trim_end().ends_with('{');
    lines
        .iter()
        .enumerate()
        .position(|(at, line)| line.trim() == "#[cfg(test)]" && lines.get(at + 1).is_some_and(is_module))
        .unwrap_or(lines.len())
}

#[cfg(test)]
mod tests {
    use super::super::broken;
    use super::*;

    #[test]
    fn the_first_line_says_what_the_file_is() {
        assert!(broken(rule, &[("a.rs", "//! A thing.\n")]).is_empty());
        assert_eq!(broken(rule, &[("a.rs", "use std::fmt;\n")]).len(), 1);
    }

    #[test]
    fn tests_do_not_count() {
        let code = "//! x\n".to_owned() + &"fn f() {}\n".repeat(REFUSE - 1);
        let with_tests = code.clone() + "#[cfg(test)]\nmod tests {\n" + &"// t\n".repeat(500) + "}\n";
        assert!(broken(rule, &[("a.rs", &with_tests)]).is_empty());
        let declared_first = "//! x\n#[cfg(test)]\nmod tests;\n".to_owned() + &"fn f() {}\n".repeat(REFUSE);
        assert_eq!(broken(rule, &[("a.rs", &declared_first)]).len(), 1);
        assert!(broken(rule, &[("a/tests.rs", &declared_first)]).is_empty());
    }
}
