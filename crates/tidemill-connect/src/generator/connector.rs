//! [`GeneratorConnector`]: opens generated datasets.
//!
//! **Invariant:** the schema it tells is the one of the records it makes.

use std::sync::Arc;

use arrow::datatypes::{DataType, Field, Schema, SchemaRef, TimeUnit};
use tidemill_model::{Error, Kind, OptionSpec, Result};
use tidemill_runtime::{Connector, DatasetSpec, Environment, Sink, SinkTarget, Source};

use super::config::{GeneratorConfig, Model, OPTIONS};
use super::nexmark::Table;
use super::source::GeneratorSource;

/// The connector `generator`.
#[derive(Debug, Clone, Copy, Default)]
pub struct GeneratorConnector;

impl Connector for GeneratorConnector {
    fn name(&self) -> &'static str {
        "generator"
    }

    fn doc(&self) -> &'static str {
        "Orders, customers and products made up from a seed, with disorder, duplicates and faults as asked for; or the Nexmark events."
    }

    fn default_format(&self) -> Option<&'static str> {
        Some("json")
    }

    fn options(&self) -> &'static [OptionSpec] {
        OPTIONS
    }

    fn discover_schema(&self, spec: &DatasetSpec, _env: &Environment) -> Result<SchemaRef> {
        let column = |name: &str, data_type| Field::new(name, data_type, true);
        let fields = match GeneratorConfig::of(&spec.settings)?.model {
            Model::Orders(_) => vec![
                column("order_id", DataType::Int64),
                column("customer_id", DataType::Int64),
                column("product_id", DataType::Int64),
                column("amount", DataType::Float64),
                column("currency", DataType::Utf8),
                column("region", DataType::Utf8),
                column("created_at", DataType::Timestamp(TimeUnit::Microsecond, None)),
            ],
            Model::Customers(_) => vec![
                column("customer_id", DataType::Int64),
                column("region", DataType::Utf8),
                column("tier", DataType::Utf8),
            ],
            Model::Nexmark(model) => {
                let number = |name| column(name, DataType::Int64);
                let text = |name| column(name, DataType::Utf8);
                let time = |name| column(name, DataType::Timestamp(TimeUnit::Microsecond, None));
                match model.table {
                    Table::Person => vec![
                        number("id"),
                        text("name"),
                        text("email_address"),
                        text("credit_card"),
                        text("city"),
                        text("state"),
                        time("date_time"),
                        text("extra"),
                    ],
                    Table::Auction => vec![
                        number("id"),
                        text("item_name"),
                        text("description"),
                        number("initial_bid"),
                        number("reserve"),
                        time("date_time"),
                        time("expires"),
                        number("seller"),
                        number("category"),
                        text("extra"),
                    ],
                    Table::Bid => vec![
                        number("auction"),
                        number("bidder"),
                        number("price"),
                        text("channel"),
                        text("url"),
                        time("date_time"),
                        text("extra"),
                    ],
                }
            }
            Model::Products(_) => vec![column("product_id", DataType::Int64), column("category", DataType::Utf8)],
        };
        Ok(Arc::new(Schema::new(fields)))
    }

    fn source(&self, spec: &DatasetSpec, env: &Environment) -> Result<Arc<dyn Source>> {
        Ok(Arc::new(GeneratorSource::new(GeneratorConfig::of(&spec.settings)?, env.clock.clone())))
    }

    fn sink(&self, spec: &DatasetSpec, _target: &SinkTarget, _env: &Environment) -> Result<Arc<dyn Sink>> {
        Err(Error::new(Kind::Config, "C085", format!("table `{}` is generated and cannot be written", spec.name))
            .fact("write to a table with connector = 'log', 'files' or 'delta'"))
    }
}
