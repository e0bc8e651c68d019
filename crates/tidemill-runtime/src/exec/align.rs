//! [`Inputs`]: merges the watermarks of a node's input channels and aligns their barriers.
//!
//! **Invariant:** between the first and the last barrier of an epoch, no event of a channel that has delivered its
//! barrier reaches the node; so the node's state at the snapshot holds exactly the rows before the barrier.

use std::collections::VecDeque;

use tidemill_model::{Epoch, Watermark};

use super::exchange::Event;

#[derive(Debug)]
struct Channel {
    port: usize,
    watermark: Watermark,
    at_barrier: bool,
    held: VecDeque<Event>,
}

/// The input channels of one node on one lane: one for a forward edge, one for each lane for a hash edge.
#[derive(Debug, Default)]
pub(crate) struct Inputs {
    channels: Vec<Channel>,
    merged: Option<Watermark>,
}

/// What a node has to do about an event.
#[derive(Debug)]
pub(crate) enum Due {
    /// Nothing (yet).
    Nothing,
    /// Take rows on this port.
    Rows(usize, crate::Batch),
    /// The merged watermark rose.
    Watermark(Watermark),
    /// Every channel is at the barrier.
    Barrier(Epoch),
}

impl Inputs {
    /// Adds a channel that feeds `port`; answers its number.
    pub(crate) fn add(&mut self, port: usize) -> usize {
        self.channels.push(Channel { port, watermark: Watermark::MIN, at_barrier: false, held: VecDeque::new() });
        self.channels.len() - 1
    }

    /// Whether events of this channel must wait where they are.
    pub(crate) fn is_held(&self, channel: usize) -> bool {
        self.channels[channel].at_barrier
    }

    /// Takes an event of a channel.
    pub(crate) fn take(&mut self, channel: usize, event: Event) -> Due {
        let input = &mut self.channels[channel];
        if input.at_barrier {
            input.held.push_back(event);
            return Due::Nothing;
        }
        match event {
            Event::Rows(batch) => Due::Rows(input.port, batch),
            Event::Watermark(watermark) => {
                input.watermark = input.watermark.max(watermark);
                let least = self.channels.iter().map(|c| c.watermark).min().unwrap_or(Watermark::MIN);
                if self.merged.is_none_or(|merged| least > merged) && least > Watermark::MIN {
                    self.merged = Some(least);
                    Due::Watermark(least)
                } else {
                    Due::Nothing
                }
            }
            Event::Barrier(epoch) => {
                input.at_barrier = true;
                if self.channels.iter().all(|c| c.at_barrier) { Due::Barrier(epoch) } else { Due::Nothing }
            }
        }
    }

    /// The barrier has passed: answers the events that waited, in order, channel by channel.
    pub(crate) fn release(&mut self) -> Vec<(usize, Event)> {
        let mut waiting = Vec::new();
        for (number, channel) in self.channels.iter_mut().enumerate() {
            channel.at_barrier = false;
            waiting.extend(channel.held.drain(..).map(|event| (number, event)));
        }
        waiting
    }

    /// The merged watermark.
    pub(crate) fn watermark(&self) -> Watermark {
        self.merged.unwrap_or(Watermark::MIN)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_channel_at_its_barrier_waits_for_the_others() {
        let mut inputs = Inputs::default();
        let (a, b) = (inputs.add(0), inputs.add(0));
        assert!(matches!(inputs.take(a, Event::Barrier(Epoch(1))), Due::Nothing));
        assert!(inputs.is_held(a));
        assert!(matches!(inputs.take(a, Event::Watermark(Watermark(5))), Due::Nothing), "held");
        assert!(matches!(inputs.take(b, Event::Watermark(Watermark(7))), Due::Nothing), "a has not spoken");
        assert!(matches!(inputs.take(b, Event::Barrier(Epoch(1))), Due::Barrier(Epoch(1))));
        let released = inputs.release();
        assert_eq!(released.len(), 1);
        let (channel, event) = released.into_iter().next().expect("one event");
        assert!(matches!(inputs.take(channel, event), Due::Watermark(Watermark(5))));
    }
}
