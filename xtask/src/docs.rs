//! `cargo xtask docs`: the reference pages that programs write, in `docs/reference/`.
//!
//! **Invariant:** a page is what `tidemill reference PAGE` prints, byte for byte; the list of pages is what
//! `tidemill reference` prints, one name a line. Only the page of error codes is read from the source.

use crate::repository::{self, Repository};
use crate::{say, steps, tidy};

/// A page: its path and the text that it should have.
type Page = (String, String);

/// Writes every page that differs; the page of errors first, since it needs no program.
pub(crate) fn write() -> Result<(), String> {
    put(errors()?)?;
    program_pages()?.into_iter().try_for_each(put)
}

/// Fails when a page differs.
pub(crate) fn check() -> Result<(), String> {
    let mut pages = program_pages()?;
    pages.push(errors()?);
    let stale: Vec<&str> = pages.iter().filter(|page| is_stale(page)).map(|(path, _)| path.as_str()).collect();
    if stale.is_empty() {
        say::line(&format!("{} reference pages are fresh", pages.len()));
        Ok(())
    } else {
        Err(format!("stale: {}; write them anew: cargo xtask docs", stale.join(", ")))
    }
}

fn put(page: Page) -> Result<(), String> {
    if is_stale(&page) {
        let file = repository::root().join(&page.0);
        std::fs::write(&file, page.1).map_err(|e| format!("cannot write {}: {e}", file.display()))?;
        say::line(&format!("wrote {}", page.0));
    }
    Ok(())
}

fn is_stale((path, text): &Page) -> bool {
    std::fs::read_to_string(repository::root().join(path)).map_or(true, |written| written != *text)
}

fn errors() -> Result<Page, String> {
    Ok((tidy::ERRORS_PAGE.to_owned(), tidy::errors_page(&Repository::read(&repository::root())?)))
}

/// The pages that the program prints.
fn program_pages() -> Result<Vec<Page>, String> {
    let names = reference(&[])?;
    let names = names.lines().map(str::trim).filter(|name| !name.is_empty());
    names.map(|name| Ok((format!("docs/reference/{name}.md"), reference(&[name])?))).collect()
}

fn reference(page: &[&str]) -> Result<String, String> {
    let mut words = vec!["run", "--release", "--quiet", "--package", "tidemill", "--", "reference"];
    words.extend(page);
    steps::cargo_output(&words)
}
