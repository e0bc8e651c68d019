//! Whether a file, a folder with something in it, or an object is there.
//!
//! **Invariant:** looking changes nothing.

use std::path::Path;

use tidemill_checkpoint::{BlobStore, RemoteStore};
use tidemill_model::{Error, Interval, Kind, Result, Timestamp};
use tidemill_sql::language::Wait;

use crate::Workspace;

/// The path of an interval: `{start}`, `{end}` and `{start:%Y-%m-%d}` filled in.
pub(super) fn named(wait: &Wait, interval: Interval) -> Result<String> {
    let pattern = wait.settings.text("file").unwrap_or_default();
    fill(pattern, interval).map_err(|e| e.at(&wait.place))
}

fn fill(pattern: &str, interval: Interval) -> Result<String> {
    let bad = |part: &str| {
        Error::new(Kind::Config, "C114", format!("`{{{part}}}` cannot be filled in"))
            .fact("write {start}, {end}, or one of these with a form of strftime: {start:%Y-%m-%dT%H}")
    };
    let mut path = String::with_capacity(pattern.len() + 16);
    let mut rest = pattern;
    while let Some((before, after)) = rest.split_once('{') {
        path.push_str(before);
        let (part, tail) = after.split_once('}').ok_or_else(|| bad(after))?;
        rest = tail;
        let (which, form) = part.split_once(':').map_or((part, None), |(which, form)| (which, Some(form)));
        let at = match which {
            "start" => interval.start,
            "end" => interval.end,
            _ => return Err(bad(part)),
        };
        path.push_str(&shown(at, form).ok_or_else(|| bad(part))?);
    }
    path.push_str(rest);
    Ok(path)
}

fn shown(at: Timestamp, form: Option<&str>) -> Option<String> {
    let Some(form) = form else { return Some(at.to_string()) };
    at.strftime(form)
}

/// Whether the path is there; one that ends in `/` needs something in it.
pub(super) fn is_there(workspace: &Workspace, path: &str) -> Result<bool> {
    if let Some((scheme, _)) = path.split_once("://") {
        let folder = path.rsplit_once('/').map_or(path, |(folder, _)| folder);
        let name = path.rsplit_once('/').map_or("", |(_, name)| name);
        let settings = workspace.catalog.environment().stores.get(scheme).cloned().unwrap_or_default();
        let found = RemoteStore::open(folder, settings)?.list(name)?;
        return Ok(if name.is_empty() { !found.is_empty() } else { found.iter().any(|found| found == name) });
    }
    let full = workspace.catalog.environment().project.join(path);
    if path.ends_with('/') {
        return match std::fs::read_dir(&full) {
            Ok(mut items) => Ok(items.next().is_some()),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(false),
            Err(error) => Err(Error::io("look into", full.display(), error)),
        };
    }
    exists(&full)
}

fn exists(path: &Path) -> Result<bool> {
    path.try_exists().map_err(|e| Error::io("look for", path.display(), e))
}

#[cfg(test)]
mod tests {
    use super::fill;
    use tidemill_model::{Interval, Timestamp};

    #[test]
    fn bounds_are_filled_in() {
        let interval = Interval::parse("2026-03-01T05/PT1H").expect("an interval");
        let cases = [
            ("landing/{start:%Y-%m-%d}/{start:%H}/_DONE", Some("landing/2026-03-01/05/_DONE")),
            ("to {end}", Some("to 2026-03-01T06:00:00Z")),
            ("plain", Some("plain")),
            ("{now}", None),
            ("{start", None),
            ("{start:%!}", None),
        ];
        for (pattern, expected) in cases {
            assert_eq!(fill(pattern, interval).ok().as_deref(), expected, "{pattern}");
        }
        assert_eq!(interval.start, Timestamp::parse("2026-03-01T05").expect("a time"));
    }
}
