-- The largest orders of all: nobody asks for their places.
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
SELECT id, customer, amount
FROM (SELECT id, customer, amount, row_number() OVER (ORDER BY amount DESC NULLS LAST, id) AS place FROM orders)
WHERE place <= 25
