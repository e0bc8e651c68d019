-- The best groups of each window.
-- @rows orders: 500 apart 900
-- @targets files log view
-- @waits
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
SELECT region, currency, window_start, total
FROM (
  SELECT *, row_number() OVER (PARTITION BY window_start ORDER BY total DESC, region, currency) AS place
  FROM (
    SELECT region, currency, window_start, sum(amount) AS total
    FROM TUMBLE(orders, at, INTERVAL '1 minute')
    GROUP BY region, currency, window_start, window_end
  )
)
WHERE place <= 2
