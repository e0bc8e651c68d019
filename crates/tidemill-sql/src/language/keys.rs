//! The keys of `tidemill.toml`, section by section: one list each, from which the reference is made too.
//!
//! **Invariant:** a key that is read has an effect.

use tidemill_model::{OptionKind, OptionSpec};

/// `[project]`.
pub const PROJECT_KEYS: &[OptionSpec] =
    &[OptionSpec::optional("name", OptionKind::Text, None, "The project's name; the folder's unless given.")];

/// `[state]`.
pub const STATE_KEYS: &[OptionSpec] = &[
    OptionSpec::optional("path", OptionKind::Text, Some(".tidemill"), "The folder of the project's own state."),
    OptionSpec::optional(
        "checkpoint",
        OptionKind::Text,
        None,
        "Where checkpoints go instead of the state folder: s3://bucket/prefix.",
    ),
];

/// `[server]`.
pub const SERVER_KEYS: &[OptionSpec] = &[OptionSpec::optional(
    "listen",
    OptionKind::Text,
    Some("127.0.0.1:7070"),
    "The address of the HTTP server; a loopback address.",
)];

/// `[engine]`.
pub const ENGINE_KEYS: &[OptionSpec] = &[
    OptionSpec::optional("lanes", OptionKind::Integer, None, "How many lanes a pipeline has; one a core unless given."),
    OptionSpec::optional("memory", OptionKind::Text, None, "How much memory queries may use: 512 MiB, 4 GiB."),
    OptionSpec::optional(
        "state_memory",
        OptionKind::Text,
        None,
        "How much memory the state of a running pipeline may take: 512 MiB, 4 GiB; a third of the machine's unless given. State beyond it lies on the local disk, under the state folder, which is slower and changes no answer.",
    ),
];

/// `[stores.s3]`.
pub const S3_KEYS: &[OptionSpec] = &[
    OptionSpec::optional("region", OptionKind::Text, None, "The region of the buckets."),
    OptionSpec::optional("endpoint", OptionKind::Text, None, "The URL of an S3 service that is not Amazon's."),
    OptionSpec::optional("access_key_id", OptionKind::Text, None, "The id of the key."),
    OptionSpec::optional("secret_access_key", OptionKind::Text, None, "The key; write ${NAME} here."),
    OptionSpec::optional("session_token", OptionKind::Text, None, "The token of a temporary key; write ${NAME} here."),
    OptionSpec::optional("allow_http", OptionKind::Boolean, None, "Whether the endpoint may be plain http."),
    OptionSpec::optional(
        "virtual_hosted_style_request",
        OptionKind::Boolean,
        None,
        "Whether the bucket is part of the host name.",
    ),
];

/// `[scheduler]`.
pub const SCHEDULER_KEYS: &[OptionSpec] = &[OptionSpec::optional(
    "slots",
    OptionKind::Integer,
    Some("4"),
    "How many runs of intervals go on at the same time, of all pipelines together.",
)];

/// `[alerts]`.
pub const ALERT_KEYS: &[OptionSpec] = &[
    OptionSpec::optional(
        "webhook",
        OptionKind::Text,
        None,
        "A URL that each alert is sent to, as JSON: what is wrong, with which pipeline and interval, and the command that mends it. Write ${NAME} here: such URLs are secrets.",
    ),
    OptionSpec::optional(
        "command",
        OptionKind::Text,
        None,
        "A line for the shell that is run for each alert, which it finds in TIDEMILL_ALERT_KIND, _PIPELINE, _INTERVAL, _MESSAGE and _FIX.",
    ),
    OptionSpec::optional(
        "stuck_after",
        OptionKind::Span,
        Some("1 hour"),
        "After how long without an end a run is called stuck, if it takes more than three times as long as usual, too.",
    ),
];

/// `[pools]`: any names.
pub const POOL_DOC: &str =
    "Names of pools and how many runs each lets go on at the same time, whatever process they are in: warehouse = 2.";
