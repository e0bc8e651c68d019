//! [`WindowBounds`]: the functions `tumble_start` and `tumble_end` that `TUMBLE(…)` is planned as, and those that the
//! executors make of `HOP(…)`.
//!
//! **Invariant:** immutable and vectorised; the bounds of NULL are NULL.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, ListArray, TimestampMicrosecondArray};
use arrow::buffer::OffsetBuffer;
use arrow::datatypes::{DataType, Field, TimeUnit, TimestampMicrosecondType};
use datafusion::common::{Result, ScalarValue, exec_err, plan_err};
use datafusion::logical_expr::{ColumnarValue, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature, Volatility};

use super::size::WindowSize;

/// The name of the function that gives the start of a window.
pub const TUMBLE_START: &str = "tumble_start";
/// The name of the function that gives the end of a window.
pub const TUMBLE_END: &str = "tumble_end";

/// The name of the function that gives the start of the pane of a hopping window.
pub const HOP_PANE: &str = "hop_pane";

/// `tumble_start(ts, size, slide, offset, unit)`, `tumble_end(…)` and so on; the four integers are constants, see
/// [`WindowSize::to_parts`].
#[derive(Debug, PartialEq, Eq, Hash)]
pub struct WindowBounds {
    bound: Bound,
    signature: Signature,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Bound {
    Start,
    End,
    /// The start of the pane; NULL in a gap between windows.
    Pane,
    /// The starts of all windows that a time is in, as a list.
    Starts,
    /// The end of the window that starts at the time given.
    EndOf,
}

impl WindowBounds {
    /// The function for the start of a window.
    #[must_use]
    pub fn start() -> ScalarUDF {
        WindowBounds::of(Bound::Start)
    }

    /// The function for the end of a window.
    #[must_use]
    pub fn end() -> ScalarUDF {
        WindowBounds::of(Bound::End)
    }

    /// The function for the start of a pane.
    #[must_use]
    pub fn pane() -> ScalarUDF {
        WindowBounds::of(Bound::Pane)
    }

    /// The function for the starts of all windows that a time is in.
    #[must_use]
    pub fn starts() -> ScalarUDF {
        WindowBounds::of(Bound::Starts)
    }

    /// The function for the end of the window that has this start.
    #[must_use]
    pub fn end_of() -> ScalarUDF {
        WindowBounds::of(Bound::EndOf)
    }

    fn of(bound: Bound) -> ScalarUDF {
        ScalarUDF::new_from_impl(WindowBounds { bound, signature: Signature::user_defined(Volatility::Immutable) })
    }

    /// For each time the starts of its windows.
    fn lists(times: &TimestampMicrosecondArray, size: WindowSize) -> ListArray {
        let (mut starts, mut lengths) = (Vec::new(), Vec::with_capacity(times.len()));
        for at in times {
            let before = starts.len();
            starts.extend(at.into_iter().flat_map(|at| size.starts_at(at)));
            lengths.push(starts.len() - before);
        }
        let values = TimestampMicrosecondArray::from(starts).with_timezone_opt(times.timezone().map(Arc::<str>::from));
        let field = Arc::new(Field::new_list_field(values.data_type().clone(), true));
        ListArray::new(field, OffsetBuffer::from_lengths(lengths), Arc::new(values), None)
    }

    fn compute(&self, times: &TimestampMicrosecondArray, size: WindowSize) -> Result<TimestampMicrosecondArray> {
        if self.bound == Bound::EndOf {
            return Ok(times.unary(|start| size.end_of(start)));
        }
        // Rows of a batch mostly lie in one window: remember it instead of dividing again.
        let mut window = (1_i64, 0_i64);
        let mut bound = |at: i64| {
            if at < window.0 || at >= window.1 {
                let found = match self.bound {
                    Bound::Pane => size.pane_of(at),
                    _ => size.window_of(at),
                };
                let Some(found) = found else {
                    if self.bound == Bound::Pane && size.window_of(at).is_some() {
                        return Ok(None);
                    }
                    return exec_err!("the window of the time {at} µs lies outside of time");
                };
                window = found;
            }
            Ok(Some(if self.bound == Bound::End { window.1 } else { window.0 }))
        };
        if times.null_count() == 0 && self.bound != Bound::Pane {
            let values = times.values().iter().map(|at| Ok(bound(*at)?.unwrap_or(0))).collect::<Result<Vec<i64>>>()?;
            return Ok(TimestampMicrosecondArray::new(values.into(), None));
        }
        times.iter().map(|at| at.map_or(Ok(None), &mut bound)).collect()
    }
}

impl ScalarUDFImpl for WindowBounds {
    fn name(&self) -> &str {
        match self.bound {
            Bound::Start => TUMBLE_START,
            Bound::End => TUMBLE_END,
            Bound::Pane => HOP_PANE,
            Bound::Starts => "hop_starts",
            Bound::EndOf => "hop_end",
        }
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn coerce_types(&self, arg_types: &[DataType]) -> Result<Vec<DataType>> {
        let [time, rest @ ..] = arg_types else {
            return plan_err!("{} needs a time column", self.name());
        };
        if rest.len() != 4 {
            return plan_err!("{} takes a time, and the window's length, step, offset and unit", self.name());
        }
        let time = match time {
            DataType::Timestamp(_, zone) => DataType::Timestamp(TimeUnit::Microsecond, zone.clone()),
            DataType::Date32 | DataType::Date64 | DataType::Null => DataType::Timestamp(TimeUnit::Microsecond, None),
            other => return plan_err!("a window needs a TIMESTAMP or DATE column, not {other}"),
        };
        Ok(vec![time, DataType::Int64, DataType::Int64, DataType::Int64, DataType::Int64])
    }

    fn return_type(&self, arg_types: &[DataType]) -> Result<DataType> {
        let time = self.coerce_types(arg_types)?.swap_remove(0);
        Ok(if self.bound == Bound::Starts { DataType::List(Arc::new(Field::new_list_field(time, true))) } else { time })
    }

    fn is_strict(&self) -> bool {
        true
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let parts = args.args.get(1..5).map(|parts| parts.iter().filter_map(constant).collect::<Vec<i64>>());
        let size = parts.and_then(|parts| WindowSize::from_parts(parts.try_into().ok()?));
        let (Some(size), Some(time)) = (size, args.args.first()) else {
            return plan_err!("{} needs constants for the window's length", self.name());
        };
        let scalar = matches!(time, ColumnarValue::Scalar(_));
        let times = time.to_array(if scalar { 1 } else { args.number_rows })?;
        let DataType::Timestamp(TimeUnit::Microsecond, zone) = times.data_type().clone() else {
            return plan_err!("{} needs a TIMESTAMP, not {}", self.name(), times.data_type());
        };
        let times = times.as_primitive::<TimestampMicrosecondType>();
        let bounds: ArrayRef = match self.bound {
            Bound::Starts => Arc::new(WindowBounds::lists(times, size)),
            _ => Arc::new(self.compute(times, size)?.with_timezone_opt(zone)),
        };
        if scalar {
            return Ok(ColumnarValue::Scalar(ScalarValue::try_from_array(&bounds, 0)?));
        }
        Ok(ColumnarValue::Array(bounds))
    }
}

fn constant(value: &ColumnarValue) -> Option<i64> {
    match value {
        ColumnarValue::Scalar(ScalarValue::Int64(value)) => *value,
        _ => None,
    }
}
