-- A row that is refused does not stand, nor does what it replaced.
-- @rows orders: 400 apart 300
-- @changes orders: debezium 60
-- @targets view
-- @accept orders: (amount > 0 OR amount IS NULL) AND customer IS NOT NULL
CREATE TABLE orders (
  id BIGINT,
  customer BIGINT NOT NULL,
  amount DECIMAL(12, 2),
  price DOUBLE,
  region VARCHAR,
  paid BOOLEAN,
  at TIMESTAMP,
  PRIMARY KEY (id),
  CHECK (amount > 0),
  WATERMARK FOR at AS at - INTERVAL '10 seconds'
) WITH (@debezium);

-- @query
SELECT region, count(*) AS n, sum(amount) AS total FROM orders GROUP BY region
