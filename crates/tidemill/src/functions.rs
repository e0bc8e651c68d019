//! Functions that a program adds to SQL: [`Functions`], and all that is needed to write some.
//!
//! ```no_run
//! use std::process::ExitCode;
//! use std::sync::Arc;
//! use tidemill::functions::{ColumnarValue, DataType, Functions, Volatility, create_udf};
//!
//! /// The command line with one function more.
//! fn main() -> Result<ExitCode, Box<dyn std::error::Error>> {
//!     let same = create_udf(
//!         "same",
//!         vec![DataType::Utf8],
//!         DataType::Utf8,
//!         Volatility::Immutable,
//!         Arc::new(|arguments: &[ColumnarValue]| Ok(arguments[0].clone())),
//!     );
//!     Ok(tidemill::cli::main_with(&Functions::new().scalar(same, 1)?))
//! }
//! ```
//!
//! What a function has to keep to stands at [`Functions`]; [`check_aggregate`] tries an aggregate. `examples/functions` is a
//! whole program.
//!
//! **Invariant:** there is nothing here of our own: the functions are DataFusion's, so that any of its ecosystem can be used.

pub use arrow::array::{self, ArrayRef};
pub use arrow::datatypes::DataType;
pub use datafusion::common::{DataFusionError, Result, ScalarValue};
pub use datafusion::logical_expr::{
    Accumulator, AggregateUDF, AggregateUDFImpl, ColumnarValue, ScalarUDF, ScalarUDFImpl, Volatility, create_udaf,
    create_udf,
};
pub use tidemill_sql::session::{Functions, check_aggregate};
