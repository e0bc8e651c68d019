//! [`Inputs`]: merges the watermarks of a node's input channels and aligns their barriers.
//!
//! **Invariant:** between the first and the last barrier of an epoch, no event of a channel that has delivered its
//! barrier reaches the node; so the node's state at the snapshot holds exactly the rows before the barrier.

use std::collections::{BTreeMap, VecDeque};

use tidemill_model::{Epoch, Watermark};

use super::exchange::Event;

#[derive(Debug)]
struct Channel {
    port: usize,
    watermark: Watermark,
    idle: bool,
    at_barrier: bool,
    held: VecDeque<Event>,
}

/// The input channels of one node on one lane: one for a forward edge, one for each lane for a hash edge.
#[derive(Debug, Default)]
pub(crate) struct Inputs {
    channels: Vec<Channel>,
    /// The watermark of each port that has channels: the least of theirs.
    ports: BTreeMap<usize, Watermark>,
    merged: Option<Watermark>,
}

/// What a node has to do about an event.
#[derive(Debug)]
pub(crate) enum Due {
    /// Nothing (yet).
    Nothing,
    /// Take rows on this port.
    Rows(usize, crate::Batch),
    /// The watermark of this port rose, and perhaps the merged one.
    Watermark { port: usize, at: Watermark, merged: Option<Watermark> },
    /// This port has become idle or is no longer; and perhaps all ports have.
    Idle { port: usize, idle: bool, all: Option<bool> },
    /// Every channel is at the barrier.
    Barrier(Epoch),
}

impl Inputs {
    /// Adds a channel that feeds `port`; answers its number.
    pub(crate) fn add(&mut self, port: usize) -> usize {
        self.channels.push(Channel {
            port,
            watermark: Watermark::MIN,
            idle: false,
            at_barrier: false,
            held: VecDeque::new(),
        });
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
                let port = input.port;
                let of_port = self.channels.iter().filter(|c| c.port == port);
                let at = of_port.map(|c| c.watermark).min().unwrap_or(Watermark::MIN);
                if self.ports.get(&port).is_some_and(|before| at <= *before) || at == Watermark::MIN {
                    return Due::Nothing;
                }
                self.ports.insert(port, at);
                // The merged watermark rises only when that of a port does.
                let least = self.channels.iter().map(|c| c.watermark).min().unwrap_or(Watermark::MIN);
                let risen = self.merged.is_none_or(|merged| least > merged) && least > Watermark::MIN;
                if risen {
                    self.merged = Some(least);
                }
                Due::Watermark { port, at, merged: risen.then_some(least) }
            }
            Event::Idle(idle) => {
                let port = input.port;
                let of_port = |inputs: &Inputs| inputs.channels.iter().filter(|c| c.port == port).all(|c| c.idle);
                let all = |inputs: &Inputs| inputs.channels.iter().all(|c| c.idle);
                let before = (of_port(self), all(self));
                self.channels[channel].idle = idle;
                let now = (of_port(self), all(self));
                if now == before {
                    return Due::Nothing;
                }
                Due::Idle { port, idle: now.0, all: (now.1 != before.1).then_some(now.1) }
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
        let due = inputs.take(channel, event);
        assert!(matches!(due, Due::Watermark { port: 0, at: Watermark(5), merged: Some(Watermark(5)) }), "{due:?}");
    }

    #[test]
    fn a_port_is_idle_when_all_its_channels_are() {
        let mut inputs = Inputs::default();
        let (a, b, other) = (inputs.add(0), inputs.add(0), inputs.add(1));
        assert!(matches!(inputs.take(a, Event::Idle(true)), Due::Nothing), "b is not");
        assert!(matches!(inputs.take(b, Event::Idle(true)), Due::Idle { port: 0, idle: true, all: None }));
        assert!(matches!(inputs.take(other, Event::Idle(true)), Due::Idle { port: 1, idle: true, all: Some(true) }));
        assert!(matches!(inputs.take(a, Event::Idle(false)), Due::Idle { port: 0, idle: false, all: Some(false) }));
    }

    #[test]
    fn each_port_has_a_watermark_of_its_own() {
        let mut inputs = Inputs::default();
        let (a, b, other) = (inputs.add(0), inputs.add(0), inputs.add(1));
        assert!(matches!(inputs.take(a, Event::Watermark(Watermark(5))), Due::Nothing), "b has not spoken");
        let due = inputs.take(b, Event::Watermark(Watermark(7)));
        assert!(matches!(due, Due::Watermark { port: 0, at: Watermark(5), merged: None }), "{due:?}");
        let due = inputs.take(other, Event::Watermark(Watermark(3)));
        assert!(matches!(due, Due::Watermark { port: 1, at: Watermark(3), merged: Some(Watermark(3)) }), "{due:?}");
        assert!(matches!(inputs.take(b, Event::Watermark(Watermark(9))), Due::Nothing), "a holds the port");
    }
}
