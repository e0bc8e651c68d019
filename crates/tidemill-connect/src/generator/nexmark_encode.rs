//! The rows of the Nexmark model as JSON records, in the columns of the published tables.
//!
//! **Invariant:** no text needs escaping: all are letters, digits and the few marks written here.

use super::encode::RecordWriter;
use super::nexmark::{Auction, Bid, Channel, Person};

impl RecordWriter {
    /// Writes a person.
    pub(super) fn person(&mut self, person: &Person<'_>) {
        self.text(b"{\"id\":");
        self.number(person.id.cast_signed());
        self.text(b",\"name\":\"");
        self.text(person.first_name.as_bytes());
        self.text(b" ");
        self.text(person.last_name.as_bytes());
        self.text(b"\",\"email_address\":\"");
        self.text(person.mailbox);
        self.text(b"@");
        self.text(person.domain);
        self.text(b".com\",\"credit_card\":\"");
        for (place, divisor) in [1_000_000_000_000, 100_000_000, 10_000, 1].into_iter().enumerate() {
            if place > 0 {
                self.text(b" ");
            }
            self.four((person.credit_card / divisor) % 10_000);
        }
        self.text(b"\",\"city\":\"");
        self.text(person.city.as_bytes());
        self.text(b"\",\"state\":\"");
        self.text(person.state.as_bytes());
        self.text(b"\",\"date_time\":\"");
        self.time(person.at);
        self.extra(person.extra);
    }

    /// Writes an auction.
    pub(super) fn auction(&mut self, auction: &Auction<'_>) {
        self.text(b"{\"id\":");
        self.number(auction.id.cast_signed());
        self.text(b",\"item_name\":\"");
        self.text(auction.item_name);
        self.text(b"\",\"description\":\"");
        self.text(auction.description);
        self.text(b"\",\"initial_bid\":");
        self.number(auction.initial_bid.cast_signed());
        self.text(b",\"reserve\":");
        self.number(auction.reserve.cast_signed());
        self.text(b",\"date_time\":\"");
        self.time(auction.at);
        self.text(b"\",\"expires\":\"");
        self.time(auction.expires);
        self.text(b"\",\"seller\":");
        self.number(auction.seller.cast_signed());
        self.text(b",\"category\":");
        self.number(auction.category.cast_signed());
        self.text(b",\"extra\":\"");
        self.text(auction.extra);
        self.text(b"\"}");
        self.end();
    }

    /// Writes a bid.
    pub(super) fn bid(&mut self, bid: &Bid<'_>) {
        self.text(b"{\"auction\":");
        self.number(bid.auction.cast_signed());
        self.text(b",\"bidder\":");
        self.number(bid.bidder.cast_signed());
        self.text(b",\"price\":");
        self.number(bid.price.cast_signed());
        self.text(b",\"channel\":\"");
        match bid.channel {
            Channel::Hot(name) => self.text(name.as_bytes()),
            Channel::Other { number, .. } => {
                self.text(b"channel-");
                self.number(number.cast_signed());
            }
        }
        self.text(b"\",\"url\":\"https://www.nexmark.com");
        for folder in bid.folders {
            self.text(b"/");
            self.text(folder);
        }
        self.text(b"/item.htm?query=1");
        if let Channel::Other { number, named: true } = bid.channel {
            self.text(b"&channel_id=");
            // As the published generator has it: the bits of the number in reverse.
            self.number(i64::from((number as u32).reverse_bits() >> 1));
        }
        self.text(b"\",\"date_time\":\"");
        self.time(bid.at);
        self.extra(bid.extra);
    }

    fn extra(&mut self, text: &[u8]) {
        self.text(b"\",\"extra\":\"");
        self.text(text);
        self.text(b"\"}");
        self.end();
    }
}
