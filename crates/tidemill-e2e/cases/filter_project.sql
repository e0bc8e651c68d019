-- Rows are filtered and computed one by one; NULL in a condition is not true.
-- @rows orders: 400 apart 1000
-- @targets files log upsert id
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

CREATE VIEW cleaned AS
SELECT id, CAST(amount AS DECIMAL(12, 1)) AS amount, price, upper(region) AS region, at FROM orders WHERE paid OR price > 0;

-- @query
SELECT id, region || '/' AS region, amount * 2 AS double_amount, round(price, 2) AS price, at
FROM cleaned
WHERE amount > 10
