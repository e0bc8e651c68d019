//! The options of the connector `log`, checked and typed as [`LogConfig`].
//!
//! **Invariant:** a topic's name is a folder name of [a-z0-9._-], so that it cannot leave the folder of topics.

use std::time::Duration;

use tidemill_model::{Error, Kind, OptionKind, OptionSpec, Result, Settings, Timestamp};

/// How many partitions a topic gets when nobody says.
pub(super) const DEFAULT_PARTITIONS: u32 = 8;

/// More would make every commit slow; a laptop has no use for them.
const MOST_PARTITIONS: u64 = 1024;

/// The options beyond the common ones.
pub(super) const OPTIONS: &[OptionSpec] = &[
    OptionSpec::required("topic", OptionKind::Text, "The topic's name: lower-case letters, digits, `.`, `_` and `-`."),
    // No default here: only so can a table leave it out and still read a topic of another number.
    OptionSpec::optional(
        "partitions",
        OptionKind::Integer,
        None,
        "How many partitions the topic gets when it is first used, 8 unless given; fixed from then on.",
    ),
    OptionSpec::optional(
        "key",
        OptionKind::Text,
        None,
        "A column: rows with the same value go to the same partition. Without it batches go round the partitions.",
    ),
    OptionSpec::optional(
        "retention",
        OptionKind::SpanOrNone,
        Some("7 days"),
        "How long records are kept; whole segments are deleted when all their records are older.",
    ),
    OptionSpec::optional(
        "retention_bytes",
        OptionKind::Integer,
        None,
        "How many bytes each partition keeps at least before old segments are deleted; no limit unless given.",
    ),
    OptionSpec::optional(
        "segment_bytes",
        OptionKind::Integer,
        Some("67108864"),
        "The size from which a partition continues in a new segment file.",
    ),
    OptionSpec::optional(
        "start_from",
        OptionKind::Text,
        Some("earliest"),
        "Where a reader without saved progress begins: `earliest`, `latest`, or a time (by arrival in the topic).",
    ),
];

/// Where a reader without saved progress begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum StartFrom {
    /// With the oldest record that is kept.
    Earliest,
    /// After the last record there is.
    Latest,
    /// With the first record that arrived then or later.
    Time(Timestamp),
}

/// The options, typed.
#[derive(Debug, Clone)]
pub(super) struct LogConfig {
    pub(super) topic: String,
    pub(super) partitions: Option<u32>,
    pub(super) key: Option<String>,
    pub(super) retention: Option<Duration>,
    pub(super) retention_bytes: Option<u64>,
    pub(super) segment_bytes: u64,
    pub(super) start_from: StartFrom,
}

impl LogConfig {
    /// Reads the options of one dataset.
    ///
    /// # Errors
    /// Config, when a value is outside what it may be.
    pub(super) fn of(settings: &Settings) -> Result<LogConfig> {
        let topic = check_topic(settings.text("topic").unwrap_or_default())?;
        let partitions = match settings.integer("partitions") {
            None => None,
            Some(n @ 1..=MOST_PARTITIONS) => u32::try_from(n).ok(),
            Some(n) => {
                return Err(Error::new(Kind::Config, "C091", format!("topic `{topic}` cannot have {n} partitions"))
                    .fact(format!("give a number from 1 to {MOST_PARTITIONS}")));
            }
        };
        let start_from =
            match settings.text("start_from").unwrap_or("earliest") {
                "earliest" => StartFrom::Earliest,
                "latest" => StartFrom::Latest,
                time => StartFrom::Time(Timestamp::parse(time).map_err(|error| {
                    error.context("option `start_from`").fact("it may also be `earliest` or `latest`")
                })?),
            };
        Ok(LogConfig {
            topic,
            partitions,
            key: settings.text("key").map(str::to_owned),
            retention: settings.span("retention"),
            retention_bytes: settings.integer("retention_bytes"),
            segment_bytes: settings.integer("segment_bytes").unwrap_or(64 << 20).max(1),
            start_from,
        })
    }
}

/// The name, if it may be a topic's.
pub(super) fn check_topic(name: &str) -> Result<String> {
    let bad = |why: &str| {
        Error::new(Kind::Config, "C090", format!("`{name}` cannot name a topic: {why}"))
            .fact("use lower-case letters, digits, `.`, `_` and `-`: raw-orders")
    };
    let allowed = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || matches!(c, '.' | '_' | '-');
    if name.is_empty() {
        return Err(bad("it is empty"));
    }
    if name.len() > 200 {
        return Err(bad("it is longer than 200 bytes"));
    }
    if let Some(c) = name.chars().find(|c| !allowed(*c)) {
        return Err(bad(&format!("it contains {c:?}")));
    }
    if name.starts_with('.') {
        return Err(bad("it begins with a dot"));
    }
    Ok(name.to_owned())
}

#[cfg(test)]
mod tests {
    use super::{LogConfig, OPTIONS, StartFrom, check_topic};
    use tidemill_model::Options;

    #[test]
    fn names_that_leave_the_folder_are_refused() {
        for name in ["raw-orders", "a.b_c-9", "0"] {
            assert!(check_topic(name).is_ok(), "{name}");
        }
        for name in ["", ".", "..", "../x", "a/b", "A", "ü", "a b", ".hidden", "a\0"] {
            assert!(check_topic(name).is_err(), "{name}");
        }
    }

    #[test]
    fn options_are_typed() {
        let read = |pairs: &[(&str, &str)]| {
            let settings = Options::of(pairs.iter().copied()).resolve("connector `log`", OPTIONS)?;
            LogConfig::of(&settings)
        };
        let config = read(&[("topic", "t")]).expect("defaults");
        assert_eq!((config.partitions, config.start_from), (None, StartFrom::Earliest));
        assert_eq!(config.retention.map(|span| span.as_secs()), Some(7 * 86_400));
        assert!(read(&[("topic", "t"), ("retention", "none")]).expect("none").retention.is_none());
        for bad in [("partitions", "0"), ("partitions", "5000"), ("start_from", "yesterday")] {
            assert!(read(&[("topic", "t"), bad]).is_err(), "{bad:?}");
        }
    }
}
