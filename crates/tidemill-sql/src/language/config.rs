//! [`Config`]: `tidemill.toml`, checked, with `${ENV}` filled in.
//!
//! **Invariant:** a [`Secret`] never shows its text, and no [`Place`](tidemill_model::Place) made here carries one:
//! literal secrets are blotted out in the text that errors quote.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use tidemill_model::{Error, Given, Kind, OptionSpec, Options, Result, Settings, nearest};
use toml::Spanned;
use toml::de::{DeString, DeTable, DeValue};

use super::keys::{ALERT_KEYS, ENGINE_KEYS, PROJECT_KEYS, S3_KEYS, SCHEDULER_KEYS, SERVER_KEYS, STATE_KEYS};
use super::script::Script;
use super::secret::Secret;

const SECTIONS: &[(&str, &[OptionSpec])] = &[
    ("project", PROJECT_KEYS),
    ("state", STATE_KEYS),
    ("server", SERVER_KEYS),
    ("engine", ENGINE_KEYS),
    ("scheduler", SCHEDULER_KEYS),
    ("alerts", ALERT_KEYS),
];

/// Sections whose keys are names of the project's own.
const NAMED: [&str; 2] = ["stores", "pools"];

/// The object stores that have settings.
const STORES: &[(&str, &[OptionSpec])] = &[("s3", S3_KEYS)];

/// Keys whose values are never shown.
const SECRET_KEYS: &[&str] = &["secret_access_key", "session_token", "password", "webhook"];

/// `tidemill.toml`.
#[derive(Debug, Clone)]
pub struct Config {
    /// The project's name.
    pub name: String,
    /// The folder of the project's own state.
    pub state: PathBuf,
    /// Where checkpoints go instead: the URL of a folder in an object store.
    pub checkpoint: Option<String>,
    /// The address of the server: a loopback one.
    pub listen: SocketAddr,
    /// How many lanes a pipeline has, if it is said.
    pub lanes: Option<usize>,
    /// How many bytes of memory queries may use, if it is said.
    pub memory: Option<u64>,
    /// How many bytes of memory the state of a pipeline may take, if it is said.
    pub state_memory: Option<u64>,
    /// Settings of object stores by URL scheme.
    pub stores: BTreeMap<String, Vec<(String, Secret)>>,
    /// How many runs of intervals go on at the same time.
    pub slots: usize,
    /// Pools that runs share, and how many each lets go on at the same time.
    pub pools: BTreeMap<String, usize>,
    /// Where alerts are sent.
    pub alerts: AlertSettings,
}

/// Where alerts are sent.
#[derive(Debug, Clone)]
pub struct AlertSettings {
    /// A URL.
    pub webhook: Option<Secret>,
    /// A line for the shell.
    pub command: Option<String>,
    /// After how long a run is called stuck.
    pub stuck_after: Duration,
}

impl Config {
    /// Reads the text of `tidemill.toml` of the project in `root`; `env` answers environment variables.
    ///
    /// # Errors
    /// Config, at its place, for everything that cannot be read or is not known.
    pub fn parse(root: &Path, text: &str, env: &dyn Fn(&str) -> Option<String>) -> Result<Config> {
        let script = Script::new("tidemill.toml", blot(text));
        let table = DeTable::parse(text).map_err(|error| {
            let place = script.bytes(error.span().unwrap_or(0..0));
            Error::new(Kind::Config, "C002", format!("cannot read tidemill.toml: {}", error.message())).at(&place)
        })?;
        let mut reading = Reading { text, script: &script, env, errors: Vec::new() };
        let mut sections = BTreeMap::new();
        let mut stores = BTreeMap::new();
        let mut pools = BTreeMap::new();
        for (key, value) in table.get_ref() {
            let name = key.get_ref().as_ref();
            if name == "stores" {
                stores = reading.stores(value);
            } else if name == "pools" {
                pools = reading.pools(value);
            } else if let Some((name, specs)) = SECTIONS.iter().find(|(section, _)| *section == name) {
                sections.insert(*name, reading.section(name, specs, value));
            } else {
                let known: Vec<&str> = SECTIONS.iter().map(|(name, _)| *name).chain(NAMED).collect();
                reading.unknown("section", key, &known);
            }
        }
        for (name, specs) in SECTIONS {
            sections.entry(name).or_insert_with(|| (Options::default(), defaults(specs)));
        }
        let config = Config { pools, ..reading.assemble(root, &sections, stores) };
        match Error::all(reading.errors) {
            Some(error) => Err(error),
            None => Ok(config),
        }
    }

    /// The settings of the object stores, with their secrets, for
    /// [`Environment::stores`](tidemill_runtime::Environment::stores).
    #[must_use]
    pub fn store_settings(&self) -> BTreeMap<String, Vec<(String, String)>> {
        let exposed = |pairs: &Vec<(String, Secret)>| {
            pairs.iter().map(|(name, secret)| (name.clone(), secret.expose().to_owned())).collect()
        };
        self.stores.iter().map(|(scheme, pairs)| (scheme.clone(), exposed(pairs))).collect()
    }
}

type Section = (Options, Settings);

struct Reading<'a> {
    text: &'a str,
    script: &'a Script,
    env: &'a dyn Fn(&str) -> Option<String>,
    errors: Vec<Error>,
}

impl Reading<'_> {
    fn section(&mut self, name: &str, specs: &[OptionSpec], value: &Spanned<DeValue<'_>>) -> Section {
        let place = self.script.bytes(value.span());
        let Some(table) = value.get_ref().as_table() else {
            let error = Error::new(Kind::Config, "C003", format!("`{name}` is a section: write [{name}]"));
            self.errors.push(error.at(&place));
            return (Options::default(), defaults(specs));
        };
        let mut options = Options { place: Some(place), ..Options::default() };
        for (key, value) in table {
            if let Some(text) = self.value(name, key.get_ref(), value) {
                let given = Given {
                    value: text,
                    name_place: Some(self.script.bytes(key.span())),
                    value_place: Some(self.script.bytes(value.span())),
                };
                options.given.insert(key.get_ref().to_string(), given);
            }
        }
        match options.resolve(&format!("[{name}]"), specs) {
            Ok(settings) => (options, settings),
            Err(error) => {
                self.errors.push(error);
                (Options::default(), defaults(specs))
            }
        }
    }

    fn stores(&mut self, value: &Spanned<DeValue<'_>>) -> BTreeMap<String, Vec<(String, Secret)>> {
        let mut stores = BTreeMap::new();
        let Some(table) = value.get_ref().as_table() else {
            let place = self.script.bytes(value.span());
            self.errors.push(Error::new(Kind::Config, "C003", "write [stores.s3]").at(&place));
            return stores;
        };
        for (key, value) in table {
            let Some((scheme, specs)) = STORES.iter().find(|(scheme, _)| *scheme == key.get_ref().as_ref()) else {
                let known: Vec<&str> = STORES.iter().map(|(scheme, _)| *scheme).collect();
                self.unknown("store", key, &known);
                continue;
            };
            let (_, settings) = self.section(&format!("stores.{scheme}"), specs, value);
            // What goes wrong with a store is told with its address.
            if settings.text("endpoint").is_some_and(|endpoint| endpoint.contains('@')) {
                let error = Error::new(Kind::Config, "C024", "the endpoint of a store holds a user or a password")
                    .at(&self.script.bytes(key.span()))
                    .fact("leave them out, and write access_key_id and secret_access_key = \"${NAME}\"");
                self.errors.push(error);
            }
            let pairs =
                specs.iter().filter_map(|spec| Some((spec.name.to_owned(), Secret::new(settings.text(spec.name)?))));
            stores.insert((*scheme).to_owned(), pairs.collect());
        }
        stores
    }

    fn pools(&mut self, value: &Spanned<DeValue<'_>>) -> BTreeMap<String, usize> {
        let mut pools = BTreeMap::new();
        let Some(table) = value.get_ref().as_table() else {
            let place = self.script.bytes(value.span());
            self.errors.push(Error::new(Kind::Config, "C003", "write [pools] and below it NAME = 2").at(&place));
            return pools;
        };
        for (key, value) in table {
            let name = key.get_ref();
            let Some(text) = self.value("pools", name, value) else { continue };
            match text.parse::<usize>() {
                Ok(slots) if slots > 0 => drop(pools.insert(name.to_string(), slots)),
                _ => {
                    let error = Error::new(Kind::Config, "C003", format!("a pool has 1 run or more, not `{text}`"));
                    self.errors.push(error.at(&self.script.bytes(value.span())));
                }
            }
        }
        pools
    }

    fn unknown(&mut self, what: &str, key: &Spanned<DeString<'_>>, known: &[&str]) {
        let name = key.get_ref();
        let mut error = Error::new(Kind::Config, "C003", format!("unknown {what} `{name}` in tidemill.toml"))
            .at(&self.script.bytes(key.span()))
            .fact(format!("{what}s: {}", known.join(", ")));
        if let Some(meant) = nearest(name, known.iter().copied()) {
            error = error.label(format!("did you mean `{meant}`?"));
        }
        self.errors.push(error);
    }

    /// The text of a value with `${NAME}` filled in.
    fn value(&mut self, section: &str, key: &str, value: &Spanned<DeValue<'_>>) -> Option<String> {
        match value.get_ref() {
            DeValue::String(text) => self.fill_in(section, key, text, value.span()),
            DeValue::Integer(number) if number.radix() == 10 => Some(number.as_str().to_owned()),
            DeValue::Float(number) => Some(number.as_str().to_owned()),
            DeValue::Boolean(truth) => Some(truth.to_string()),
            other => {
                let error = Error::new(Kind::Config, "C003", format!("`{key}` cannot be a TOML {}", other.type_str()))
                    .at(&self.script.bytes(value.span()))
                    .label("expected text, a number, true or false");
                self.errors.push(error);
                None
            }
        }
    }

    fn fill_in(&mut self, section: &str, key: &str, text: &str, span: std::ops::Range<usize>) -> Option<String> {
        let mut filled = String::with_capacity(text.len());
        let mut rest = text;
        let mut whole = true;
        while let Some((before, after)) = rest.split_once("${") {
            filled.push_str(before);
            let Some((name, after)) = after.split_once('}') else {
                let error = Error::new(Kind::Config, "C020", "`${` without its `}`");
                self.errors.push(error.at(&self.script.bytes(span)).fact("write ${NAME}"));
                return None;
            };
            match (self.env)(name) {
                Some(value) => filled.push_str(&value),
                None => {
                    whole = false;
                    self.unset(name, section, key, span.clone());
                }
            }
            rest = after;
        }
        filled.push_str(rest);
        whole.then_some(filled)
    }

    fn unset(&mut self, name: &str, section: &str, key: &str, span: std::ops::Range<usize>) {
        let word = format!("${{{name}}}");
        let written = self.text.get(span.clone()).unwrap_or("");
        let place = match written.find(&word) {
            Some(at) => self.script.bytes(span.start + at..span.start + at + word.len()),
            None => self.script.bytes(span),
        };
        let error = Error::new(Kind::Config, "C020", format!("{word} is not set"))
            .at(&place)
            .label(format!("used by `{key}` of [{section}]"))
            .fact(format!("set it in the environment of tidemill: export {name}=…"));
        self.errors.push(error);
    }

    fn assemble(
        &mut self,
        root: &Path,
        sections: &BTreeMap<&str, Section>,
        stores: BTreeMap<String, Vec<(String, Secret)>>,
    ) -> Config {
        let text = |section: &str, key: &str| sections.get(section).and_then(|(_, settings)| settings.text(key));
        let folder = root.file_name().map_or_else(|| "project".to_owned(), |name| name.to_string_lossy().into_owned());
        let mut checked = |section: &str, key: &str, result: Result<()>| {
            if let Err(error) = result {
                let given = sections.get(section).and_then(|(options, _)| options.given.get(key));
                let place = given.and_then(|given| given.value_place.as_ref());
                self.errors.push(place.into_iter().fold(error, |error, place| error.at(place)));
            }
        };
        let listen = text("server", "listen").map_or(Ok(default_listen()), listen);
        checked("server", "listen", listen.as_ref().map(|_| ()).map_err(again));
        let memory = text("engine", "memory").map(bytes).transpose();
        checked("engine", "memory", memory.as_ref().map(|_| ()).map_err(again));
        let state_memory = text("engine", "state_memory").map(bytes).transpose();
        checked("engine", "state_memory", state_memory.as_ref().map(|_| ()).map_err(again));
        let checkpoint = text("state", "checkpoint").map(ToOwned::to_owned);
        checked("state", "checkpoint", checkpoint.as_deref().map_or(Ok(()), object_store_url));
        let lanes = sections.get("engine").and_then(|(_, settings)| settings.integer("lanes"));
        checked("engine", "lanes", lanes.map_or(Ok(()), some_lanes));
        let alerts = sections.get("alerts").map(|(_, settings)| settings);
        let slots = sections.get("scheduler").and_then(|(_, settings)| settings.integer("slots"));
        checked("scheduler", "slots", slots.map_or(Ok(()), some_lanes));
        Config {
            slots: slots.and_then(|slots| usize::try_from(slots).ok()).unwrap_or(4),
            pools: BTreeMap::new(),
            alerts: AlertSettings {
                webhook: text("alerts", "webhook").map(Secret::new),
                command: text("alerts", "command").map(ToOwned::to_owned),
                stuck_after: alerts.and_then(|settings| settings.span("stuck_after")).unwrap_or_default(),
            },
            name: text("project", "name").map_or(folder, ToOwned::to_owned),
            state: root.join(text("state", "path").unwrap_or(".tidemill")),
            checkpoint,
            listen: listen.unwrap_or_else(|_| default_listen()),
            lanes: lanes.and_then(|lanes| usize::try_from(lanes).ok()),
            memory: memory.unwrap_or(None),
            state_memory: state_memory.unwrap_or(None),
            stores,
        }
    }
}

/// The settings of a section that is not there.
fn defaults(specs: &[OptionSpec]) -> Settings {
    Options::default().resolve("section", specs).unwrap_or_default()
}

fn default_listen() -> SocketAddr {
    SocketAddr::from((Ipv4Addr::LOCALHOST, 7070))
}

/// The same error once more, where the first one only stands for "there was one".
fn again(error: &Error) -> Error {
    error.facts().iter().fold(Error::new(error.kind(), error.code(), error.message()), Error::fact)
}

fn listen(text: &str) -> Result<SocketAddr> {
    let numeric = text.strip_prefix("localhost:").map_or_else(|| text.to_owned(), |port| format!("127.0.0.1:{port}"));
    let address: SocketAddr = numeric.parse().map_err(|_| {
        Error::new(Kind::Config, "C004", format!("`{text}` is not an address")).fact("write it as 127.0.0.1:7070")
    })?;
    if address.ip().is_loopback() {
        return Ok(address);
    }
    Err(Error::new(
        Kind::Config,
        "C021",
        format!("the server cannot listen on {text}: it would be open to the network"),
    )
    .fact("it does not ask who is there yet, so it answers only on this machine: 127.0.0.1 or [::1]")
    .fact("for others, put a proxy that authenticates in front of it"))
}

fn bytes(text: &str) -> Result<u64> {
    let bad = || {
        Error::new(Kind::Config, "C005", format!("`{text}` is not an amount of memory"))
            .fact("write a number and a unit: 512 MiB, 4 GiB")
    };
    let lower = text.trim().to_ascii_lowercase();
    let at = lower.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(lower.len());
    let (number, unit) = lower.split_at(at);
    let number: f64 = number.parse().map_err(|_| bad())?;
    let scale = match unit.trim() {
        "" | "b" => 1.0,
        "k" | "kib" => 1024.0,
        "kb" => 1e3,
        "m" | "mib" => 1_048_576.0,
        "mb" => 1e6,
        "g" | "gib" => 1_073_741_824.0,
        "gb" => 1e9,
        "t" | "tib" => 1_099_511_627_776.0,
        "tb" => 1e12,
        _ => return Err(bad()),
    };
    let amount = number * scale;
    if (1.0..9.0e18).contains(&amount) { Ok(amount as u64) } else { Err(bad()) }
}

fn object_store_url(text: &str) -> Result<()> {
    match text.split_once("://") {
        Some(("s3", rest)) if !rest.is_empty() => Ok(()),
        _ => Err(Error::new(Kind::Config, "C006", format!("checkpoints cannot go to `{text}`"))
            .fact("write s3://bucket/prefix, or a local folder as `path`")),
    }
}

fn some_lanes(lanes: u64) -> Result<()> {
    if (1..=1024).contains(&lanes) {
        return Ok(());
    }
    Err(Error::new(Kind::Config, "C007", format!("a pipeline cannot have {lanes} lanes"))
        .fact("1 to 1024; one a core is the default"))
}

/// The text with the literal values of secrets blotted out, each byte by one `*` so that places stay the same.
fn blot(text: &str) -> String {
    text.split_inclusive('\n')
        .map(|line| match line.split_once('=') {
            Some((key, value)) if is_secret(key) && !value.contains("${") => {
                let ending = value.trim_end_matches(['\n', '\r']);
                let tail = value.get(ending.len()..).unwrap_or("");
                format!("{key}={}{tail}", "*".repeat(ending.len()))
            }
            _ => line.to_owned(),
        })
        .collect()
}

fn is_secret(key: &str) -> bool {
    let key = key.trim().trim_matches(['"', '\'']);
    SECRET_KEYS.iter().any(|secret| key == *secret || key.rsplit('.').next() == Some(*secret))
}

#[cfg(test)]
mod tests {
    use super::super::render;
    use super::*;

    fn parse(text: &str) -> Result<Config> {
        let env = |name: &str| match name {
            "KEY" => Some("sesame".to_owned()),
            "LANES" => Some("3".to_owned()),
            _ => None,
        };
        Config::parse(Path::new("/home/me/shop"), text, &env)
    }

    fn refused(text: &str) -> String {
        render(&parse(text).expect_err("refused"), false)
    }

    #[test]
    fn an_empty_file_has_defaults() {
        let config = parse("").expect("parses");
        assert_eq!(config.name, "shop");
        assert_eq!(config.state, Path::new("/home/me/shop/.tidemill"));
        assert_eq!(config.listen.to_string(), "127.0.0.1:7070");
        assert_eq!((config.lanes, config.memory, config.checkpoint), (None, None, None));
    }

    #[test]
    fn values_are_read_and_filled_in() {
        let config = parse(
            "[project]\nname = 'orders'\n[state]\npath = 'var/state'\ncheckpoint = 's3://b/c'\n[server]\nlisten = 'localhost:8080'\n\
             [engine]\nlanes = '${LANES}'\nmemory = '1.5 GiB'\nstate_memory = '1 GiB'\n[stores.s3]\nendpoint = 'http://localhost:9000'\n\
             secret_access_key = 'open ${KEY}'\nallow_http = true\n",
        )
        .expect("parses");
        assert_eq!(config.name, "orders");
        assert_eq!(config.state, Path::new("/home/me/shop/var/state"));
        assert_eq!(config.listen.to_string(), "127.0.0.1:8080");
        assert_eq!((config.lanes, config.memory), (Some(3), Some(1_610_612_736)));
        assert_eq!(config.state_memory, Some(1 << 30));
        let pairs = &config.store_settings()["s3"];
        assert!(pairs.contains(&("secret_access_key".to_owned(), "open sesame".to_owned())), "{pairs:?}");
        assert!(pairs.contains(&("allow_http".to_owned(), "true".to_owned())), "{pairs:?}");
        assert!(!format!("{config:?}").contains("sesame"));
    }

    #[test]
    fn an_unset_variable_is_shown_at_its_place() {
        let expected = "\
error[C020]: ${S3_SECRET} is not set
  --> tidemill.toml:2:22
   |
 2 | secret_access_key = \"${S3_SECRET}\"
   |                      ^^^^^^^^^^^^ used by `secret_access_key` of [stores.s3]
   = set it in the environment of tidemill: export S3_SECRET=…
";
        assert_eq!(refused("[stores.s3]\nsecret_access_key = \"${S3_SECRET}\"\n"), expected);
    }

    #[test]
    fn what_is_unknown_is_refused_with_the_nearest_name() {
        let cases = [
            ("[sever]\n", "error[C003]: unknown section `sever`", "did you mean `server`?"),
            ("[server]\nlisen = 'x'\n", "unknown [server] option `lisen`", "did you mean `listen`?"),
            ("[stores.s4]\n", "unknown store `s4`", "did you mean `s3`?"),
            ("server = 1\n", "`server` is a section", "write [server]"),
            ("[engine]\nlanes = [1]\n", "cannot be a TOML array", "expected text"),
            ("[engine]\nlanes = 0\n", "cannot have 0 lanes", "^"),
            ("[engine]\nmemory = '4 apples'\n", "is not an amount of memory", "^^^^^^^^^^"),
            ("[engine]\nstate_memory = 'all'\n", "is not an amount of memory", "^^^^^"),
            ("[server]\nlisten = '0.0.0.0:7070'\n", "error[C021]", "open to the network"),
            ("[state]\ncheckpoint = 'ftp://x'\n", "error[C006]", "s3://bucket/prefix"),
            ("[server\n", "error[C002]", "tidemill.toml:1:8"),
        ];
        for (text, first, second) in cases {
            let shown = refused(text);
            assert!(shown.contains(first) && shown.contains(second), "{text}\n{shown}");
        }
    }

    #[test]
    fn a_literal_secret_is_never_quoted() {
        let error = parse("[stores.s3]\nsecret_access_key = \"hunter2\" x\n").expect_err("refused");
        assert!(!render(&error, false).contains("hunter2") && !format!("{error:?}").contains("hunter2"), "{error:?}");
    }
}
