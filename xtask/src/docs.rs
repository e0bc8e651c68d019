//! `cargo xtask docs`: the reference pages that programs write, in `docs/reference/`.
//!
//! **Invariant:** a page is what `tidemill reference PAGE` prints, byte for byte; the list of pages is what
//! `tidemill reference` prints, one name a line. Only the page of error codes is read from the source.

use crate::repository::{self, Repository};
use crate::{say, steps, tidy};

/// Writes every page that differs.
pub(crate) fn write() -> Result<(), String> {
    for (path, text) in stale()? {
        let file = repository::root().join(&path);
        std::fs::write(&file, text).map_err(|e| format!("cannot write {}: {e}", file.display()))?;
        say::line(&format!("wrote {path}"));
    }
    Ok(())
}

/// Fails when a page differs.
pub(crate) fn check() -> Result<(), String> {
    let stale: Vec<String> = stale()?.into_iter().map(|(path, _)| path).collect();
    if stale.is_empty() {
        say::line("the reference pages are fresh");
        Ok(())
    } else {
        Err(format!("stale: {}; write them anew: cargo xtask docs", stale.join(", ")))
    }
}

/// The pages whose file is not what the program prints, with what it prints.
fn stale() -> Result<Vec<(String, String)>, String> {
    let mut pages = vec![(tidy::ERRORS_PAGE.to_owned(), tidy::errors_page(&Repository::read(&repository::root())?))];
    for page in reference(&[])?.lines().map(str::trim).filter(|page| !page.is_empty()) {
        pages.push((format!("docs/reference/{page}.md"), reference(&[page])?));
    }
    pages.retain(|(path, text)| {
        std::fs::read_to_string(repository::root().join(path)).map_or(true, |written| written != *text)
    });
    Ok(pages)
}

fn reference(page: &[&str]) -> Result<String, String> {
    let mut words = vec!["run", "--release", "--quiet", "--package", "tidemill", "--", "reference"];
    words.extend(page);
    steps::cargo_output(&words)
}
