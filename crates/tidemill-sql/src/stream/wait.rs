//! [`WaitFactory`]: hands time on with a delay, so that what waits for it below waits that much longer for rows that come
//! late.
//!
//! **Invariant:** rows pass as they are; the watermark that is handed on is the delay behind the one that came.

use tidemill_model::{Result, Span, Watermark};
use tidemill_runtime::{Batch, Operator, OperatorFactory, Output};

/// Makes the operators.
#[derive(Debug)]
pub(super) struct WaitFactory {
    /// The delay, in microseconds.
    pub(super) lateness: i64,
}

impl OperatorFactory for WaitFactory {
    fn create(&self, _lane: usize, _lanes: usize) -> Result<Box<dyn Operator>> {
        Ok(Box::new(Wait { lateness: self.lateness }))
    }

    fn describe(&self) -> String {
        let lateness = Span(std::time::Duration::from_micros(self.lateness.unsigned_abs()));
        format!("wait {lateness} longer for late rows")
    }
}

struct Wait {
    lateness: i64,
}

impl Operator for Wait {
    fn on_batch(&mut self, _input: usize, batch: Batch, out: &mut Output) -> Result<()> {
        out.push(batch);
        Ok(())
    }

    fn on_watermark(&mut self, watermark: Watermark, out: &mut Output) -> Result<()> {
        out.watermark = Some(watermark.behind(self.lateness));
        Ok(())
    }
}
