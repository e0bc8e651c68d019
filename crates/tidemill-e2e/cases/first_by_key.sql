-- The first order of each customer and currency by ROW_NUMBER, over all time.
-- @rows orders: 500 apart 1000
-- @targets view
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
SELECT customer, currency, id, price
FROM (SELECT customer, currency, id, price, row_number() OVER (PARTITION BY customer, currency ORDER BY at) AS nth FROM orders)
WHERE nth = 1 AND price > 0
