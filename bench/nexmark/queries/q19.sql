-- Top ten: the ten highest bids of each auction.
CREATE PIPELINE q19 WITH (trigger = 'once');

CREATE MATERIALIZED VIEW result AS
SELECT auction, bidder, price, channel, url, date_time, extra, place
FROM (
  SELECT *, row_number() OVER (PARTITION BY auction ORDER BY price DESC) AS place FROM bid
)
WHERE place <= 10;
