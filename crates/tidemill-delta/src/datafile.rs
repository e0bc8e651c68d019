//! [`DataFile`]: one Parquet file of a plain table, read as columns of the table.
//!
//! **Invariant:** what is read has the table's types whoever wrote the file: missing columns are NULL, partition
//! columns come from the log, other encodings of a type are converted.

use std::ops::Range;
use std::sync::Arc;

use arrow::array::{ArrayRef, RecordBatch, StringArray, UInt32Array, new_null_array};
use arrow::compute::take;
use arrow::datatypes::{DataType, SchemaRef};
use bytes::Bytes;
use deltalake_core::DeltaTableError;
use deltalake_core::kernel::{LogicalFileView, Remove};
use deltalake_core::logstore::ObjectStoreRef;
use futures::FutureExt;
use futures::future::BoxFuture;
use object_store::ObjectStoreExt;
use object_store::path::Path;
use parquet::arrow::ProjectionMask;
use parquet::arrow::arrow_reader::{ArrowReaderMetadata, ArrowReaderOptions};
use parquet::arrow::async_reader::{AsyncFileReader, ParquetRecordBatchStream, ParquetRecordBatchStreamBuilder};
use parquet::errors::Result as ParquetResult;
use parquet::file::metadata::{ParquetMetaData, ParquetMetaDataReader};

use crate::types::convert;

/// Rows decoded at once.
const ROWS_AT_ONCE: usize = 16_384;

/// A data file of the snapshot.
#[derive(Debug, Clone)]
pub(crate) struct DataFile {
    path: Path,
    pub(crate) size: u64,
    /// The action that takes it out of the table.
    pub(crate) remove: Remove,
    /// One-row arrays of the partition columns, by position in the table.
    constants: Vec<(usize, ArrayRef)>,
}

/// A data file whose footer has been read.
#[derive(Debug, Clone)]
pub(crate) struct OpenFile {
    pub(crate) file: DataFile,
    footer: ArrowReaderMetadata,
    store: ObjectStoreRef,
}

impl DataFile {
    /// A file as the log names it.
    pub(crate) fn of(
        view: &LogicalFileView,
        table: &SchemaRef,
        partitions: &[String],
    ) -> Result<DataFile, DeltaTableError> {
        let values = view.partition_values_map();
        let mut constants = Vec::with_capacity(partitions.len());
        for name in partitions {
            let at = table.index_of(name)?;
            let text: ArrayRef =
                Arc::new(StringArray::from(vec![values.get(name).cloned().flatten().filter(|v| !v.is_empty())]));
            constants.push((at, convert(&text, table.field(at).data_type())?));
        }
        Ok(DataFile {
            path: view.object_store_path(),
            size: u64::try_from(view.size()).unwrap_or_default(),
            remove: view.remove_action(true),
            constants,
        })
    }

    fn bytes(&self, store: &ObjectStoreRef) -> StoredBytes {
        StoredBytes { store: Arc::clone(store), path: self.path.clone(), size: self.size }
    }

    /// Reads the footer.
    pub(crate) async fn open(self, store: ObjectStoreRef) -> Result<OpenFile, DeltaTableError> {
        let mut input = self.bytes(&store);
        let footer = ArrowReaderMetadata::load_async(&mut input, Default::default()).await?;
        Ok(OpenFile { file: self, footer, store })
    }
}

impl OpenFile {
    /// The rows of each row group.
    pub(crate) fn group_rows(&self) -> Vec<usize> {
        let groups = self.footer.metadata().row_groups();
        groups.iter().map(|group| usize::try_from(group.num_rows()).unwrap_or_default()).collect()
    }

    /// The columns at these positions of the table, for one row group.
    pub(crate) fn read(&self, group: usize, table: &SchemaRef, columns: &[usize]) -> Result<Columns, DeltaTableError> {
        let names: Vec<&str> = columns.iter().map(|&at| table.field(at).name().as_str()).collect();
        let roots = self.footer.schema().fields().iter().enumerate();
        let roots = roots.filter(|(_, field)| names.contains(&field.name().as_str())).map(|(root, _)| root);
        let mask = ProjectionMask::roots(self.footer.parquet_schema(), roots);
        let input = self.file.bytes(&self.store);
        let stream = ParquetRecordBatchStreamBuilder::new_with_metadata(input, self.footer.clone())
            .with_row_groups(vec![group])
            .with_projection(mask)
            .with_batch_size(ROWS_AT_ONCE)
            .build()?;
        let types = columns.iter().map(|&at| (table.field(at).name().clone(), table.field(at).data_type().clone()));
        let constant = |at: usize| {
            self.file.constants.iter().find(|(column, _)| *column == at).map(|(_, value)| Arc::clone(value))
        };
        Ok(Columns { stream, wanted: columns.iter().map(|&at| constant(at)).zip(types).collect() })
    }
}

/// A stream of selected columns.
pub(crate) struct Columns {
    stream: ParquetRecordBatchStream<StoredBytes>,
    wanted: Vec<(Option<ArrayRef>, (String, DataType))>,
}

impl Columns {
    /// The next rows: how many, and their columns.
    pub(crate) async fn next(&mut self) -> Result<Option<(usize, Vec<ArrayRef>)>, DeltaTableError> {
        use futures::TryStreamExt;
        match self.stream.try_next().await? {
            None => Ok(None),
            Some(batch) => Ok(Some((batch.num_rows(), self.columns(&batch)?))),
        }
    }

    fn columns(&self, batch: &RecordBatch) -> Result<Vec<ArrayRef>, DeltaTableError> {
        let mut columns = Vec::with_capacity(self.wanted.len());
        for (constant, (name, data_type)) in &self.wanted {
            columns.push(match (constant, batch.column_by_name(name)) {
                (Some(value), _) => take(value, &UInt32Array::from_value(0, batch.num_rows()), None)?,
                (None, Some(column)) => convert(column, data_type)?,
                (None, None) => new_null_array(data_type, batch.num_rows()),
            });
        }
        Ok(columns)
    }
}

/// The bytes of a data file, fetched as the decoder asks for them.
struct StoredBytes {
    store: ObjectStoreRef,
    path: Path,
    size: u64,
}

impl AsyncFileReader for StoredBytes {
    fn get_bytes(&mut self, range: Range<u64>) -> BoxFuture<'_, ParquetResult<Bytes>> {
        async move { Ok(self.store.get_range(&self.path, range).await?) }.boxed()
    }

    fn get_byte_ranges(&mut self, ranges: Vec<Range<u64>>) -> BoxFuture<'_, ParquetResult<Vec<Bytes>>> {
        async move { Ok(self.store.get_ranges(&self.path, &ranges).await?) }.boxed()
    }

    fn get_metadata<'a>(
        &'a mut self,
        options: Option<&'a ArrowReaderOptions>,
    ) -> BoxFuture<'a, ParquetResult<Arc<ParquetMetaData>>> {
        async move {
            let size = self.size;
            let reader = ParquetMetaDataReader::new().with_arrow_reader_options(options);
            Ok(Arc::new(reader.load_and_finish(self, size).await?))
        }
        .boxed()
    }
}
