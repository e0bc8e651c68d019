-- Union and distinct of a changelog.
-- @rows orders: 300 apart 300
-- @changes orders: debezium 40
-- @targets view
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
SELECT DISTINCT k FROM (SELECT customer AS k FROM orders WHERE paid UNION ALL SELECT id AS k FROM orders WHERE NOT paid)
