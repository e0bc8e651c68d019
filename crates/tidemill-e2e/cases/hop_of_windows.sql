-- A window over the result of overlapping ones.
-- @rows orders: 500 apart 3000
-- Inner windows reach beyond the outer ones, so that its rows belong to no interval.
-- @targets files view
-- @live
CREATE TABLE orders (
  id BIGINT,
  customer BIGINT,
  amount DECIMAL(12, 2),
  price DOUBLE,
  region VARCHAR,
  currency VARCHAR,
  paid BOOLEAN,
  at TIMESTAMP,
  WATERMARK FOR at AS at - INTERVAL '10 seconds'
) WITH (@input);

-- @query
SELECT region, window_start, max(n) AS busiest, count(*) AS windows
FROM TUMBLE((
  SELECT region, window_start AS began, count(*) AS n
  FROM HOP(orders, at, INTERVAL '1 minute', INTERVAL '3 minutes')
  GROUP BY region, window_start, window_end
), began, INTERVAL '10 minutes')
GROUP BY region, window_start, window_end
