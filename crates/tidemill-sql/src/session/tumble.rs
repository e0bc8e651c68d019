//! [`WindowBounds`]: the functions `tumble_start` and `tumble_end` that `TUMBLE(…)` is planned as.
//!
//! **Invariant:** immutable and vectorised; the bounds of NULL are NULL.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, TimestampMicrosecondArray};
use arrow::datatypes::{DataType, TimeUnit, TimestampMicrosecondType};
use datafusion::common::{Result, ScalarValue, exec_err, plan_err};
use datafusion::logical_expr::{ColumnarValue, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature, Volatility};

use super::size::WindowSize;

/// The name of the function that gives the start of a window.
pub const TUMBLE_START: &str = "tumble_start";
/// The name of the function that gives the end of a window.
pub const TUMBLE_END: &str = "tumble_end";

/// `tumble_start(ts, micros, offset, months)` and `tumble_end(…)`; the three integers are constants, see
/// [`WindowSize::to_parts`].
#[derive(Debug, PartialEq, Eq, Hash)]
pub struct WindowBounds {
    end: bool,
    signature: Signature,
}

impl WindowBounds {
    /// The function for the start of a window.
    #[must_use]
    pub fn start() -> ScalarUDF {
        ScalarUDF::new_from_impl(WindowBounds { end: false, signature: Signature::user_defined(Volatility::Immutable) })
    }

    /// The function for the end of a window.
    #[must_use]
    pub fn end() -> ScalarUDF {
        ScalarUDF::new_from_impl(WindowBounds { end: true, signature: Signature::user_defined(Volatility::Immutable) })
    }

    fn compute(&self, times: &TimestampMicrosecondArray, size: WindowSize) -> Result<TimestampMicrosecondArray> {
        // Rows of a batch mostly lie in one window: remember it instead of dividing again.
        let mut window = (1_i64, 0_i64);
        let mut bound = |at: i64| {
            if at < window.0 || at >= window.1 {
                let Some(found) = size.window_of(at) else {
                    return exec_err!("the window of the time {at} µs lies outside of time");
                };
                window = found;
            }
            Ok(if self.end { window.1 } else { window.0 })
        };
        if times.null_count() == 0 {
            let values = times.values().iter().map(|at| bound(*at)).collect::<Result<Vec<i64>>>()?;
            return Ok(TimestampMicrosecondArray::new(values.into(), None));
        }
        times.iter().map(|at| at.map(&mut bound).transpose()).collect()
    }
}

impl ScalarUDFImpl for WindowBounds {
    fn name(&self) -> &str {
        if self.end { TUMBLE_END } else { TUMBLE_START }
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn coerce_types(&self, arg_types: &[DataType]) -> Result<Vec<DataType>> {
        let [time, rest @ ..] = arg_types else {
            return plan_err!("{} needs a time column", self.name());
        };
        if rest.len() != 3 {
            return plan_err!("{} takes a time, and the window's length, offset and months", self.name());
        }
        let time = match time {
            DataType::Timestamp(_, zone) => DataType::Timestamp(TimeUnit::Microsecond, zone.clone()),
            DataType::Date32 | DataType::Date64 | DataType::Null => DataType::Timestamp(TimeUnit::Microsecond, None),
            other => return plan_err!("a window needs a TIMESTAMP or DATE column, not {other}"),
        };
        Ok(vec![time, DataType::Int64, DataType::Int64, DataType::Int64])
    }

    fn return_type(&self, arg_types: &[DataType]) -> Result<DataType> {
        Ok(self.coerce_types(arg_types)?.swap_remove(0))
    }

    fn is_strict(&self) -> bool {
        true
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let parts = args.args.get(1..4).map(|parts| parts.iter().filter_map(constant).collect::<Vec<i64>>());
        let size = parts.and_then(|parts| WindowSize::from_parts(parts.try_into().ok()?));
        let (Some(size), Some(time)) = (size, args.args.first()) else {
            return plan_err!("{} needs constants for the window's length", self.name());
        };
        let scalar = matches!(time, ColumnarValue::Scalar(_));
        let times = time.to_array(if scalar { 1 } else { args.number_rows })?;
        let DataType::Timestamp(TimeUnit::Microsecond, zone) = times.data_type() else {
            return plan_err!("{} needs a TIMESTAMP, not {}", self.name(), times.data_type());
        };
        let bounds = self.compute(times.as_primitive::<TimestampMicrosecondType>(), size)?;
        let bounds: ArrayRef = Arc::new(bounds.with_timezone_opt(zone.clone()));
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
