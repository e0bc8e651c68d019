//! The connector `log`: durable topics in the project's own state folder, published exactly once by epoch.
//!
//! A topic is a folder of partitions, a partition a row of segment files, a segment a row of frames. What is visible
//! is what the topic's head says; writers stage, the committer appends and then moves the head, readers follow it.
//!
//! **Invariant:** a record is visible only when its bytes and the head that covers them are on the disk.

mod commit;
mod config;
mod connector;
mod frame;
mod head;
mod partitioner;
mod reader;
mod retention;
mod segment;
mod sink;
mod source;
mod staged;
mod topic;

#[cfg(test)]
mod tests;

pub use connector::LogConnector;
pub use topic::{PartitionStats, TopicStats, first_offset_at, list_topics, topic_stats};
