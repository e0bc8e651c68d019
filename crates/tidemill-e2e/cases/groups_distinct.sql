-- Each value once, as soon as it comes; rows that only come are never taken back.
-- @rows orders: 400 apart 1000
-- @targets files log view
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
SELECT DISTINCT region, currency, customer % 5 AS k FROM orders
