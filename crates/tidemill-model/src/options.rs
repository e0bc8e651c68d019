//! Options of `WITH (…)` lists: declared once as [`OptionSpec`]s, resolved to [`Settings`], unknown names refused.

use std::collections::BTreeMap;

use crate::{Error, Kind, Place, Result, Span, Timestamp, nearest};

/// The shape of an option's value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OptionKind {
    /// Any text.
    Text,
    /// A whole number, 0 or more.
    Integer,
    /// A number.
    Number,
    /// `true` or `false`.
    Boolean,
    /// A length of time.
    Span,
    /// A length of time, or `none`.
    SpanOrNone,
    /// An instant.
    Time,
    /// One of these words.
    OneOf(&'static [&'static str]),
}

/// The one declaration of an option: its name, shape, default and documentation.
#[derive(Debug, Clone, Copy)]
pub struct OptionSpec {
    /// The name, in lower case.
    pub name: &'static str,
    /// The shape of its value.
    pub kind: OptionKind,
    /// The value when none is given.
    pub default: Option<&'static str>,
    /// Whether it must be given.
    pub required: bool,
    /// What it does, in a sentence for the reference page.
    pub doc: &'static str,
}

impl OptionSpec {
    /// An option that may be left out.
    #[must_use]
    pub const fn optional(
        name: &'static str,
        kind: OptionKind,
        default: Option<&'static str>,
        doc: &'static str,
    ) -> Self {
        OptionSpec { name, kind, default, required: false, doc }
    }

    /// An option that must be given.
    #[must_use]
    pub const fn required(name: &'static str, kind: OptionKind, doc: &'static str) -> Self {
        OptionSpec { name, kind, default: None, required: true, doc }
    }
}

/// A value as the user gave it, and where.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Given {
    /// The text between the quotes.
    pub value: String,
    /// Where the name stands.
    pub name_place: Option<Place>,
    /// Where the value stands.
    pub value_place: Option<Place>,
}

/// The options as given, by lower-case name.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Options {
    /// Name to value, in name order.
    pub given: BTreeMap<String, Given>,
    /// Where the list stands, for options that are missing from it.
    pub place: Option<Place>,
}

impl Options {
    /// Options from pairs without places, for tests and built-in tables.
    pub fn of<'a>(pairs: impl IntoIterator<Item = (&'a str, &'a str)>) -> Options {
        let given = pairs
            .into_iter()
            .map(|(name, value)| {
                (name.to_owned(), Given { value: value.to_owned(), name_place: None, value_place: None })
            })
            .collect();
        Options { given, place: None }
    }

    /// The text of an option, if it was given.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&str> {
        self.given.get(name).map(|given| given.value.as_str())
    }

    /// Checks every option against its declaration and fills in the defaults. `what` names the owner in messages:
    /// "pipeline", "connector `files`".
    ///
    /// # Errors
    /// Config, one for each unknown name, bad value and missing option, together.
    pub fn resolve(&self, what: &str, specs: &[OptionSpec]) -> Result<Settings> {
        let mut errors = Vec::new();
        let mut values = BTreeMap::new();
        for (name, given) in &self.given {
            match specs.iter().find(|spec| spec.name == name) {
                None => errors.push(unknown(what, name, given, specs)),
                Some(spec) => match check(spec, &given.value) {
                    Ok(()) => {
                        values.insert(spec.name, given.value.clone());
                    }
                    Err(error) => errors.push(with_place(error, given.value_place.as_ref())),
                },
            }
        }
        for spec in specs.iter().filter(|spec| !self.given.contains_key(spec.name)) {
            if let Some(default) = spec.default {
                values.insert(spec.name, default.to_owned());
            } else if spec.required {
                let error = Error::new(Kind::Config, "C012", format!("{what} needs the option `{}`", spec.name))
                    .fact(format!("add {} = '…': {}", spec.name, spec.doc));
                errors.push(with_place(error, self.place.as_ref()));
            }
        }
        match Error::all(errors) {
            Some(error) => Err(error),
            None => Ok(Settings { values }),
        }
    }
}

fn with_place(error: Error, place: Option<&Place>) -> Error {
    match place {
        Some(place) => error.at(place),
        None => error,
    }
}

fn unknown(what: &str, name: &str, given: &Given, specs: &[OptionSpec]) -> Error {
    let names: Vec<&str> = specs.iter().map(|spec| spec.name).collect();
    let mut error = Error::new(Kind::Config, "C011", format!("unknown {what} option `{name}`"));
    if let Some(meant) = nearest(name, names.iter().copied()) {
        error = error.label(format!("did you mean `{meant}`?"));
    }
    with_place(error.fact(format!("options: {}", names.join(", "))), given.name_place.as_ref())
}

fn check(spec: &OptionSpec, value: &str) -> Result<()> {
    let bad = |expected: &str| {
        Error::new(Kind::Config, "C013", format!("option `{}` cannot be `{value}`", spec.name))
            .fact(format!("expected {expected}: {}", spec.doc))
    };
    match spec.kind {
        OptionKind::Text => Ok(()),
        OptionKind::Integer => value.parse::<u64>().map(|_| ()).map_err(|_| bad("a whole number")),
        OptionKind::Number => value.parse::<f64>().map(|_| ()).map_err(|_| bad("a number")),
        OptionKind::Boolean => value.parse::<bool>().map(|_| ()).map_err(|_| bad("true or false")),
        OptionKind::Span => Span::parse(value).map(|_| ()),
        OptionKind::SpanOrNone if value.eq_ignore_ascii_case("none") => Ok(()),
        OptionKind::SpanOrNone => Span::parse(value).map(|_| ()),
        OptionKind::Time => Timestamp::parse(value).map(|_| ()),
        OptionKind::OneOf(words) if words.contains(&value) => Ok(()),
        OptionKind::OneOf(words) => {
            let mut error = bad(&format!("one of {}", words.join(", ")));
            if let Some(meant) = nearest(value, words.iter().copied()) {
                error = error.label(format!("did you mean `{meant}`?"));
            }
            Err(error)
        }
    }
}

/// Options after checking: every value has the declared shape, defaults are filled in.
///
/// The getters answer `None` when an option without default was not given; asking for an option that was not
/// declared, or by another shape, also answers `None`.
#[derive(Debug, Clone, Default)]
pub struct Settings {
    values: BTreeMap<&'static str, String>,
}

impl Settings {
    /// The text of an option.
    #[must_use]
    pub fn text(&self, name: &str) -> Option<&str> {
        self.values.get(name).map(String::as_str)
    }

    /// A whole number.
    #[must_use]
    pub fn integer(&self, name: &str) -> Option<u64> {
        self.text(name)?.parse().ok()
    }

    /// A number.
    #[must_use]
    pub fn number(&self, name: &str) -> Option<f64> {
        self.text(name)?.parse().ok()
    }

    /// `true` or `false`; false when not given.
    #[must_use]
    pub fn is(&self, name: &str) -> bool {
        self.text(name) == Some("true")
    }

    /// A length of time; `None` for `none`.
    #[must_use]
    pub fn span(&self, name: &str) -> Option<std::time::Duration> {
        Span::parse(self.text(name)?).ok().map(|span| span.0)
    }

    /// An instant.
    #[must_use]
    pub fn time(&self, name: &str) -> Option<Timestamp> {
        Timestamp::parse(self.text(name)?).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SPECS: &[OptionSpec] = &[
        OptionSpec::optional("checkpoint", OptionKind::Span, Some("1 second"), "How often."),
        OptionSpec::required("topic", OptionKind::Text, "The topic."),
    ];

    #[test]
    fn unknown_and_missing_are_refused_together() {
        let error = Options::of([("checkpont", "1 s")]).resolve("pipeline", SPECS).expect_err("refused");
        assert_eq!(error.message(), "unknown pipeline option `checkpont`");
        assert_eq!(error.caret_label(), "did you mean `checkpoint`?");
        assert_eq!(error.more()[0].message(), "pipeline needs the option `topic`");
    }

    #[test]
    fn defaults_are_filled_in() {
        let settings = Options::of([("topic", "t")]).resolve("pipeline", SPECS).expect("resolves");
        assert_eq!(settings.span("checkpoint"), Some(std::time::Duration::from_secs(1)));
    }
}
