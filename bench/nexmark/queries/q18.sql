-- Last bid: the last bid of each person for each auction.
CREATE PIPELINE q18 WITH (trigger = 'once');

CREATE MATERIALIZED VIEW result AS
SELECT auction, bidder, price, channel, url, date_time, extra
FROM (
  SELECT *, row_number() OVER (PARTITION BY bidder, auction ORDER BY date_time DESC) AS latest FROM bid
)
WHERE latest = 1;
