//! Error codes, read from the source: the letter must be the kind's, and [`PAGE`] lists them all.
//!
//! **Invariant:** the page is a function of the source, so a code cannot be added without being listed.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;

use super::Findings;
use crate::repository::Repository;

/// The page that lists every code.
pub(crate) const PAGE: &str = "docs/reference/errors.md";

/// The kinds of error: name, letter, what to do.
const KINDS: &[(&str, char, &str)] = &[
    ("Config", 'C', "fix the project: options, connections, the command line"),
    ("Plan", 'P', "fix the SQL at the place shown"),
    ("Data", 'D', "a record is bad; the policy of its dataset decides"),
    ("Unavailable", 'U', "something outside does not answer or has no room: try again later"),
    ("Fenced", 'F', "another run owns this: stop one of them"),
    ("Corrupt", 'X', "stored bytes are not what was written"),
    ("Internal", 'I', "a defect of Tidemill: please report it"),
];

/// Checks letters and the page, and that no two crates give the same code two meanings. What the crate of nouns uses
/// is the common vocabulary, and free for all.
pub(super) fn rule(repository: &Repository, found: &mut Findings) {
    let codes = codes(repository);
    let mut crates: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
    for code in &codes {
        crates.entry(&code.code).or_default().insert(code.file.split('/').nth(1).unwrap_or(&code.file));
    }
    for (code, owners) in crates.iter().filter(|(_, owners)| owners.len() > 1 && !owners.contains("tidemill-model")) {
        let owners: Vec<&str> = owners.iter().copied().collect();
        found.broken(
            owners.join(", ").as_str(),
            format!("code {code} is used by several crates; give one a new number"),
        );
    }
    for code in &codes {
        let letter = KINDS.iter().find(|(kind, _, _)| *kind == code.kind).map(|(_, letter, _)| *letter);
        if letter.is_none_or(|letter| !code.code.starts_with(letter)) {
            found.broken(&code.file, format!("code {} is not of kind {}", code.code, code.kind));
        }
    }
    if repository.text(PAGE) != page(repository) {
        found.broken(PAGE, "is stale; write it anew: cargo xtask docs");
    }
}

/// The text that [`PAGE`] should have.
pub(crate) fn page(repository: &Repository) -> String {
    let mut text = String::from(
        "<!-- Written by `cargo xtask docs` from the source; do not edit. -->\n# Errors\n\n\
         Every error has a kind, a code, a message, its place where one is known, and a line that says what to do.\n\
         The kind, which is the letter of the code, says what the reader must do.\n",
    );
    let mut by_code: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for code in codes(repository) {
        let messages = by_code.entry(code.code).or_default();
        if let Some(message) = code.message.filter(|message| !messages.contains(message)) {
            messages.push(message);
        }
    }
    for (kind, letter, what) in KINDS {
        let of_kind: Vec<_> = by_code.iter().filter(|(code, _)| code.starts_with(*letter)).collect();
        if of_kind.is_empty() {
            continue;
        }
        let _ = write!(text, "\n## {kind}: {what}\n\n| code | message |\n|---|---|\n");
        for (code, messages) in of_kind {
            let shown: Vec<String> = messages.iter().map(|message| message.replace('|', "\\|")).collect();
            let shown = if shown.is_empty() { "(depends on the case)".to_owned() } else { shown.join("<br>") };
            let _ = writeln!(text, "| {code} | {shown} |");
        }
    }
    text
}

/// A message with `…` for each `{…}` that the case fills in.
fn elided(message: &str) -> String {
    let mut text = String::new();
    let mut rest = message;
    while let Some((before, after)) = rest.split_once('{') {
        text.push_str(before);
        rest = match (after.strip_prefix('{'), after.split_once('}')) {
            (Some(doubled), _) => {
                text.push('{');
                doubled
            }
            (None, Some((_, behind))) => {
                text.push('…');
                behind
            }
            (None, None) => after,
        };
    }
    text.push_str(&rest.replace("}}", "}"));
    text
}

/// A code where it is used.
struct Code {
    file: String,
    kind: String,
    code: String,
    /// The text that follows it, as far as it can be told from the source.
    message: Option<String>,
}

/// Every `Kind::Name, "X123"` outside tests, in order of files.
fn codes(repository: &Repository) -> Vec<Code> {
    let mut codes = Vec::new();
    for (path, text) in repository.ending(".rs") {
        if !path.starts_with("crates/") || path.ends_with("/tests.rs") || path.contains("/tests/") {
            continue;
        }
        let text = text.split("#[cfg(test)]\nmod ").next().unwrap_or(text);
        for (at, _) in text.match_indices("Kind::") {
            let (before, after) = text.split_at(at + "Kind::".len());
            let kind: String = after.chars().take_while(char::is_ascii_alphanumeric).collect();
            let Some(rest) = after.strip_prefix(kind.as_str()).and_then(|rest| rest.strip_prefix(',')) else {
                continue;
            };
            let Some((code, rest)) = literal(rest) else { continue };
            if code.len() == 4 && code.chars().skip(1).all(|c| c.is_ascii_digit()) {
                let message = message(before, rest.trim_start().trim_start_matches(',').trim_start());
                codes.push(Code { file: path.to_owned(), kind, code, message });
            }
        }
    }
    codes
}

/// The text of a message argument: a literal, a `format!`, or a name that one of both was given to before.
fn message(before: &str, argument: &str) -> Option<String> {
    let text = |source: &str| match source.strip_prefix("format!(") {
        Some(source) => literal(source).map(|(text, _)| elided(&text)),
        None => literal(source).map(|(text, _)| text),
    };
    text(argument).or_else(|| {
        let name: String = argument.chars().take_while(|c| c.is_ascii_alphanumeric() || *c == '_').collect();
        let given = before.rsplit_once(&format!("let {name} ="))?.1;
        text(given.trim_start())
    })
}

/// A string literal at the beginning of `text`, joined over lines, and what follows it.
fn literal(text: &str) -> Option<(String, &str)> {
    let body = text.trim_start().strip_prefix('"')?;
    let mut value = String::new();
    let mut chars = body.char_indices();
    while let Some((at, c)) = chars.next() {
        match c {
            '"' => return Some((value, body.get(at + 1..)?)),
            '\\' => match chars.next()?.1 {
                'n' => value.push(' '),
                '\n' => {
                    let rest = chars.as_str();
                    let skipped = rest.len() - rest.trim_start().len();
                    for _ in 0..rest.get(..skipped)?.chars().count() {
                        chars.next();
                    }
                }
                other => value.push(other),
            },
            c => value.push(c),
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::super::broken;
    use super::*;

    const SOURCE: &str = "//! x\nfn f() { Error::new(Kind::Config, \"C011\", format!(\"unknown `{name}` \\\n        here\"));\n\
                          let message = format!(\"no column `{}`\", a);\n    Error::new(\n    Kind::Plan,\n    \"P104\",\n    \
                          message,\n);\n Error::new(Kind::Data, \"D001\", why(a)) }\n";

    #[test]
    fn codes_are_found_over_lines() {
        let repository = Repository::of(&[("crates/a/src/lib.rs", SOURCE)]);
        let found: Vec<_> = codes(&repository).into_iter().map(|c| (c.kind, c.code, c.message)).collect();
        assert_eq!(
            found,
            [
                ("Config".to_owned(), "C011".to_owned(), Some("unknown `…` here".to_owned())),
                ("Plan".to_owned(), "P104".to_owned(), Some("no column `…`".to_owned())),
                ("Data".to_owned(), "D001".to_owned(), None),
            ]
        );
    }

    #[test]
    fn what_the_case_fills_in_is_elided() {
        for (message, shown) in [("no `{name}` in {}", "no `…` in …"), ("write {{a}}", "write {a}"), ("plain", "plain")]
        {
            assert_eq!(elided(message), shown);
        }
    }

    #[test]
    fn the_letter_is_the_kinds() {
        let wrong = SOURCE.replace("C011", "P011");
        let files = [("crates/a/src/lib.rs", wrong.as_str())];
        let page = page(&Repository::of(&files));
        let found = broken(rule, &[files[0], (PAGE, &page)]);
        assert_eq!(found, ["crates/a/src/lib.rs: code P011 is not of kind Config"]);
    }

    #[test]
    fn a_code_belongs_to_one_crate() {
        let files = [("crates/a/src/lib.rs", SOURCE), ("crates/b/src/lib.rs", SOURCE)];
        let page = page(&Repository::of(&files));
        let found = broken(rule, &[files[0], files[1], (PAGE, &page)]);
        assert_eq!(found.len(), 3, "{found:?}");
        assert_eq!(found[0], "a, b: code C011 is used by several crates; give one a new number");
        let common = [("crates/tidemill-model/src/lib.rs", SOURCE), files[1]];
        let page = super::page(&Repository::of(&common));
        assert!(broken(rule, &[common[0], common[1], (PAGE, &page)]).is_empty());
    }

    #[test]
    fn a_stale_page_is_refused() {
        let fresh = page(&Repository::of(&[("crates/a/src/lib.rs", SOURCE)]));
        assert!(broken(rule, &[("crates/a/src/lib.rs", SOURCE), (PAGE, &fresh)]).is_empty());
        assert_eq!(broken(rule, &[("crates/a/src/lib.rs", SOURCE), (PAGE, "old\n")]).len(), 1);
    }
}
