//! Functions of DataFusion that answer in nanoseconds, brought to microseconds: [`Micros`] and [`Now`].
//!
//! **Invariant:** `now()` is a constant of a run; a query that is not simplified with a start time cannot call it.

use std::sync::Arc;

use arrow::compute::cast;
use arrow::datatypes::{DataType, TimeUnit};
use datafusion::common::{Result, ScalarValue, exec_err};
use datafusion::logical_expr::simplify::{ExprSimplifyResult, SimplifyContext};
use datafusion::logical_expr::{
    ColumnarValue, Expr, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature, Volatility,
};

/// Another function whose nanoseconds are floored to microseconds.
#[derive(Debug, PartialEq, Eq, Hash)]
pub(super) struct Micros {
    inner: Arc<ScalarUDF>,
}

impl Micros {
    pub(super) fn over(inner: Arc<ScalarUDF>) -> ScalarUDF {
        ScalarUDF::new_from_impl(Micros { inner })
    }
}

fn in_micros(data_type: DataType) -> DataType {
    match data_type {
        DataType::Timestamp(TimeUnit::Nanosecond, zone) => DataType::Timestamp(TimeUnit::Microsecond, zone),
        other => other,
    }
}

impl ScalarUDFImpl for Micros {
    fn name(&self) -> &str {
        self.inner.name()
    }

    fn aliases(&self) -> &[String] {
        self.inner.aliases()
    }

    fn signature(&self) -> &Signature {
        self.inner.signature()
    }

    fn coerce_types(&self, arg_types: &[DataType]) -> Result<Vec<DataType>> {
        self.inner.coerce_types(arg_types)
    }

    fn return_type(&self, arg_types: &[DataType]) -> Result<DataType> {
        self.inner.return_type(arg_types).map(in_micros)
    }

    fn invoke_with_args(&self, mut args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let wanted = args.return_field.data_type().clone();
        if let DataType::Timestamp(TimeUnit::Microsecond, zone) = &wanted {
            let nanos = DataType::Timestamp(TimeUnit::Nanosecond, zone.clone());
            args.return_field = Arc::new(args.return_field.as_ref().clone().with_data_type(nanos));
        }
        match self.inner.invoke_with_args(args)? {
            ColumnarValue::Array(array) => Ok(ColumnarValue::Array(cast(&array, &wanted)?)),
            ColumnarValue::Scalar(scalar) => Ok(ColumnarValue::Scalar(scalar.cast_to(&wanted)?)),
        }
    }
}

/// `now()`: the start of the run, the same in the whole of it.
#[derive(Debug, PartialEq, Eq, Hash)]
pub(super) struct Now {
    signature: Signature,
    aliases: Vec<String>,
}

impl Now {
    pub(super) fn function() -> ScalarUDF {
        ScalarUDF::new_from_impl(Now {
            signature: Signature::nullary(Volatility::Stable),
            aliases: vec!["current_timestamp".to_owned()],
        })
    }
}

impl ScalarUDFImpl for Now {
    fn name(&self) -> &str {
        "now"
    }

    fn aliases(&self) -> &[String] {
        &self.aliases
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, _arg_types: &[DataType]) -> Result<DataType> {
        Ok(DataType::Timestamp(TimeUnit::Microsecond, None))
    }

    fn simplify(&self, args: Vec<Expr>, info: &SimplifyContext) -> Result<ExprSimplifyResult> {
        let Some(start) = info.query_execution_start_time() else {
            return Ok(ExprSimplifyResult::Original(args));
        };
        let value = ScalarValue::TimestampMicrosecond(Some(start.timestamp_micros()), None);
        Ok(ExprSimplifyResult::Simplified(Expr::Literal(value, None)))
    }

    fn invoke_with_args(&self, _args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        exec_err!("now() is only known once a run has started")
    }
}
