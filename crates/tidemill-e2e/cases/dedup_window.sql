-- The first row of each key in each window.
-- @rows orders: 500 apart 900
-- @targets files log delta view
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

-- @oracle
SELECT DISTINCT ON (window_start, region) window_start, region, id, price
FROM TUMBLE(orders, at, INTERVAL '1 minute')
ORDER BY window_start, region, paid, id

-- @query
SELECT DISTINCT ON (window_start, region) window_start, region, id, price
FROM TUMBLE(orders, at, INTERVAL '1 minute')
ORDER BY window_start, region, paid
