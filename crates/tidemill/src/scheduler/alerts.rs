//! [`Alerts`]: what needs somebody, told once: to the log, a webhook and a command.
//!
//! **Invariant:** each names the command that mends it, and none holds up what it is about.

use std::collections::BTreeSet;
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use serde_json::json;
use tidemill_model::{Error, Interval, Span, Timestamp};
use tidemill_sql::batch::SOURCE_GONE;
use tidemill_sql::language::AlertSettings;
use tokio::process::Command;

use crate::cli::duration;
use crate::history::RunRecord;
use crate::runs::{News, Tell};

/// How long a webhook or a command may take.
const PATIENCE: Duration = Duration::from_secs(10);
/// How many alerts are remembered, so that none is told twice.
const REMEMBERED: usize = 10_000;
/// How often is looked for runs that do not end.
const STUCK: Duration = Duration::from_secs(30);

/// What is wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum AlertKind {
    /// A run has failed and is not tried again.
    Failed,
    /// An interval is not done as soon as was promised.
    Late,
    /// A run does not end.
    Stuck,
    /// A live pipeline shows rows later than was promised.
    Slow,
    /// A pipeline cannot be worked on at all.
    Broken,
}

impl AlertKind {
    /// The word for it.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            AlertKind::Failed => "failed",
            AlertKind::Late => "late",
            AlertKind::Stuck => "stuck",
            AlertKind::Slow => "slow",
            AlertKind::Broken => "broken",
        }
    }
}

/// Something that needs somebody.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Alert {
    /// What is wrong.
    pub kind: AlertKind,
    /// With which pipeline.
    pub pipeline: String,
    /// And which interval.
    pub interval: Option<Interval>,
    /// In words.
    pub message: String,
    /// The command that mends it, or shows more.
    pub fix: String,
}

impl Alert {
    /// A run that is not tried again by itself.
    #[must_use]
    pub fn failed(pipeline: &str, interval: Interval, error: &Error) -> Alert {
        let fix = match error.code() {
            // What goes on without files takes rows away: that is nothing to be pasted.
            SOURCE_GONE => format!("tidemill plan {pipeline}"),
            _ => format!("tidemill backfill {pipeline} --from {} --to {} --only failed", interval.start, interval.end),
        };
        Alert {
            kind: AlertKind::Failed,
            pipeline: pipeline.to_owned(),
            interval: Some(interval),
            message: format!("{error}"),
            fix,
        }
    }

    /// An interval that is not done in time.
    #[must_use]
    pub fn late(pipeline: &str, interval: Interval, latency: Duration, now: Timestamp) -> Alert {
        let message = format!(
            "not done {} after its end; the pipeline's latency is {}",
            duration(now.since(interval.end)),
            Span(latency)
        );
        let fix = format!("tidemill runs {pipeline}");
        Alert { kind: AlertKind::Late, pipeline: pipeline.to_owned(), interval: Some(interval), message, fix }
    }

    /// A run that does not end.
    #[must_use]
    pub fn stuck(pipeline: &str, run: &RunRecord, so_far: Duration, usual: Duration) -> Alert {
        let message = format!("run {} goes on for {}; usual are {}", run.run, duration(so_far), duration(usual));
        Alert {
            kind: AlertKind::Stuck,
            pipeline: pipeline.to_owned(),
            interval: Some(run.interval),
            message,
            fix: format!("tidemill runs {pipeline} {}", run.run),
        }
    }

    /// A live pipeline whose rows are visible too late.
    #[must_use]
    pub fn slow(pipeline: &str, is: Duration, asked: Duration) -> Alert {
        let millis = Duration::from_millis(u64::try_from(is.as_millis()).unwrap_or(u64::MAX));
        let message = format!(
            "rows are visible {} after they arrive (p99); the pipeline's latency is {}",
            Span(millis),
            Span(asked)
        );
        let fix = format!("tidemill watermarks {pipeline}");
        Alert { kind: AlertKind::Slow, pipeline: pipeline.to_owned(), interval: None, message, fix }
    }

    /// A pipeline that cannot be worked on.
    #[must_use]
    pub fn broken(pipeline: &str, error: &Error) -> Alert {
        let fix = format!("tidemill plan {pipeline}");
        Alert {
            kind: AlertKind::Broken,
            pipeline: pipeline.to_owned(),
            interval: None,
            message: format!("{error}"),
            fix,
        }
    }
}

/// Tells alerts, each once.
#[derive(Debug)]
pub struct Alerts {
    settings: AlertSettings,
    tell: Arc<dyn Tell>,
    told: BTreeSet<(AlertKind, String, Option<Interval>, String)>,
    looked: Option<Timestamp>,
}

impl Alerts {
    /// To where the project says.
    #[must_use]
    pub fn new(settings: AlertSettings, tell: Arc<dyn Tell>) -> Alerts {
        Alerts { settings, tell, told: BTreeSet::new(), looked: None }
    }

    /// After how long a run is called stuck.
    #[must_use]
    pub fn stuck_after(&self) -> Duration {
        self.settings.stuck_after
    }

    /// Whether runs that do not end are to be looked for again.
    pub fn looks_for_stuck(&mut self, now: Timestamp) -> bool {
        let due = self.looked.is_none_or(|looked| now.since(looked) >= STUCK);
        if due {
            self.looked = Some(now);
        }
        due
    }

    /// Whether this would be told.
    #[must_use]
    pub fn asks(&self, kind: AlertKind, pipeline: &str, interval: Option<Interval>) -> bool {
        !self.told.iter().any(|(of, name, at, _)| (*of, name.as_str(), *at) == (kind, pipeline, interval))
    }

    /// Tells it, unless it was told.
    pub fn raise(&mut self, alert: Alert, now: Timestamp) {
        // A failure that is another one than before is worth another word.
        let what = if matches!(alert.kind, AlertKind::Failed | AlertKind::Broken) {
            alert.message.clone()
        } else {
            String::new()
        };
        if self.told.len() >= REMEMBERED {
            self.told.clear();
        }
        if !self.told.insert((alert.kind, alert.pipeline.clone(), alert.interval, what)) {
            return;
        }
        let of = alert.interval.map_or_else(String::new, |interval| format!(" {interval}"));
        let Alert { kind, pipeline, message, fix, .. } = &alert;
        self.tell.tell(&News::Note(format!("x {} {pipeline}{of}: {message}\n  mend it: {fix}", kind.word())));
        if let Some(url) = &self.settings.webhook {
            tokio::spawn(post(url.expose().to_owned(), alert.clone(), now, Arc::clone(&self.tell)));
        }
        if let Some(command) = &self.settings.command {
            tokio::spawn(run(command.clone(), alert, Arc::clone(&self.tell)));
        }
    }
}

fn as_json(alert: &Alert, now: Timestamp) -> serde_json::Value {
    json!({
        "kind": alert.kind.word(),
        "pipeline": alert.pipeline,
        "interval": alert.interval.map(|i| json!({"start": i.start.to_string(), "end": i.end.to_string()})),
        "message": alert.message,
        "fix": alert.fix,
        "at": now.to_string(),
    })
}

/// Sends an alert. The URL is a secret: what goes wrong is told without it.
async fn post(url: String, alert: Alert, now: Timestamp, tell: Arc<dyn Tell>) {
    let failed = |why: &str| tell.tell(&News::Note(format!("! an alert did not reach the webhook: {why}")));
    let client = match reqwest::Client::builder().timeout(PATIENCE).build() {
        Ok(client) => client,
        Err(error) => return failed(&error.without_url().to_string()),
    };
    let request = client.post(url).header("content-type", "application/json").body(as_json(&alert, now).to_string());
    match request.send().await {
        Ok(answer) if answer.status().is_success() => {}
        Ok(answer) => failed(&format!("it answers {}", answer.status())),
        Err(error) => failed(&error.without_url().to_string()),
    }
}

async fn run(command: String, alert: Alert, tell: Arc<dyn Tell>) {
    let interval = alert.interval.map_or_else(String::new, |interval| interval.to_string());
    let mut shell = Command::new("sh");
    shell.arg("-c").arg(command).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).kill_on_drop(true);
    shell.env("TIDEMILL_ALERT_KIND", alert.kind.word()).env("TIDEMILL_ALERT_PIPELINE", &alert.pipeline);
    shell.env("TIDEMILL_ALERT_INTERVAL", interval).env("TIDEMILL_ALERT_MESSAGE", &alert.message);
    shell.env("TIDEMILL_ALERT_FIX", &alert.fix);
    let why = match tokio::time::timeout(PATIENCE, shell.status()).await {
        Ok(Ok(status)) if status.success() => return,
        Ok(Ok(status)) => format!("{status}"),
        Ok(Err(error)) => error.to_string(),
        Err(_) => format!("it took longer than {}", Span(PATIENCE)),
    };
    tell.tell(&News::Note(format!("! the command for alerts failed: {why}")));
}
