-- The rows of a changelog that stand, filtered and projected.
-- @rows orders: 400 apart 300
-- @changes orders: debezium 60
-- @targets view upsert id
CREATE TABLE orders (
  id BIGINT,
  customer BIGINT,
  amount DECIMAL(12, 2),
  price DOUBLE,
  region VARCHAR,
  paid BOOLEAN,
  at TIMESTAMP,
  PRIMARY KEY (id),
  WATERMARK FOR at AS at - INTERVAL '10 seconds'
) WITH (@debezium);

-- @query
SELECT id, customer, region, CAST(amount AS DECIMAL(12, 2)) AS amount, at FROM orders WHERE customer > 3
