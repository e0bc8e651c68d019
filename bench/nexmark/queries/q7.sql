-- Highest bid: of each window of ten seconds the highest price and who bid it.
CREATE PIPELINE q7 WITH (trigger = 'once');

CREATE TABLE result (auction BIGINT, price BIGINT, bidder BIGINT, date_time TIMESTAMP, extra VARCHAR)
WITH (connector = 'files', path = 'out', format = 'json');

INSERT INTO result
SELECT b.auction, b.price, b.bidder, b.date_time, b.extra
FROM TUMBLE(bid, date_time, INTERVAL '10 seconds') AS b
JOIN (
  SELECT window_start, window_end, max(price) AS most
  FROM TUMBLE(bid, date_time, INTERVAL '10 seconds')
  GROUP BY window_start, window_end
) AS m ON b.window_start = m.window_start AND b.window_end = m.window_end AND b.price = m.most;
