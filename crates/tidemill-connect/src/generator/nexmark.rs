//! [`NexmarkModel`]: the events of an auction site, after the published Nexmark model, from the seed and the event's number
//! alone.
//!
//! Of fifty events one is a person, the next three are auctions, the others bids. Three of four bids come from the person of the
//! hundred that is hot, one of two is for the hot auction; three of four auctions are the hot seller's. Unlike the published
//! generator, nothing points ahead: who is named by an event came before it.
//!
//! **Invariant:** the three tables are made from the same events, so that ids in one are found in the others.

use tidemill_model::Timestamp;

use super::orders::powers;
use super::random::{Draws, below, high, low, mix};

/// Events of a cycle: one person, then auctions, then bids.
const CYCLE: u64 = 50;
const AUCTIONS: u64 = 3;
const BIDS: u64 = 46;
/// Ids and categories begin here.
const FIRST: u64 = 1000;
const FIRST_CATEGORY: u64 = 10;
const CATEGORIES: u64 = 5;
/// Of so many neighbours one is hot.
const HOT: u64 = 100;
/// People who are active, and auctions that are open, at a time.
const ACTIVE_PEOPLE: u64 = 1000;
const OPEN_AUCTIONS: u64 = 100;
/// How long the block of letters is that texts are cut from.
const LETTERS: usize = 8192;

const FIRST_NAMES: [&str; 11] =
    ["Peter", "Paul", "Luke", "John", "Saul", "Vicky", "Kate", "Julie", "Sarah", "Deiter", "Walter"];
const LAST_NAMES: [&str; 9] = ["Shultz", "Abrams", "Spencer", "White", "Bartels", "Walton", "Smith", "Jones", "Noris"];
const STATES: [&str; 6] = ["AZ", "CA", "ID", "OR", "WA", "WY"];
const CITIES: [&str; 10] =
    ["Phoenix", "Los Angeles", "San Francisco", "Boise", "Portland", "Bend", "Redmond", "Seattle", "Kent", "Cheyenne"];
const HOT_CHANNELS: [&str; 4] = ["Google", "Facebook", "Baidu", "Apple"];
/// How many channels there are beside the hot ones.
const CHANNELS: u64 = 10_000;

/// One of the three tables.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Table {
    Person,
    Auction,
    Bid,
}

impl Table {
    /// The word in `table = '…'`.
    pub(super) fn name(self) -> &'static str {
        match self {
            Table::Person => "person",
            Table::Auction => "auction",
            Table::Bid => "bid",
        }
    }

    /// The share of events that are its rows.
    pub(super) fn share(self) -> f64 {
        self.rows_of(CYCLE) as f64 / CYCLE as f64
    }

    /// How many of the first events are its rows.
    pub(super) fn rows_of(self, events: u64) -> u64 {
        let (cycles, rest) = (events / CYCLE, events % CYCLE);
        match self {
            Table::Person => cycles + rest.min(1),
            Table::Auction => cycles * AUCTIONS + rest.saturating_sub(1).min(AUCTIONS),
            Table::Bid => cycles * BIDS + rest.saturating_sub(1 + AUCTIONS),
        }
    }

    /// The event that is its row `row`.
    fn event(self, row: u64) -> u64 {
        match self {
            Table::Person => row * CYCLE,
            Table::Auction => row / AUCTIONS * CYCLE + 1 + row % AUCTIONS,
            Table::Bid => row / BIDS * CYCLE + 1 + AUCTIONS + row % BIDS,
        }
    }
}

/// What the model is made from.
#[derive(Debug, Clone)]
pub(super) struct NexmarkModel {
    pub(super) table: Table,
    seed: u64,
    start: i64,
    /// Nanoseconds of event time between two events.
    interval: u64,
    /// Microseconds, at whole milliseconds.
    disorder: u64,
    powers: Box<[u64; 257]>,
    letters: Box<[u8]>,
}

/// A person.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Person<'a> {
    pub(super) id: u64,
    pub(super) first_name: &'static str,
    pub(super) last_name: &'static str,
    pub(super) mailbox: &'a [u8],
    pub(super) domain: &'a [u8],
    /// Sixteen digits.
    pub(super) credit_card: u64,
    pub(super) city: &'static str,
    pub(super) state: &'static str,
    pub(super) at: Timestamp,
    pub(super) extra: &'a [u8],
}

/// An auction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Auction<'a> {
    pub(super) id: u64,
    pub(super) item_name: &'a [u8],
    pub(super) description: &'a [u8],
    pub(super) initial_bid: u64,
    pub(super) reserve: u64,
    pub(super) at: Timestamp,
    pub(super) expires: Timestamp,
    pub(super) seller: u64,
    pub(super) category: u64,
    pub(super) extra: &'a [u8],
}

/// A bid.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Bid<'a> {
    pub(super) auction: u64,
    pub(super) bidder: u64,
    pub(super) price: u64,
    pub(super) channel: Channel,
    /// The three folders of the URL, five letters each.
    pub(super) folders: [&'a [u8]; 3],
    pub(super) at: Timestamp,
    pub(super) extra: &'a [u8],
}

/// Where a bid came through.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Channel {
    /// One of four, with a URL of its own.
    Hot(&'static str),
    /// One of many; the URL names it, or does not.
    Other { number: u64, named: bool },
}

impl NexmarkModel {
    /// The model of a table.
    pub(super) fn new(table: Table, seed: u64, start: Timestamp, interval_ns: u64, disorder_us: u64) -> NexmarkModel {
        let seed = mix(seed ^ 0x6e65_786d_6172_6b00);
        let letter = |at: usize| b'a' + below(26, low(Draws::of(seed, at as u64).next())) as u8;
        NexmarkModel {
            table,
            seed,
            start: start.0,
            interval: interval_ns,
            disorder: disorder_us / 1000 * 1000,
            powers: powers(),
            letters: (0..LETTERS).map(letter).collect(),
        }
    }

    /// The first instant; no event is earlier.
    pub(super) fn start(&self) -> Timestamp {
        Timestamp(self.start)
    }

    /// The person of row `row`.
    pub(super) fn person(&self, row: u64) -> Person<'_> {
        let event = Table::Person.event(row);
        let mut draws = Draws::of(self.seed, event);
        let (names, mail, card, place) = (draws.next(), draws.next(), draws.next(), draws.next());
        Person {
            id: FIRST + row,
            first_name: pick(&FIRST_NAMES, high(names)),
            last_name: pick(&LAST_NAMES, low(names)),
            mailbox: self.text(7, high(mail)),
            domain: self.text(5, low(mail)),
            credit_card: card % 10_000_000_000_000_000,
            city: pick(&CITIES, high(place)),
            state: pick(&STATES, low(place)),
            at: self.at(event, &mut draws),
            extra: self.extra(105, draws.next()),
        }
    }

    /// The auction of row `row`.
    pub(super) fn auction(&self, row: u64) -> Auction<'_> {
        let event = Table::Auction.event(row);
        let mut draws = Draws::of(self.seed, event);
        let (seller, texts, category, length) = (draws.next(), draws.next(), draws.next(), draws.next());
        let initial_bid = self.price(low(draws.next()));
        let at = self.at(event, &mut draws);
        // About as many auctions are open at a time as the model says.
        let horizon = OPEN_AUCTIONS * CYCLE / AUCTIONS * self.interval / 1_000_000;
        let open_for = 1 + below((2 * horizon).max(1), low(length));
        Auction {
            id: FIRST + row,
            item_name: self.text(20, high(texts)),
            description: self.text(100, low(texts)),
            initial_bid,
            reserve: initial_bid + self.price(high(category)),
            at,
            expires: Timestamp(at.0.saturating_add_unsigned(open_for * 1000)),
            seller: FIRST + self.someone(event, seller, 0),
            category: FIRST_CATEGORY + below(CATEGORIES, low(category)),
            extra: self.extra(320, draws.next()),
        }
    }

    /// The bid of row `row`.
    pub(super) fn bid(&self, row: u64) -> Bid<'_> {
        let event = Table::Bid.event(row);
        let mut draws = Draws::of(self.seed, event);
        let (who, what, through, url) = (draws.next(), draws.next(), draws.next(), draws.next());
        let last = event / CYCLE * AUCTIONS + AUCTIONS - 1;
        let auction = if !high(what).is_multiple_of(2) {
            last / HOT * HOT
        } else {
            let first = last.saturating_sub(OPEN_AUCTIONS);
            first + below(last - first + 1, low(what))
        };
        let channel = if !high(through).is_multiple_of(2) {
            Channel::Hot(pick(&HOT_CHANNELS, low(through)))
        } else {
            Channel::Other { number: below(CHANNELS, low(through)), named: high(through) % 20 > 1 }
        };
        Bid {
            auction: FIRST + auction,
            bidder: FIRST + self.someone(event, who, 1),
            price: self.price(low(draws.next())),
            channel,
            folders: [
                self.text(5, url & 0xffff_ffff),
                self.text(5, (url >> 16) & 0xffff_ffff),
                self.text(5, high(url)),
            ],
            at: self.at(event, &mut draws),
            extra: self.extra(68, draws.next()),
        }
    }

    /// Someone who is there at an event: three of four times the hot one, which is the `hot`th of its hundred.
    fn someone(&self, event: u64, bits: u64, hot: u64) -> u64 {
        let last = event / CYCLE;
        if !high(bits).is_multiple_of(4) {
            return (last / HOT * HOT + hot).min(last);
        }
        let active = (last + 1).min(ACTIVE_PEOPLE);
        last + 1 - active + below(active, low(bits))
    }

    /// Event time: events come in order, each delayed by less than `disorder`.
    fn at(&self, event: u64, draws: &mut Draws) -> Timestamp {
        let elapsed = (u128::from(event) * u128::from(self.interval) / 1000) as u64;
        let newest = self.start.saturating_add_unsigned(self.disorder).saturating_add_unsigned(elapsed);
        let delay = if self.disorder == 0 { 0 } else { below(self.disorder, low(draws.next())) };
        let at = newest.saturating_sub_unsigned(delay).max(self.start);
        Timestamp(at - at.rem_euclid(1000))
    }

    /// 10 to a power from 0 to 6, in cents.
    fn price(&self, bits: u64) -> u64 {
        // log2(10) * 6 in units of 2^-16, times a number from 0 to 1.
        let log2 = (bits * 1_306_235) >> 32;
        let (whole, step, rest) = (log2 >> 16, ((log2 >> 8) & 0xff) as usize, log2 & 0xff);
        let from = self.powers[step];
        let fraction = from + (((self.powers[step + 1] - from) * rest) >> 8);
        ((fraction << whole) >> 12) / 100
    }

    fn text(&self, length: usize, bits: u64) -> &[u8] {
        let from = below((LETTERS - length) as u64, bits) as usize;
        self.letters.get(from..from + length).unwrap_or_default()
    }

    /// Text of a length within a fifth of this.
    fn extra(&self, length: u64, bits: u64) -> &[u8] {
        let slack = length / 5;
        self.text((length - slack + below(2 * slack, high(bits))) as usize, low(bits))
    }
}

fn pick(from: &'static [&'static str], bits: u64) -> &'static str {
    from.get(below(from.len() as u64, bits) as usize).copied().unwrap_or_default()
}
