//! A `tidemill` of your own: the command line with a function and an aggregate more.
//!
//! ```text
//! cargo run --release -p tidemill --example functions -- -C examples/functions run prices
//! cargo run --release -p tidemill --example functions -- -C examples/functions query "SELECT * FROM typical"
//! ```
//!
//! **Invariant:** both functions are immutable, and the aggregate merges in any order: see `tidemill::functions`.

use std::error::Error;
use std::process::ExitCode;
use std::sync::Arc;

use tidemill::functions::array::types::{Float64Type, Int64Type};
use tidemill::functions::array::{AsArray, Float64Array, StringArray};
use tidemill::functions::{
    Accumulator, AggregateUDF, ArrayRef, ColumnarValue, DataType, Functions, Result, ScalarUDF, ScalarValue,
    Volatility, check_aggregate, create_udaf, create_udf,
};

fn main() -> std::result::Result<ExitCode, Box<dyn Error>> {
    let sample: ArrayRef = Arc::new(Float64Array::from(vec![Some(1.5), None, Some(20.0), Some(0.25), Some(3.0)]));
    // What a test would do; here it shows how.
    check_aggregate(&geometric_mean(), &[sample], 1)?;
    let functions = Functions::new().scalar(band(), 1)?.aggregate(geometric_mean(), 1)?;
    Ok(tidemill::cli::main_with(&functions))
}

/// `price_band(price)`: a word for how much a price is.
fn band() -> ScalarUDF {
    create_udf(
        "price_band",
        vec![DataType::Float64],
        DataType::Utf8,
        Volatility::Immutable,
        Arc::new(|arguments: &[ColumnarValue]| {
            let prices = ColumnarValue::values_to_arrays(arguments)?;
            let word = |price: f64| if price < 10.0 { "low" } else { "high" };
            let words: StringArray = prices[0].as_primitive::<Float64Type>().iter().map(|p| p.map(word)).collect();
            Ok(ColumnarValue::Array(Arc::new(words)))
        }),
    )
}

/// `geometric_mean(price)`: NULL over no value.
fn geometric_mean() -> AggregateUDF {
    create_udaf(
        "geometric_mean",
        vec![DataType::Float64],
        Arc::new(DataType::Float64),
        Volatility::Immutable,
        Arc::new(|_| Ok(Box::<Logarithms>::default())),
        Arc::new(vec![DataType::Float64, DataType::Int64]),
    )
}

/// The sum of the logarithms, and of how many values.
#[derive(Debug, Default)]
struct Logarithms {
    sum: f64,
    values: i64,
}

impl Accumulator for Logarithms {
    fn update_batch(&mut self, arguments: &[ArrayRef]) -> Result<()> {
        for value in arguments[0].as_primitive::<Float64Type>().iter().flatten() {
            self.sum += value.ln();
            self.values += 1;
        }
        Ok(())
    }

    fn state(&mut self) -> Result<Vec<ScalarValue>> {
        Ok(vec![ScalarValue::from(self.sum), ScalarValue::from(self.values)])
    }

    fn merge_batch(&mut self, states: &[ArrayRef]) -> Result<()> {
        let sums = states[0].as_primitive::<Float64Type>();
        let values = states[1].as_primitive::<Int64Type>();
        self.sum += sums.iter().flatten().sum::<f64>();
        self.values += values.iter().flatten().sum::<i64>();
        Ok(())
    }

    fn evaluate(&mut self) -> Result<ScalarValue> {
        let mean = (self.values > 0).then(|| (self.sum / self.values as f64).exp());
        Ok(ScalarValue::Float64(mean))
    }

    fn size(&self) -> usize {
        size_of_val(self)
    }
}
