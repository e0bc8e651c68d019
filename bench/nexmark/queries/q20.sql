-- Expand bid with auction: each bid for an auction of category 10 with what is known of the auction. An updating join.
CREATE PIPELINE q20 WITH (trigger = 'once');

CREATE MATERIALIZED VIEW result AS
SELECT
  b.auction, b.bidder, b.price, b.channel, b.url, b.date_time AS bid_time,
  a.item_name, a.description, a.initial_bid, a.reserve, a.date_time AS auction_time, a.expires, a.seller, a.category
FROM bid AS b
JOIN auction AS a ON b.auction = a.id
WHERE a.category = 10;
