-- Without a key each change brings the row that it takes back.
-- @rows orders: 400 apart 300
-- @changes orders: debezium 60
-- @targets view
CREATE TABLE orders (
  id BIGINT,
  customer BIGINT,
  amount DECIMAL(12, 2),
  price DOUBLE,
  region VARCHAR,
  paid BOOLEAN,
  at TIMESTAMP,
  WATERMARK FOR at AS at - INTERVAL '10 seconds'
) WITH (@debezium);

-- @query
SELECT region, paid, count(*) AS n, sum(amount) AS total, min(customer) AS least FROM orders GROUP BY region, paid
