-- Winning bids: of each auction the bid that won, the highest and of equals the earliest.
CREATE PIPELINE q9 WITH (trigger = 'once');

CREATE MATERIALIZED VIEW result AS
SELECT id, seller, price, date_time
FROM (
  SELECT a.id, a.seller, b.price, b.date_time, row_number() OVER (PARTITION BY a.id ORDER BY b.price DESC, b.date_time) AS place
  FROM auction AS a
  JOIN bid AS b ON a.id = b.auction
  WHERE b.date_time BETWEEN a.date_time AND a.expires
)
WHERE place = 1;
