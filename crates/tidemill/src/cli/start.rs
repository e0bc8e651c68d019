//! `tidemill start`: all pipelines of a project, with the scheduler and the server.
//!
//! **Invariant:** the first signal ends it after the steps and epochs in hand; the server answers until then.

use std::sync::Arc;
use std::time::Duration;

use tidemill_model::Result;
use tidemill_runtime::exec::Views;
use tidemill_serve::{Server, ServerState};

use super::numbers::counted;
use super::output::Output;
use super::run::stop_on_signal;
use super::telling::Telling;
use crate::history::History;
use crate::runs::Tell;
use crate::scheduler::Scheduler;
use crate::{Workspace, workspace::served_views};

/// How long is waited at most until a signal or what has ended is looked for.
const LOOK: Duration = Duration::from_millis(100);

/// Runs until a signal, or once through what is due.
pub(super) async fn start(workspace: Workspace, once: bool, output: &Output) -> Result<()> {
    let workspace = Arc::new(workspace);
    let stop = stop_on_signal(output)?;
    let views = Arc::new(Views::default());
    let telling: Arc<dyn Tell> = Telling::new(output, true, None);
    let holder = crate::world::holder(workspace.clock.now());
    let history = History::open(&workspace.state)?;
    let mut scheduler = Scheduler::new(Arc::clone(&workspace), &holder, Some(history), telling, Arc::clone(&views))?;
    let (scheduled, live) = scheduler.pipelines();
    output.note(format!(
        "{} by intervals, {} live    Ctrl-C ends after the steps in hand",
        counted(scheduled.len() as u64, "pipeline"),
        counted(live.len() as u64, "pipeline"),
    ));
    if scheduled.is_empty() && live.is_empty() {
        output.note("nothing to do: give a pipeline a trigger other than once, such as '@hourly' or 'continuous'");
    }
    if !once {
        let names: Vec<String> = workspace.catalog.project().pipelines.keys().cloned().collect();
        let served = served_views(&workspace, &names)?;
        let state = ServerState { published: views, views: Arc::new(served), clock: Arc::clone(&workspace.clock) };
        let server = Server::bind(workspace.catalog.project().config.listen, state).await?;
        output.note(format!("views at http://{}/v1/views", server.address()));
        tokio::spawn(server.serve(std::future::pending()));
    }
    let mut told: Option<String> = None;
    while !stop.is_set() {
        let ticked = scheduler.tick().await?;
        if ticked.leader != told {
            if let Some(leader) = &ticked.leader {
                output.note(format!(". {leader} leads; this process stands by"));
            }
            told = ticked.leader;
        }
        let now = workspace.clock.now();
        if once && ticked.leads && ticked.working == 0 && ticked.next > now {
            break;
        }
        let wait = ticked.next.since(now).clamp(Duration::from_millis(5), LOOK);
        if ticked.working > 0 {
            let _ = tokio::time::timeout(wait, scheduler.one_ended()).await;
        } else {
            tokio::time::sleep(wait).await;
        }
    }
    scheduler.stop().await;
    Ok(())
}
