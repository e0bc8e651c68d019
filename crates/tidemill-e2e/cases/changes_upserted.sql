-- Records of which the last of a key counts, and deletions by a column, also of what is not there.
-- @rows orders: 400 apart 300
-- @changes orders: upsert 60
-- @targets view upsert id
CREATE TABLE orders (
  id BIGINT,
  customer BIGINT,
  amount DECIMAL(12, 2),
  price DOUBLE,
  region VARCHAR,
  paid BOOLEAN,
  gone BOOLEAN,
  at TIMESTAMP,
  PRIMARY KEY (id),
  WATERMARK FOR at AS at - INTERVAL '10 seconds'
) WITH (@upsert);

-- @query
SELECT id, customer, region, gone, at FROM orders WHERE region <> 'north'
