-- Average selling price by seller: the mean of the winning bids of the last ten auctions of a seller. Adapted: the published query
-- orders an OVER by a changing input, which Flink refuses too; here one row for each seller over the ten latest.
CREATE PIPELINE q6 WITH (trigger = 'once');

CREATE MATERIALIZED VIEW result AS
SELECT seller, avg(price) AS price
FROM (
  SELECT seller, price, row_number() OVER (PARTITION BY seller ORDER BY date_time DESC) AS latest
  FROM (
    SELECT a.id, a.seller, b.price, b.date_time, row_number() OVER (PARTITION BY a.id ORDER BY b.price DESC, b.date_time) AS place
    FROM auction AS a
    JOIN bid AS b ON a.id = b.auction
    WHERE b.date_time BETWEEN a.date_time AND a.expires
  )
  WHERE place = 1
)
WHERE latest <= 10
GROUP BY seller;
