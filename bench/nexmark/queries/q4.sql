-- Average price of a category: the mean of the winning bids of its auctions, those that came while the auction was open.
CREATE PIPELINE q4 WITH (trigger = 'once');

CREATE MATERIALIZED VIEW result AS
SELECT category, avg(final) AS price
FROM (
  SELECT a.id, a.category, max(b.price) AS final
  FROM auction AS a
  JOIN bid AS b ON a.id = b.auction
  WHERE b.date_time BETWEEN a.date_time AND a.expires
  GROUP BY a.id, a.category
) AS q
GROUP BY category;
