//! [`Shell`]: runs the programs of tasks, each as a line for the shell, with its interval in its environment.
//!
//! **Invariant:** a program does not outlive who asked for it: it is ended when the run is asked to stop, when its time is
//! over, and when this process dies, however it dies.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use tidemill_model::{Error, Kind, Result, Span, Timestamp};
use tidemill_runtime::exec::StopFlag;
use tidemill_sql::batch::{Call, Programs};
use tokio::process::{Child, Command};

/// The line that the shell is given. Its standard input is a pipe from this process that nobody writes to: when it ends,
/// this process has died, and the group of processes is ended. The program itself reads nothing.
const GUARDED: &str = "exec 3<&0; (trap '' TERM; read -r _ <&3; kill -s TERM -- -$$; sleep 10; kill -s KILL -- -$$) >/dev/null 2>&1 & exec sh -c \"$1\" </dev/null 3<&-";

/// How long a program has to end when it is asked to.
const GRACE: Duration = Duration::from_secs(10);
/// How often is looked whether the run was asked to stop.
const LOOK: Duration = Duration::from_millis(50);
/// How much of what a program gives is taken.
const MOST_VALUE: u64 = 64 << 10;
/// How many of its last lines an error shows.
const SHOWN: usize = 5;

/// Runs programs below a project's folder, and keeps what they print below its state.
#[derive(Debug)]
pub struct Shell {
    project: PathBuf,
    state: PathBuf,
}

impl Shell {
    /// For a project and the folder of its state.
    #[must_use]
    pub fn new(project: &Path, state: &Path) -> Arc<Shell> {
        Arc::new(Shell { project: project.to_owned(), state: state.to_owned() })
    }

    /// Where what a task prints is kept.
    #[must_use]
    pub fn log(state: &Path, pipeline: &str, start: Timestamp, task: &str, attempt: u32) -> PathBuf {
        let interval = start.to_string().replace([':', ' '], "");
        state.join("pipelines").join(pipeline).join("logs").join(interval).join(format!("{task}-{attempt}.log"))
    }

    fn command(&self, call: &Call, value: &Path, log: &File) -> Result<Command> {
        let settings = &call.task.settings;
        let folder = self.project.join(settings.text("folder").unwrap_or("."));
        if !folder.is_dir() {
            return Err(Error::new(Kind::Config, "C112", format!("there is no folder {}", folder.display()))
                .at(&call.task.place)
                .fact("`folder` names one below the project's folder"));
        }
        let shared = || log.try_clone().map_err(|e| Error::io("write", "the log of a task", e));
        let mut command = Command::new("sh");
        command.arg("-c").arg(GUARDED).arg("sh").arg(settings.text("command").unwrap_or_default());
        command.current_dir(folder).process_group(0);
        command.stdin(Stdio::piped()).stdout(shared()?).stderr(shared()?);
        command.env("TIDEMILL_PIPELINE", &call.pipeline);
        command.env("TIDEMILL_TASK", &call.task.name);
        command.env("TIDEMILL_INTERVAL_START", call.interval.start.to_string());
        command.env("TIDEMILL_INTERVAL_END", call.interval.end.to_string());
        command.env("TIDEMILL_GENERATION", call.generation.to_string());
        command.env("TIDEMILL_ATTEMPT", call.attempt.to_string());
        command.env("TIDEMILL_VALUE_FILE", value);
        for (task, value) in &call.values {
            command.env(format!("TIDEMILL_VALUE_{}", task.to_uppercase()), value);
        }
        for pair in
            settings.text("environment").iter().flat_map(|text| text.split(',')).filter(|pair| !pair.trim().is_empty())
        {
            let Some((name, value)) = pair.split_once('=').filter(|(name, _)| !name.trim().is_empty()) else {
                return Err(Error::new(Kind::Config, "C113", format!("`{}` sets no variable", pair.trim()))
                    .at(&call.task.place)
                    .fact("write environment = 'NAME=value, OTHER=value'"));
            };
            command.env(name.trim(), value.trim());
        }
        Ok(command)
    }
}

#[async_trait]
impl Programs for Shell {
    async fn run(&self, call: &Call) -> Result<Option<String>> {
        let path = Shell::log(&self.state, &call.pipeline, call.interval.start, &call.task.name, call.attempt);
        let made = path.parent().map_or(Ok(()), std::fs::create_dir_all).and_then(|()| File::create(&path));
        let log = made.map_err(|e| Error::io("write", path.display(), e))?;
        let value = path.with_extension("value");
        let _ = std::fs::remove_file(&value);
        let mut child = self
            .command(call, &value, &log)?
            .spawn()
            .map_err(|e| Error::io("start", format!("the task `{}`", call.task.name), e))?;
        let allowed = call.task.settings.span("timeout").unwrap_or(Duration::MAX);
        let ended = tokio::time::timeout(allowed, ended(&mut child, &call.stop)).await;
        let failed = |message: String| {
            let error = Error::new(Kind::Unavailable, "U061", message);
            let lines = last_lines(&path);
            let error = lines.into_iter().fold(error, |error, line| error.fact(format!("| {line}")));
            error.fact(format!("all that it printed is in {}", path.display()))
        };
        let name = &call.task.name;
        let status = match ended {
            Ok(Ok(Some(status))) => status,
            Ok(Err(error)) => return Err(Error::io("wait for", format!("the task `{name}`"), error)),
            Ok(Ok(None)) => {
                end(&mut child).await;
                return Err(failed(format!("the task `{name}` was ended, as the run was asked to stop")));
            }
            Err(_) => {
                end(&mut child).await;
                return Err(failed(format!("the task `{name}` took longer than {} and was ended", Span(allowed))));
            }
        };
        if !status.success() {
            let how = status
                .code()
                .map_or_else(|| format!("was ended by {status}"), |code| format!("failed with exit code {code}"));
            return Err(failed(format!("the task `{name}` {how}")));
        }
        given(&value)
    }
}

/// Waits for the end of a program; `None` when the run was asked to stop first.
async fn ended(child: &mut Child, stop: &StopFlag) -> std::io::Result<Option<ExitStatus>> {
    // Held open until the program has ended: this is what tells the group that this process lives.
    let alive = child.stdin.take();
    let group = child.id();
    loop {
        tokio::select! {
            status = child.wait() => {
                // What it left behind ends with it, the guard among it.
                if let Some(group) = group {
                    signal("KILL", group).await;
                }
                drop(alive);
                return status.map(Some);
            }
            () = tokio::time::sleep(LOOK) => {
                if stop.is_set() {
                    child.stdin = alive;
                    return Ok(None);
                }
            }
        }
    }
}

/// Ends a program and all that it began: politely, and after a while not.
async fn end(child: &mut Child) {
    let Some(group) = child.id() else { return };
    signal("TERM", group).await;
    if tokio::time::timeout(GRACE, child.wait()).await.is_err() {
        signal("KILL", group).await;
        let _ = child.wait().await;
    }
}

async fn signal(name: &str, group: u32) {
    let _ =
        Command::new("sh").arg("-c").arg(format!("kill -s {name} -- -{group}")).stderr(Stdio::null()).status().await;
}

/// What a program wrote for those after it.
fn given(path: &Path) -> Result<Option<String>> {
    match std::fs::metadata(path) {
        Err(_) => Ok(None),
        Ok(meta) if meta.len() > MOST_VALUE => {
            Err(Error::new(Kind::Data, "D110", format!("a task gave {} bytes to those after it", meta.len())).fact(
                format!("a value has at most {MOST_VALUE}: write large results to a file or table and give its name"),
            ))
        }
        Ok(_) => {
            let text = std::fs::read_to_string(path).map_err(|e| Error::io("read", path.display(), e))?;
            Ok(Some(text.trim_end_matches(['\n', '\r']).to_owned()))
        }
    }
}

fn last_lines(path: &Path) -> Vec<String> {
    let bytes = std::fs::read(path).unwrap_or_default();
    let tail = bytes.get(bytes.len().saturating_sub(16 << 10)..).unwrap_or_default();
    let text = String::from_utf8_lossy(tail);
    let lines: Vec<&str> = text.lines().filter(|line| !line.trim().is_empty()).collect();
    lines.iter().skip(lines.len().saturating_sub(SHOWN)).map(|line| (*line).to_owned()).collect()
}
