-- Sessions by the minute they end in.
-- @rows orders: 500 apart 1100
-- @targets files view
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
SELECT window_start, count(*) AS sessions, max(n) AS longest, sum(n) AS n
FROM TUMBLE((
  SELECT region, window_end AS ended, count(*) AS n
  FROM SESSION(orders, at, INTERVAL '8 seconds', PARTITION BY region)
  GROUP BY region, window_start, window_end
), ended, INTERVAL '1 minute')
GROUP BY window_start, window_end
