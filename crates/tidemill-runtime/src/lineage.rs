//! What state depends on: a node's own fingerprint and everything that its rows came through; and the part of a graph
//! that leads to some of its nodes.
//!
//! **Invariant:** a fingerprint says nothing of what other statements do: adding one changes no state but its own.

use std::collections::BTreeSet;

use crate::{Edge, Graph, Node, NodeId, NodeKind};

impl Graph {
    /// Each node with what must be equal for its stored state to go on: empty when it stores none.
    #[must_use]
    pub fn fingerprints(&self) -> Vec<(String, String)> {
        let mut ways: Vec<u64> = Vec::with_capacity(self.nodes.len());
        let mut fingerprints = Vec::with_capacity(self.nodes.len());
        for (number, node) in self.nodes.iter().enumerate() {
            let (definition, own) = match &node.kind {
                NodeKind::Source(source) => (format!("read {} {}", source.dataset, source.rules), String::new()),
                NodeKind::Operator(factory) => (factory.definition(), factory.fingerprint()),
                NodeKind::Sink(_) => (String::new(), String::new()),
            };
            let inputs: Vec<(usize, u64)> = self.inputs(number).map(|(input, from)| (input, ways[from])).collect();
            let before = match inputs.as_slice() {
                [(_, only)] => *only,
                several => several
                    .iter()
                    .fold(BASIS, |hash, (input, way)| mixed(mixed(hash, &input.to_le_bytes()), &way.to_le_bytes())),
            };
            ways.push(if definition.is_empty() { before } else { mixed(before, definition.as_bytes()) });
            let fingerprint = if own.is_empty() { own } else { format!("{own}; of {before:016x}") };
            fingerprints.push((node.name.clone(), fingerprint));
        }
        fingerprints
    }

    /// The nodes that send to a node, with the input they send to, in the order of inputs.
    fn inputs(&self, number: usize) -> impl Iterator<Item = (usize, usize)> {
        let mut inputs: Vec<(usize, usize)> = Vec::new();
        for (from, node) in self.nodes.iter().enumerate().take(number) {
            inputs.extend(node.outputs.iter().filter(|edge| edge.to.0 == number).map(|edge| (edge.input, from)));
        }
        inputs.sort_unstable();
        inputs.into_iter()
    }

    /// The nodes that end the ways of a node's rows, itself when it has no output.
    #[must_use]
    pub fn ends_of(&self, name: &str) -> BTreeSet<String> {
        let mut reached: Vec<bool> = self.nodes.iter().map(|node| node.name == name).collect();
        let mut ends = BTreeSet::new();
        for (number, node) in self.nodes.iter().enumerate() {
            if !reached[number] {
                continue;
            }
            if node.outputs.is_empty() {
                ends.insert(node.name.clone());
            }
            node.outputs.iter().for_each(|edge| reached[edge.to.0] = true);
        }
        ends
    }

    /// The part of the graph whose rows come to one of these nodes.
    #[must_use]
    pub fn leading_to(&self, ends: &BTreeSet<String>) -> Graph {
        let mut leads = vec![false; self.nodes.len()];
        for (number, node) in self.nodes.iter().enumerate().rev() {
            leads[number] = ends.contains(&node.name) || node.outputs.iter().any(|edge| leads[edge.to.0]);
        }
        let place = |number: usize| leads.iter().take(number).filter(|leads| **leads).count();
        let moved = |edge: &Edge| Edge { to: NodeId(place(edge.to.0)), ..edge.clone() };
        let kept = self.nodes.iter().enumerate().filter(|(number, _)| leads[*number]);
        let nodes = kept.map(|(_, node)| Node {
            outputs: node.outputs.iter().filter(|edge| leads[edge.to.0]).map(moved).collect(),
            ..node.clone()
        });
        Graph { nodes: nodes.collect() }
    }
}

const BASIS: u64 = 0xcbf2_9ce4_8422_2325;

/// FNV-1a; part of the state format.
fn mixed(hash: u64, bytes: &[u8]) -> u64 {
    bytes.iter().chain(&[0]).fold(hash, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use tidemill_model::Result;

    use super::*;
    use crate::{Operator, OperatorFactory, Route};

    /// What it does, and whether it keeps state.
    #[derive(Debug)]
    struct Step(&'static str, bool);

    impl OperatorFactory for Step {
        fn create(&self, _: usize, _: usize) -> Result<Box<dyn Operator>> {
            Err(tidemill_model::Error::internal("it is only planned"))
        }

        fn describe(&self) -> String {
            self.0.to_owned()
        }

        fn fingerprint(&self) -> String {
            if self.1 { "state".to_owned() } else { String::new() }
        }

        fn definition(&self) -> String {
            self.0.to_owned()
        }
    }

    /// in > where > sum > view, and in > copy.
    fn graph(condition: &'static str) -> Graph {
        let mut graph = Graph::default();
        let mut add = |name: &str, does, keeps| graph.add(name, NodeKind::Operator(Arc::new(Step(does, keeps))));
        let (input, copy) = (add("in", "", false), add("copy", "copies", false));
        let (filter, sum, view) = (add("where", condition, false), add("sum", "s", true), add("view", "v", true));
        for (from, to) in [(input, filter), (input, copy), (filter, sum), (sum, view)] {
            graph.connect(from, to, 0, Route::Forward);
        }
        graph
    }

    #[test]
    fn state_depends_on_all_that_its_rows_came_through() {
        let of = |condition, node: &str| {
            let found = graph(condition).fingerprints().into_iter().find(|(name, _)| name == node);
            found.map(|(_, fingerprint)| fingerprint).unwrap_or_default()
        };
        assert_eq!(of("a > 1", "sum"), of("a > 1", "sum"));
        assert_ne!(of("a > 1", "sum"), of("a > 2", "sum"));
        assert_ne!(of("a > 1", "view"), of("a > 2", "view"), "state behind state, too");
        assert_eq!(of("a > 1", "where"), "");
    }

    #[test]
    fn a_part_of_a_graph_leads_to_its_ends() {
        let graph = graph("a > 1");
        let names = |graph: &Graph| graph.nodes.iter().map(|node| node.name.clone()).collect::<Vec<_>>();
        assert_eq!(graph.ends_of("in"), BTreeSet::from(["copy".to_owned(), "view".to_owned()]));
        assert_eq!(graph.ends_of("sum"), BTreeSet::from(["view".to_owned()]));
        let part = graph.leading_to(&BTreeSet::from(["view".to_owned()]));
        assert_eq!(names(&part), ["in", "where", "sum", "view"]);
        let edges: Vec<Vec<usize>> =
            part.nodes.iter().map(|node| node.outputs.iter().map(|edge| edge.to.0).collect()).collect();
        assert_eq!(edges, [vec![1], vec![2], vec![3], vec![]]);
        assert_eq!(
            part.fingerprints(),
            graph.fingerprints().into_iter().filter(|(n, _)| n != "copy").collect::<Vec<_>>()
        );
        assert!(graph.leading_to(&BTreeSet::new()).nodes.is_empty());
    }
}
