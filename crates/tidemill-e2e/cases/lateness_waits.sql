-- What is given out once waits longer, so that late rows are in it.
-- @rows orders: 500 apart 1000 late 0.08
-- @with allowed_lateness = '4 minutes'
-- @waits
-- @targets files log view
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
SELECT region, window_start, id, CAST(place AS BIGINT) AS place FROM (
  SELECT *, row_number() OVER (PARTITION BY region, window_start ORDER BY amount DESC) AS place
  FROM TUMBLE(orders, at, INTERVAL '20 seconds')
) WHERE place <= 2
