-- Ranks have peers, and several functions share a window.
-- @rows orders: 500 apart 900
-- @targets files log
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
SELECT id, region, window_end, CAST(r AS BIGINT) AS r, CAST(d AS BIGINT) AS d, n, before
FROM (
  SELECT
    *,
    rank() OVER (PARTITION BY window_end, region ORDER BY currency) AS r,
    dense_rank() OVER (PARTITION BY window_end, region ORDER BY currency) AS d,
    count(*) OVER (PARTITION BY window_end) AS n,
    lag(id) OVER (PARTITION BY window_end, region ORDER BY id) AS before
  FROM TUMBLE(orders, at, INTERVAL '1 minute')
)
WHERE r <= 4
